"""Pods as the tests look at them: what a container is told, where it listens, what it sees."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from minedraft.config import CoordinatorSettings, DrafterSettings, HttpSettings, ProcessSettings, VerifierSettings
from tests.deploy.kustomize import Object
from tests.deploy.variants import Variants

SETTINGS: dict[str, type[ProcessSettings]] = {
    "coordinator": CoordinatorSettings,
    "verifier": VerifierSettings,
    "drafter": DrafterSettings,
    "http": HttpSettings,
}
POD_IP = "10.1.2.3"
UNITS = {"": 1.0, "m": 1e-3, "Ki": 2.0**10, "Mi": 2.0**20, "Gi": 2.0**30}


@dataclass(frozen=True)
class Container:
    """One container of a pod, with what its ConfigMap says."""

    pod: Pod
    spec: Object
    environment: dict[str, str]

    @property
    def name(self) -> str:
        return str(self.spec["name"])

    @property
    def ports(self) -> dict[str, int]:
        return {port["name"]: port["containerPort"] for port in self.spec.get("ports", [])}

    @property
    def mounts(self) -> dict[str, Object]:
        """Volumes by the paths that they are mounted at."""
        volumes = {volume["name"]: volume for volume in self.pod.spec["volumes"]}
        return {mount["mountPath"]: volumes[mount["name"]] for mount in self.spec.get("volumeMounts", [])}

    def probes(self) -> dict[str, Object]:
        return {
            kind: self.spec[kind] for kind in ("startupProbe", "readinessProbe", "livenessProbe") if kind in self.spec
        }

    def port(self, given: int | str) -> int:
        return self.ports[given] if isinstance(given, str) else given


@dataclass(frozen=True)
class Pod:
    """The pods of one Deployment."""

    deployment: Object
    config_maps: dict[str, dict[str, str]]

    @property
    def name(self) -> str:
        return str(self.deployment["metadata"]["name"])

    @property
    def labels(self) -> dict[str, str]:
        return dict(self.deployment["spec"]["template"]["metadata"]["labels"])

    @property
    def spec(self) -> Object:
        return dict(self.deployment["spec"]["template"]["spec"])

    def containers(self, *, initial: bool = False) -> list[Container]:
        return [
            Container(self, each, self._told(each))
            for each in self.spec.get("initContainers" if initial else "containers", [])
        ]

    def _told(self, container: Object) -> dict[str, str]:
        told: dict[str, str] = {}
        for source in container.get("envFrom", []):
            told |= self.config_maps[source["configMapRef"]["name"]]
        for one in container.get("env", []):
            if "valueFrom" in one:
                assert one["valueFrom"] == {"fieldRef": {"fieldPath": "status.podIP"}}
            told[one["name"]] = one.get("value", POD_IP)
        return told


def pods(variants: Variants, variant: str) -> list[Pod]:
    maps = {each["metadata"]["name"]: each["data"] for each in variants.of(variant, "ConfigMap")}
    return [Pod(each, maps) for each in variants.of(variant, "Deployment")]


def containers(variants: Variants, variant: str) -> Iterator[Container]:
    for pod in pods(variants, variant):
        yield from pod.containers()


def matches(selector: Object, labels: dict[str, str]) -> bool:
    """Whether a label selector chooses these labels."""
    known = {"matchLabels", "matchExpressions"}
    assert set(selector) <= known, selector
    for rule in selector.get("matchExpressions", []):
        assert rule["operator"] == "In", rule
        if labels.get(rule["key"]) not in rule["values"]:
            return False
    return all(labels.get(key) == value for key, value in selector.get("matchLabels", {}).items())


def quantity(text: Any) -> float:
    """Kubernetes' way of writing amounts, as a number."""
    found = re.fullmatch(r"(\d+)(m|Ki|Mi|Gi)?", str(text))
    assert found, text
    return int(found[1]) * UNITS[found[2] or ""]
