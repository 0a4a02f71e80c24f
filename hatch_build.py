"""What the wheel has besides the package: manual pages and the completion scripts of shells, made as it is built."""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class ShareHook(BuildHookInterface):  # type: ignore[type-arg]
    """Installed as share/man/man1/*.1 and in the directories where shells look for completions."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        top = Path(self.root)
        sys.path.insert(0, str(top / "src"))
        from lamina.cli import manual

        self.made = Path(tempfile.mkdtemp(prefix="lamina-share-"))
        codes = manual.exit_codes((top / "docs/exit-codes.md").read_text(encoding="utf-8"))
        files = {f"man/man1/{name}": page for name, page in manual.pages(codes).items()}
        files |= {manual.COMPLETION_FILES[shell]: manual.completion(shell) for shell in manual.SHELLS}
        for name, text in files.items():
            path = self.made / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8", newline="\n")
            build_data["shared_data"][str(path)] = f"share/{name}"

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        shutil.rmtree(self.made, ignore_errors=True)
