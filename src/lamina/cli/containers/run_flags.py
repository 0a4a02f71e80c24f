"""The less common options of `run` as fields of ``run.options.ContainerOptions``. Imported only if one is given."""

from __future__ import annotations

from lamina.errors import UsageError
from lamina.light import TYPE_CHECKING
from lamina.run import options

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


def fields(given: dict[str, Any], on_warning: Callable[[str], object]) -> dict[str, Any]:
    """Return the fields of ``ContainerOptions``. Raises UsageError, NotFound (a file, a CDI device), InvalidDocument,
    SystemFailure."""
    return {
        **_labels(given),
        **_devices(given, on_warning),
        **_dns(given),
        **_limits(given),
        **_end(given),
        **{kind: options.parse_namespace(given[kind], kind) for kind in ("pid", "ipc", "uts", "cgroupns")},
        "domainname": options.parse_hostname(given["domainname"]),
    }


def _labels(given: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, str] = {}
    for path in given["label_file"]:
        found |= options.parse_label_file(text_of(path))
    return {"labels": {**found, **options.parse_labels(given["label"])}}


def _devices(given: dict[str, Any], on_warning: Callable[[str], object]) -> dict[str, Any]:
    if not (given["device"] or given["gpus"]):
        return {}
    from lamina.run import cdi
    from lamina.run.devices import parse_device

    names = [word for word in given["device"] if cdi.is_name(word)]
    devices = tuple(parse_device(word) for word in given["device"] if not cdi.is_name(word))
    if given["gpus"]:
        names += cdi.gpus(given["gpus"])
    return {"devices": devices, "edits": cdi.edits_of(names, on_warning=on_warning) if names else options.Edits()}


def _dns(given: dict[str, Any]) -> dict[str, Any]:
    if not (given["dns"] or given["dns_search"] or given["dns_option"]):
        return {}
    from lamina.run.dns import parse_server, parse_word

    return {
        "dns": tuple(map(parse_server, given["dns"])),
        "dns_search": tuple(parse_word(word, "--dns-search") for word in given["dns_search"]),
        "dns_options": tuple(parse_word(word, "--dns-option") for word in given["dns_option"]),
    }


def _limits(given: dict[str, Any]) -> dict[str, Any]:
    from lamina.run import limits

    memory = options.parse_memory(given["memory"]) if given["memory"] else None
    size, reserved, swap = given["shm_size"], given["memory_reservation"], given["memory_swap"]
    shares, score = given["cpu_shares"], given["oom_score_adj"]
    period, quota = given["cpu_period"], given["cpu_quota"]
    return {
        "ulimits": tuple(map(limits.parse_ulimit, given["ulimit"])),
        "sysctls": tuple(map(limits.parse_sysctl, given["sysctl"])),
        "shm_size": (options.parse_size(size) or None) if size else None,
        "memory_reservation": options.parse_memory(reserved) if reserved else None,
        "memory_swap": limits.parse_memory_swap(swap, memory) if swap else None,
        "oom_score": limits.parse_oom_score(score) if score else None,
        "cpu_period": limits.parse_period(period) if period else None,
        "cpu_quota": limits.parse_quota(quota) if quota else None,
        "cpu_shares": limits.parse_shares(shares) if shares else None,
        "cpuset_cpus": limits.parse_cpus_set(given["cpuset_cpus"], "--cpuset-cpus"),
        "cpuset_mems": limits.parse_cpus_set(given["cpuset_mems"], "--cpuset-mems"),
    }


def _end(given: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if given["stop_signal"]:
        from lamina.run.signals import parse_signal

        parse_signal(given["stop_signal"])
        found["stop_signal"] = given["stop_signal"]
    if given["stop_timeout"]:
        from lamina.run.limits import parse_stop_timeout

        found["stop_timeout"] = parse_stop_timeout(given["stop_timeout"])
    return found


_LINES = "give a text file with one KEY=VALUE per line"


def text_of(path: str) -> str:
    """Read a text file. Raises UsageError (not UTF-8), SystemFailure."""
    from lamina.host.files import reported

    with reported(path), open(path, "rb") as file:
        data = file.read()
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UsageError(f"{path!r:.200} is not text: byte {error.start} is not UTF-8", hint=_LINES) from None
