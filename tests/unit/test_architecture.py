"""docs/architecture.md leads to every package, and each package and module says what it is for."""

from __future__ import annotations

import ast
import re
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
    assert "must not" in docstring(SOURCE / package / "__init__.py").lower()


@pytest.mark.parametrize("module", MODULES)
def test_a_module_says_what_it_is_for(module: str) -> None:
    if not module.endswith("version.py"):
        assert docstring(SOURCE / module)


def test_it_names_every_module_at_the_top() -> None:
    modules = {path.stem for path in SOURCE.glob("*.py")} - {"__init__", "__main__", "version"}
    assert {name for name in modules if name not in DOCUMENT} == set()


def exists(name: str) -> bool:
    """Whether a module or a package has this name, with a class or a function of it at the end or not."""
    parts = name.split(".")
    for count in (len(parts), len(parts) - 1, len(parts) - 2):
        path = SOURCE.joinpath(*parts[:count])
        if count and path.with_suffix(".py").is_file():
            return all(re.search(rf"\b{part}\b", path.with_suffix(".py").read_text()) for part in parts[count:])
        if count and path.is_dir():
            return count == len(parts)
    return False


PATHS = sorted(set(re.findall(r"`([a-z_]+/[a-z_/]*?\w+\.py)`", DOCUMENT)))
DOTTED = sorted({name for name in re.findall(r"`([a-z]+\.[A-Za-z_.]+)`", DOCUMENT) if name.split(".")[0] in PACKAGES})
SYMBOLS = sorted(
    {
        (row[1], name)
        for row in re.finditer(r"`([a-z_/]+\.py)` \(([^)]*)\)", DOCUMENT)
        for name in re.findall(r"`(\w+)`", row[2])
    }
)
INNER = sorted(
    {
        (row[1], name)
        for row in re.finditer(r"^\| `(\w+)/` \|(.*)$", DOCUMENT, re.MULTILINE)
        for name in re.findall(r"`([a-z_/]+)`", row[2])
    }
)


@pytest.mark.parametrize("path", PATHS)
def test_a_file_that_it_names_exists(path: str) -> None:
    assert (SOURCE / path).is_file() or (SOURCE.parents[1] / path).is_file()


@pytest.mark.parametrize(("path", "name"), SYMBOLS)
def test_a_file_has_the_names_that_it_says(path: str, name: str) -> None:
    assert re.search(rf"^ *(?:def |class |(?:\w+, )*\w+ = |){name}\b", (SOURCE / path).read_text(), re.MULTILINE)


@pytest.mark.parametrize("name", DOTTED)
def test_a_module_that_it_names_exists(name: str) -> None:
    assert exists(name)


@pytest.mark.parametrize(("package", "name"), INNER)
def test_what_a_row_names_is_in_its_package(package: str, name: str) -> None:
    place = SOURCE / package
    last = name.strip("/").rpartition("/")[2]
    is_module = any(place.rglob(f"{last}.py")) or any(path.is_dir() for path in place.rglob(last))
    defined = re.compile(rf"^def {last}\(|^    {last}: ", re.MULTILINE)
    assert is_module or any(defined.search(path.read_text()) for path in place.rglob("*.py"))


def test_it_names_files_and_modules() -> None:
    assert len(PATHS) > 20
    assert len(DOTTED) > 30
    assert len(SYMBOLS) > 12
    assert len(INNER) > 100
