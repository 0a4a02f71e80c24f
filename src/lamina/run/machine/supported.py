"""Which options a virtual machine has (pure)."""

from __future__ import annotations

from lamina.errors import Unsupported
from lamina.light import as_dict
from lamina.run.options import CONTAINER, FILE, ContainerOptions

_ALL = frozenset(
    (
        *("command", "entrypoint", "env", "workdir", "user", "name", "interactive", "tty", "remove", "labels"),
        *("hostname", "network", "ports", "publish_address", "add_hosts", "dns", "dns_search", "dns_options"),
        *("memory", "cpus", "stop_signal", "stop_timeout", "restart", "log_driver", "log_options", "pidfile"),
        *("detach_keys", "attach", "annotations", "create_command", "kernel", "append", "machine", "detached"),
        *("cidfile", "no_hosts", "mounts", "volumes_from", "groups", "read_only"),
        *("networks", "expose", "publish_all"),
    )
)
_FLAGS = {
    "pids": "pids-limit", "unmask": "security-opt",
    "seccomp": "security-opt", "apparmor": "security-opt", "masked": "security-opt", "edits": "device",
    "devices": "device", "networks": "network", "health": "health-cmd", "oom_score": "oom-score-adj",
}  # fmt: skip


def check_supported(wanted: ContainerOptions) -> None:
    """Raises Unsupported."""
    default = as_dict(ContainerOptions())
    for name, value in as_dict(wanted).items():
        if name not in _ALL and value != default[name]:
            flag = _FLAGS.get(name, name.replace("_", "-"))
            raise Unsupported(f"a virtual machine has no --{flag}", hint="leave it out, or use `lamina run`")
    if wanted.network == "host" or wanted.network.startswith((CONTAINER, FILE)):
        raise Unsupported(
            f"a virtual machine has no --network {wanted.network:.50}",
            hint="use none, the name of a network, or leave it out",
        )
