"""Rules of iptables that netavark leaves out. Nothing is done where there is no iptables: netavark then has rules of
its own."""

from __future__ import annotations

from lamina.light import TYPE_CHECKING
from lamina.run.networks.programs import alone, run_in
from lamina.run.runtime import find_program

if TYPE_CHECKING:
    from lamina.run.networks.place import Place
    from lamina.run.networks.record import Network

_APART = "NETAVARK_ISOLATION_1"
"""netavark's chain that drops what goes from one of its closed networks to another."""
_TO_APART = ["FORWARD", "-m", "comment", "--comment", "lamina: networks are closed to each other", "-j", _APART]


def guard_rules(network: Network) -> list[list[str]]:
    """The rules of iptables that close an internal bridge to every other interface, and for each the program (pure).
    netavark only closes the way out."""
    mark = ["-m", "comment", "--comment", "lamina: internal network"]
    return [
        [program, "-w", "FORWARD", first, network.interface, "!", second, network.interface, *mark, "-j", "DROP"]
        for program in _names(network)
        for first, second in (("-i", "-o"), ("-o", "-i"))
    ]


def guard(place: Place, network: Network, *, closed: bool) -> None:
    """Close an internal bridge, or remove these rules with the bridge."""
    for program, wait, chain, *rule in guard_rules(network):
        path = find_program(program)
        if not path:
            continue
        _set(place, [path, wait], [chain, *rule], there=closed)


def keep_apart(place: Place, network: Network) -> None:
    """Have packets of a closed network pass netavark's chain for good. netavark has one rule that leads there, and
    removes it with each closed network (seen with 1.4), also if there are others: these were open to each other
    then."""
    if not network.is_closed:
        return
    with alone(place):
        for program in _programs(network):
            _set(place, [program, "-w"], _TO_APART, there=True)


def end_apart(place: Place, network: Network) -> None:
    """Remove the rule of ``keep_apart`` if no network needs it any more."""
    if not network.is_closed:
        return
    with alone(place):
        for program in _programs(network):
            code, said, _ = run_in(place, [program, "-w", "-S", _APART])
            if not code and b"-A " not in said:
                run_in(place, [program, "-w", "-D", *_TO_APART])


def _set(place: Place, program: list[str], rule: list[str], *, there: bool) -> None:
    """Insert a rule that is not there, or remove one that is."""
    if (run_in(place, [*program, "-C", *rule])[0] == 0) != there:
        run_in(place, [*program, "-I" if there else "-D", *rule])


def _programs(network: Network) -> list[str]:
    """The paths of the programs for the network's subnets."""
    return [path for name in _names(network) if (path := find_program(name))]


def _names(network: Network) -> list[str]:
    return sorted({"iptables" if ":" not in one.subnet else "ip6tables" for one in network.subnets})
