"""Families of options of `run` and `create`: each module has ``OPTIONS``, a part of the table, and ``parsed``.

``parsed`` turns what was given into fields of ``run.options.ContainerOptions``. A module is loaded at every start of
`run`, so it imports what it parses with only in ``parsed``, which is called only if one of its options was given. It
must not open a store or ask the host.
"""

from __future__ import annotations

from lamina.cli.containers.families import health, lifecycle, logging, networking, ports, together, volumes

FAMILIES = (
    lifecycle,
    health,
    logging,
    together,
    networking,
    volumes,
    ports,
)
