"""docs/architecture.md leads to every package, and each package and module says what it is for."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import lamina

SOURCE = Path(lamina.__file__).parent
DOCUMENT = (Path(__file__).parents[2] / "docs" / "architecture.md").read_text()
PACKAGES = sorted(str(path.parent.relative_to(SOURCE)) for path in SOURCE.glob("*/**/__init__.py"))
MODULES = sorted(str(path.relative_to(SOURCE)) for path in SOURCE.glob("**/*.py"))


def docstring(path: Path) -> str:
    return ast.get_docstring(ast.parse(path.read_text())) or ""


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_is_in_the_picture_and_says_what_it_must_not_know(package: str) -> None:
    name = package.rpartition("/")[2]
    assert f"`{name}/`" in DOCUMENT or ("/" in package and f"`{name}`" in DOCUMENT)
    if package != "cli":
        assert "must not" in docstring(SOURCE / package / "__init__.py").lower()


@pytest.mark.parametrize("module", MODULES)
def test_a_module_says_what_it_is_for(module: str) -> None:
    if not module.endswith("version.py"):
        assert docstring(SOURCE / module)


def test_names_what_stands_alone() -> None:
    modules = {path.stem for path in SOURCE.glob("*.py")} - {"__init__", "__main__", "version"}
    assert {name for name in modules if name not in DOCUMENT} == set()
