"""Whether the kernel has killed something in a container because its memory was at its limit. A monitor loads this
module: it imports little.
"""

from __future__ import annotations

from lamina.light import TYPE_CHECKING

if TYPE_CHECKING:
    from lamina.run.cgroups import Cgroups


def oom_kills(cgroups: Cgroups | None) -> int:
    """How many processes of the container were killed for want of memory since its start. ``cgroups``: found while
    its first process lived (``run.cgroups.cgroups_of``). Ask before the runtime deletes the container."""
    if cgroups is None:
        return 0
    name = "memory.events" if cgroups.unified else "memory.oom_control"
    return cgroups.table("memory", name).get("oom_kill", 0)
