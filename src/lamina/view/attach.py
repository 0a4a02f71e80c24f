"""An EROFS image and the tars that it points into, mounted: from the files themselves (Linux from 6.12, and file
systems that allow it: not overlayfs or tmpfs), else from loop devices (from 6.4). Root."""

from __future__ import annotations

from collections.abc import Sequence

from lamina.errors import SystemFailure, Unsupported
from lamina.view import kernel

FILES, LOOPS = "files", "loop devices"


def mount_erofs(image: str, tars: Sequence[str], target: str, *, sources: Sequence[str] = (FILES, LOOPS)) -> str:
    """Mount at the directory ``target``; from which of ``sources`` it was. Raises SystemFailure, Unsupported."""
    paths = [image, *tars]
    refused: list[SystemFailure | Unsupported] = []
    for source in sources:
        try:
            if source == FILES:
                _mount(paths, target)
            else:
                from lamina.view import loop

                with loop.attached(paths) as devices:
                    _mount(devices, target)
            return source
        except (SystemFailure, Unsupported) as error:
            refused.append(error)
    if len(refused) == 1 or isinstance(refused[-1], Unsupported):
        raise refused[0]  # no loop devices: say only why files did not do
    raise SystemFailure(f"{refused[0].message}; from loop devices: {refused[1].message}", hint=refused[0].hint)


def _mount(paths: Sequence[str], target: str) -> None:
    options: list[tuple[str, str | None]] = [("ro", None), ("source", paths[0])]
    options += [("device", path) for path in paths[1:]]
    attributes = kernel.READ_ONLY | kernel.NO_SETUID | kernel.NO_DEVICES
    try:
        # read past the tars' own page cache: else every byte is kept twice
        kernel.mount("erofs", [*options, ("directio", None)], target, attributes=attributes)
    except SystemFailure:
        kernel.mount("erofs", options, target, attributes=attributes)
