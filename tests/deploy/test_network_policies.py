"""Who reaches whom, by the rules of NetworkPolicy: what must work is allowed on both sides, everything else is not."""

from __future__ import annotations

from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network

import pytest

from tests.deploy.kustomize import Object
from tests.deploy.pods import Pod, matches, pods
from tests.deploy.variants import Variants

OURS = "minedraft"
CHANNEL_PORTS = (32768, 40000, 49999)


@dataclass(frozen=True)
class Party:
    """Somebody who talks: a pod, or with `address` something outside the cluster."""

    name: str
    labels: dict[str, str] = field(default_factory=dict)
    namespace: str = "elsewhere"
    namespace_labels: dict[str, str] = field(default_factory=dict)
    address: str = ""


CLIENT = Party("client", {"minedraft-client": "true"}, OURS)
FAR_CLIENT = Party("far client", namespace_labels={"minedraft-client": "true"})
IMPOSTOR = Party("impostor", {"minedraft-client": "true"})  # the label on a pod of another namespace
STRANGER = Party("stranger", {"app.kubernetes.io/name": "minedraft", "app.kubernetes.io/component": "coordinator"})
PROMETHEUS = Party("prometheus", namespace="monitoring", namespace_labels={"kubernetes.io/metadata.name": "monitoring"})
DNS = Party("dns", {"k8s-app": "kube-dns"}, "kube-system", {"kubernetes.io/metadata.name": "kube-system"})
INDEX = Party("package index", address="151.101.0.223")
METADATA = Party("cloud metadata", address="169.254.169.254")
OUTSIDERS = (CLIENT, FAR_CLIENT, IMPOSTOR, STRANGER, PROMETHEUS, DNS, INDEX, METADATA)


def party(pod: Pod) -> Party:
    return Party(pod.name, pod.labels, OURS)


def allowed(policies: list[Object], source: Party, target: Party, port: int, protocol: str = "TCP") -> bool:
    """Whether a connection is let out by its source and let in by its target."""
    return _passes(policies, "Egress", source, target, port, protocol) and _passes(
        policies, "Ingress", target, source, port, protocol
    )


def _passes(policies: list[Object], way: str, inside: Party, other: Party, port: int, protocol: str) -> bool:
    if inside.namespace != OURS or inside is CLIENT:
        return True  # not ours to say
    applying = [
        each["spec"]
        for each in policies
        if way in each["spec"]["policyTypes"] and matches(each["spec"]["podSelector"], inside.labels)
    ]
    if not applying:
        return True
    rules = [rule for spec in applying for rule in spec.get(way.lower(), [])]
    peers = "from" if way == "Ingress" else "to"
    return any(
        any(_is(peer, other) for peer in rule[peers]) and any(_covers(one, port, protocol) for one in rule["ports"])
        for rule in rules
    )


def _is(peer: Object, other: Party) -> bool:
    if "ipBlock" in peer:
        return bool(other.address) and _within(other.address, peer["ipBlock"])
    if other.address:
        return False
    if "namespaceSelector" in peer:
        if not matches(peer["namespaceSelector"], other.namespace_labels):
            return False
    elif other.namespace != OURS:
        return False
    return matches(peer.get("podSelector", {}), other.labels)


def _within(address: str, block: Object) -> bool:
    found = ip_address(address)
    return found in ip_network(block["cidr"]) and not any(found in ip_network(net) for net in block.get("except", []))


def _covers(rule: Object, port: int, protocol: str) -> bool:
    first = int(rule["port"])
    return rule.get("protocol", "TCP") == protocol and first <= port <= int(rule.get("endPort", first))


def ports_of(pod: Pod) -> dict[str, int]:
    """By the container's name for what it listens on, by `metrics of ...` for its metrics."""
    found = {}
    for container in pod.containers():
        for prefix, name in (("", "MINEDRAFT_LISTEN"), ("metrics of ", "MINEDRAFT_METRICS")):
            found[prefix + container.name] = int(container.environment[name].rpartition(":")[2])
    return found


