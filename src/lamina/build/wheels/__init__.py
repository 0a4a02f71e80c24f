"""Python wheels as layers: a lock file names the wheels, each becomes one layer, and no program runs. The same wheel
for the same Python gives the same bytes, so images share the wheels that they pin. Must not know the command line.
"""

from __future__ import annotations

from lamina.errors import Unsupported


def require_extra() -> None:
    """Raises Unsupported if the packages that read wheels are not installed."""
    try:
        import installer
        import packaging  # noqa: F401
    except ImportError as error:
        raise Unsupported(f"wheels need the package {error.name}", hint="pip install 'lamina[wheels]'") from None
    del installer
