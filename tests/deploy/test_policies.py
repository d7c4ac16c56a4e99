"""Who reaches whom in a cluster, as Kubernetes defines policies: on every pair of pods and every port."""

from tests.deploy.deployed import FOLLOWERS, Tree, of_kind, pods
from tests.deploy.overlays import ALL, EACH, SERVICES, listening, must_reach
from tests.deploy.policies import Policies, Stranger


@EACH
def test_nobody_is_reached_but_by_those_who_must(objects: tuple[Tree, ...]) -> None:
    policies = Policies(objects)
    pairs = {(source, target, port) for source in pods(objects) for target, port in listening(objects)}
    for source, target, port in pairs:
        assert policies.reaches(source, target, port) == must_reach(source, target, objects), (
            f"{source} -> {target}:{port}"
        )
    assert {(target, port) for target, port in listening(objects) if target in ("broker", "inspector")} == {
        ("broker", 8080),
        ("inspector", 8090),
    }


@EACH
def test_only_prepare_reaches_the_outside_and_only_proxy_and_prometheus_come_in(objects: tuple[Tree, ...]) -> None:
    policies, names = Policies(objects), set(pods(objects))
    outside, neighbour = Stranger(None, {}), Stranger("default", {"app": "somebody"})
    external_redis = "redis" not in names
    ours = {name for name in names if name.partition("-")[0] in SERVICES and not name.endswith(FOLLOWERS)}
    assert {name for name in names if policies.leaves(name, outside, 443)} == {"prepare"}
    assert {name for name in names if policies.leaves(name, outside, 6380)} == (ours if external_redis else set())
    assert not [name for name in names if policies.leaves(name, outside, 80) or policies.leaves(name, neighbour, 8080)]
    dns = Stranger("kube-system", {"k8s-app": "kube-dns"})
    assert all(policies.leaves(name, dns, 53, "UDP") for name in names)
    kinds = {each["kind"] for each in objects}
    proxy, prometheus = Stranger("ingress-nginx", {}), Stranger("monitoring", {})
    for target, port in listening(objects):
        assert not policies.enters(neighbour, target, port) and not policies.enters(outside, target, port)
        assert policies.enters(proxy, target, port) == ("Ingress" in kinds and target in ("broker", "inspector"))
        assert policies.enters(prometheus, target, port) == ("PodMonitor" in kinds and target != "redis")


def test_ranks_of_a_group_are_told_which_they_are_and_reach_no_other_group() -> None:
    objects = ALL["gpu-nodes"]
    policies, found = Policies(objects), pods(objects)
    for student in ("a", "b"):
        group = of_kind(objects, "LeaderWorkerSet")[f"trainer-{student}"]["spec"]["leaderWorkerTemplate"]
        gpus = 0
        for name in (f"trainer-{student}", f"trainer-{student}{FOLLOWERS}"):
            container = found[name]["spec"]["containers"][0]
            told = {each["name"]: each.get("value") for each in container["env"]}
            assert told["OPCOD_NODES"] == "$(LWS_GROUP_SIZE)" and told["OPCOD_NODE_RANK"] == "$(LWS_WORKER_INDEX)"
            assert told["OPCOD_RENDEZVOUS"] == "$(LWS_LEADER_ADDRESS):29400"
            assert found[name]["metadata"]["labels"]["opcod/student"] == student
            assert container["image"] == "opcod-model:0.1.0-gpu"
            gpus = container["resources"]["limits"]["nvidia.com/gpu"]
            assert policies.reaches(name, f"trainer-{student}", 29400)
            assert not policies.reaches(name, f"trainer-{'ab'.replace(student, '')}", 29400)
        ranks = of_kind(objects, "ConfigMap")["opcod-environment"]["data"]["OPCOD_SET_TRAINER__RANKS"]
        assert int(ranks) == group["size"] * gpus
        # Where only the first pod listens, probes of the others would end them.
        assert not {"livenessProbe", "readinessProbe", "startupProbe"} & set(container)
        assert group["restartPolicy"] == "RecreateGroupAfterStart"
    # The controller's own leads to pods that are not ready, too; one of ours would be taken in its place.
    assert not {"trainer-a", "trainer-b"} & set(of_kind(objects, "Service", "StatefulSet"))


def test_a_missing_policy_is_seen() -> None:
    fewer = tuple(each for each in ALL["laptop-cpu"] if each["metadata"]["name"] != "broker-and-inspector")
    assert Policies(ALL["laptop-cpu"]).reaches("inspector", "broker", 8080)
    assert not Policies(fewer).reaches("inspector", "broker", 8080)
    assert not Policies(fewer).reaches("broker", "inspector", 8090)
    open_ = tuple(each for each in ALL["laptop-cpu"] if each["kind"] != "NetworkPolicy")
    assert Policies(open_).reaches("trainer-a", "broker", 8080)


def test_outside_is_only_reached_over_tls() -> None:
    ingresses = of_kind(ALL["with ingress"], "Ingress")
    for ingress in ingresses.values():
        hosts = {rule["host"] for rule in ingress["spec"]["rules"]}
        assert {host for entry in ingress["spec"]["tls"] for host in entry["hosts"]} == hosts
    assert len(ingresses) == 1
    for objects in ALL.values():
        assert {service["spec"].get("type", "ClusterIP") for service in of_kind(objects, "Service").values()} == {
            "ClusterIP"
        }
