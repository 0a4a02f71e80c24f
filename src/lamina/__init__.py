"""lamina: look into, change, move and run container images.

>>> image = lamina.open("debian:12")
>>> image.fs.cat("/etc/os-release")
"""

from __future__ import annotations

TYPE_CHECKING = False  # a module costs most commands more time than it has use for `typing`

if TYPE_CHECKING:
    from typing import Any

    from lamina.builds import Build
    from lamina.errors import LaminaError
    from lamina.image import Image, Layer, RunResult, container, containers, images, open
    from lamina.insight.compare import Diff
    from lamina.living import Container, ExecResult, LogLine
    from lamina.places import open_store
    from lamina.registry import Registry, pull, push
    from lamina.version import __version__
    from lamina.view.path import ImagePath

__all__ = [
    "Build",
    "Container",
    "Diff",
    "ExecResult",
    "Image",
    "ImagePath",
    "LaminaError",
    "Layer",
    "LogLine",
    "Registry",
    "RunResult",
    "__version__",
    "container",
    "containers",
    "images",
    "open",
    "open_store",
    "pull",
    "push",
]

_HOMES = {
    "Build": "lamina.builds",
    "open": "lamina.image",
    "images": "lamina.image",
    "Container": "lamina.living",
    "ExecResult": "lamina.living",
    "LogLine": "lamina.living",
    "container": "lamina.image",
    "containers": "lamina.image",
    "RunResult": "lamina.image",
    "open_store": "lamina.places",
    "Image": "lamina.image",
    "Layer": "lamina.image",
    "Diff": "lamina.insight.compare",
    "ImagePath": "lamina.view.path",
    "LaminaError": "lamina.errors",
    "__version__": "lamina.version",
    "Registry": "lamina.registry",
    "pull": "lamina.registry",
    "push": "lamina.registry",
}


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'lamina' has no attribute {name!r}")
    import importlib

    value = getattr(importlib.import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