def wanted(variants: Variants, variant: str) -> set[tuple[str, str, int]]:
    """Every connection that must work: source, target, port."""
    found = pods(variants, variant)
    by_container = {container.name: pod for pod in found for container in pod.containers()}
    flows = set()

    def flow(source: str, target: str) -> None:
        pod = by_container[target]
        flows.add((by_container[source].name if source in by_container else source, pod.name, ports_of(pod)[target]))

    for source, target in (("coordinator", "verifier"), ("coordinator", "drafter"), ("http", "coordinator")):
        flow(source, target)
    for target in ("coordinator", "http"):
        flow(CLIENT.name, target)
        flow(FAR_CLIENT.name, target)
    for pod in found:
        flows |= {
            (PROMETHEUS.name, pod.name, port) for name, port in ports_of(pod).items() if name.startswith("metrics")
        }
    models = [by_container["verifier"], by_container["drafter"]]
    flows |= {(one.name, other.name, port) for one, other in (models, reversed(models)) for port in CHANNEL_PORTS}
    return flows


def test_what_must_work_does_and_nothing_else(variants: Variants, variant: str) -> None:
    policies = variants.of(variant, "NetworkPolicy")
    found = pods(variants, variant)
    everyone = [*OUTSIDERS, *map(party, found)]
    nobodys = {22, 443, 32767, 50000, 50053, 60000}
    works = {
        (source.name, pod.name, port)
        for source in everyone
        for pod in found
        for port in {*ports_of(pod).values(), *CHANNEL_PORTS, *nobodys}
        if allowed(policies, source, party(pod), port)
    }
    assert works == wanted(variants, variant)


def test_pods_reach_names_and_little_else(variants: Variants, variant: str) -> None:
    policies = variants.of(variant, "NetworkPolicy")
    for pod in pods(variants, variant):
        source = party(pod)
        assert allowed(policies, source, DNS, 53, "UDP")
        assert allowed(policies, source, DNS, 53)
        assert not allowed(policies, source, DNS, 443)
        assert not allowed(policies, source, METADATA, 80)
        assert not allowed(policies, source, METADATA, 443)
        fetches = bool(pod.containers(initial=True))
        assert allowed(policies, source, INDEX, 443) == fetches
        assert not allowed(policies, source, INDEX, 80)


def test_channels_use_the_ports_that_are_open(variants: Variants, variant: str) -> None:
    for pod in pods(variants, variant):
        if {"minedraft-verifier", "minedraft-drafter"} & set(pod.labels):
            (sysctl,) = pod.spec["securityContext"]["sysctls"]
            assert sysctl["name"] == "net.ipv4.ip_local_port_range"
            first, last = map(int, sysctl["value"].split())
            assert (first, last) == (CHANNEL_PORTS[0], CHANNEL_PORTS[-1])
            assert not any(first <= port <= last for port in ports_of(pod).values())


@pytest.mark.parametrize("name", ["default-deny", "coordinator", "verifier", "drafter", "http", "metrics", "dns"])
def test_each_policy_is_needed(variants: Variants, name: str) -> None:
    policies = variants.of("cpu", "NetworkPolicy")
    without = [each for each in policies if each["metadata"]["name"] != name]
    assert len(without) == len(policies) - 1
    found = [party(pod) for pod in pods(variants, "cpu")]
    asked = [(source, target) for source in [*OUTSIDERS, *found] for target in [*found, DNS, INDEX]]
    numbers = (53, 443, 8000, 9050, 40000, 50050, 50052)
    if name == "default-deny":  # it alone holds back pods that no other policy is for
        other = Party("a debugging pod", {}, OURS)
        assert not allowed(policies, other, INDEX, 443)
        assert allowed(without, other, INDEX, 443) is False  # `dns` is for every pod too
        assert allowed([each for each in without if each["metadata"]["name"] != "dns"], other, INDEX, 443)
        return
    changed = [
        (source.name, target.name, port)
        for source, target in asked
        for port in numbers
        if allowed(policies, source, target, port) != allowed(without, source, target, port)
    ]
    assert changed
