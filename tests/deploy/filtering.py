"""Network policies as rules of nftables, for a node that forwards what pods send each other.

What always holds: a connection is judged where it begins and where it ends. An end that policies select in a direction
has a chain of its own for it, which lets through what one of them lists and refuses the rest; one that none selects has
no chain, and is open. Answers of a connection that was let through pass.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from tests.deploy.deployed import Tree, of_kind
from tests.deploy.policies import DIRECTIONS, selects

NAMESPACE = "opcod"
FIELDS = {"Egress": ("saddr", "daddr"), "Ingress": ("daddr", "saddr")}
"""Of a packet: where the address of the end that is judged stands, and where that of the other one."""


@dataclass(frozen=True)
class End:
    """Somebody with an IPv4 address. namespace: None for who is outside the cluster. ports: numbers of a pod's named
    ports."""

    name: str
    address: str
    namespace: str | None
    labels: Mapping[str, str] = field(default_factory=dict)
    ports: Mapping[str, int] = field(default_factory=dict)


def ruleset(objects: tuple[Tree, ...], ends: Sequence[End]) -> str:
    """For `nft -f`: what the NetworkPolicies among the objects mean for these ends."""
    policies = [each["spec"] for each in of_kind(objects, "NetworkPolicy").values()]
    jumps, chains = [], []
    for end in ends:
        for direction, (own, _) in FIELDS.items():
            selecting = [each for each in policies if direction in each["policyTypes"] and _selected(each, end)]
            if not selecting:
                continue
            name = f"{direction.lower()}-{end.name}"
            rules = [rule for each in selecting for rule in each.get(direction.lower(), [])]
            lines = [line for rule in rules for line in _lines(rule, direction, end, ends)]
            jumps.append(f"ip {own} {end.address} jump {name}")
            chains.append(_chain(name, [*lines, "reject with icmp type admin-prohibited"]))
    forward = ["type filter hook forward priority 0", "ct state established,related accept", *jumps]
    return "\n".join(["table ip policies {", *chains, _chain("forward", forward), "}\n"])


def _chain(name: str, lines: list[str]) -> str:
    return "\n".join([f"chain {name} {{", *(f"  {line}" for line in lines), "}"])


def _selected(policy: Tree, end: End) -> bool:
    return end.namespace == NAMESPACE and selects(policy["podSelector"], end.labels)


def _lines(rule: Tree, direction: str, own: End, ends: Sequence[End]) -> Iterator[str]:
    """`return` goes on with the other end's chain."""
    peers = rule.get(DIRECTIONS[direction])
    for matched in [""] if peers is None else [_peer(each, FIELDS[direction][1], ends) for each in peers]:
        for port in [""] if "ports" not in rule else _ports(rule["ports"], direction, own):
            if matched is not None:
                yield f"{matched} {port} return".strip()


def _peer(peer: Tree, other: str, ends: Sequence[End]) -> str | None:
    """A match of the other end's address; None: nobody is meant."""
    if "ipBlock" in peer:
        block = peer["ipBlock"]
        excepted = f" ip {other} != {_set(block['except'])}" if "except" in block else ""
        return f"ip {other} {block['cidr']}{excepted}"
    meant = [end.address for end in ends if _is_meant(peer, end)]
    return f"ip {other} {_set(meant)}" if meant else None


def _is_meant(peer: Tree, end: End) -> bool:
    assert peer and set(peer) <= {"podSelector", "namespaceSelector"}, peer
    if end.namespace is None:
        return False
    of_namespace = {"kubernetes.io/metadata.name": end.namespace}
    there = (
        selects(peer["namespaceSelector"], of_namespace) if "namespaceSelector" in peer else end.namespace == NAMESPACE
    )
    return there and selects(peer.get("podSelector", {}), end.labels)


def _ports(ports: list[Tree], direction: str, own: End) -> Iterator[str]:
    """A name is one of the end that listens."""
    for each in ports:
        assert set(each) <= {"port", "protocol"}, each
        assert direction == "Ingress" or isinstance(each["port"], int), f"{each}: egress goes by numbers here"
        number = own.ports.get(each["port"], each["port"])
        if isinstance(number, int):
            yield f"{each.get('protocol', 'TCP').lower()} dport {number}"


def _set(values: Sequence[str]) -> str:
    return "{ " + ", ".join(values) + " }"
