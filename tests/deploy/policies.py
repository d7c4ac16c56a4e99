"""Who may reach whom in a cluster, by the network policies as Kubernetes defines them.

A connection passes if the policies of both ends let it: those that select the pod in that direction, together; a pod
that none selects is open. Peers are pods of the one namespace, or anybody else: another namespace, or the outside.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from tests.deploy.deployed import Tree, of_kind, pods

DIRECTIONS = {"Ingress": "from", "Egress": "to"}


@dataclass(frozen=True)
class Stranger:
    """Somebody who is no pod of ours: of a namespace, or at an address outside the cluster."""

    namespace: str | None
    labels: Mapping[str, str]


@dataclass(frozen=True)
class Policies:
    """Of the objects of one overlay."""

    objects: tuple[Tree, ...]

    def reaches(self, source: str, target: str, port: int) -> bool:
        """Whether pods of one workload may connect to a TCP port of another's."""
        return self._lets("Egress", source, self._labels(target), port, self._ports(target)) and self._lets(
            "Ingress", target, self._labels(source), port, self._ports(target)
        )

    def leaves(self, source: str, target: Stranger, port: int, protocol: str = "TCP") -> bool:
        return self._lets("Egress", source, target, port, {}, protocol)

    def enters(self, source: Stranger, target: str, port: int) -> bool:
        return self._lets("Ingress", target, source, port, self._ports(target))

    def _lets(
        self,
        direction: str,
        own: str,
        other: Mapping[str, str] | Stranger,
        port: int,
        names: Mapping[str, int],
        protocol: str = "TCP",
    ) -> bool:
        """names: numbers of the ports that the end which listens has names for."""
        policies = [
            policy["spec"]
            for policy in of_kind(self.objects, "NetworkPolicy").values()
            if direction in policy["spec"]["policyTypes"] and selects(policy["spec"]["podSelector"], self._labels(own))
        ]
        rules = [rule for policy in policies for rule in policy.get(direction.lower(), [])]
        return not policies or any(
            _is_peer(rule.get(DIRECTIONS[direction]), other) and _is_port(rule.get("ports"), port, names, protocol)
            for rule in rules
        )

    def _labels(self, workload: str) -> Mapping[str, str]:
        labels: Mapping[str, str] = pods(self.objects)[workload]["metadata"]["labels"]
        return labels

    def _ports(self, workload: str) -> dict[str, int]:
        containers = pods(self.objects)[workload]["spec"]["containers"]
        return {port["name"]: port["containerPort"] for each in containers for port in each.get("ports", [])}


def selects(selector: Tree, labels: Mapping[str, str]) -> bool:
    """An empty selector selects everything."""
    assert set(selector) <= {"matchLabels", "matchExpressions"}
    wanted = selector.get("matchLabels", {}).items()
    return wanted <= labels.items() and all(_fits(each, labels) for each in selector.get("matchExpressions", []))


def _fits(expression: Tree, labels: Mapping[str, str]) -> bool:
    assert expression["operator"] == "In", expression
    return labels.get(expression["key"]) in expression["values"]


def _is_peer(peers: list[Tree] | None, other: Mapping[str, str] | Stranger) -> bool:
    return peers is None or any(_is(peer, other) for peer in peers)


def _is(peer: Tree, other: Mapping[str, str] | Stranger) -> bool:
    if not isinstance(other, Stranger):
        return set(peer) == {"podSelector"} and selects(peer["podSelector"], other)
    if other.namespace is None:
        return "ipBlock" in peer
    if "namespaceSelector" not in peer:
        return False
    there = {"kubernetes.io/metadata.name": other.namespace}
    return selects(peer["namespaceSelector"], there) and selects(peer.get("podSelector", {}), other.labels)


def _is_port(ports: list[Tree] | None, port: int, names: Mapping[str, int], protocol: str) -> bool:
    return ports is None or any(
        each.get("protocol", "TCP") == protocol and names.get(each["port"], each["port"]) == port for each in ports
    )
