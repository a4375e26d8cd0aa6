"""How pods come, go, are chosen and are confined."""

from __future__ import annotations

import json

from minedraft.config import EngineSettings
from minedraft.model_service import CLOSE_SECONDS
from tests.deploy.pods import SETTINGS, containers, matches, pods, quantity
from tests.deploy.variants import Variants


class TestLife:
    def test_time_to_leave(self, variants: Variants, variant: str) -> None:
        for container in containers(variants, variant):
            before = container.spec.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
            grace = float(container.environment["MINEDRAFT_GRACE_SECONDS"])
            assert container.pod.spec["terminationGracePeriodSeconds"] >= before + grace + CLOSE_SECONDS
            assert (before > 0) == (container.name in {"coordinator", "http"})  # whom clients find by a ClusterIP

    def test_one_comes_before_one_goes(self, variants: Variants, variant: str) -> None:
        for each in variants.of(variant, "Deployment"):
            assert each["spec"]["strategy"]["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}

    def test_selectors_choose_their_own_pods(self, variants: Variants, variant: str) -> None:
        found = pods(variants, variant)
        for each in variants.of(variant, "Deployment"):
            chosen = [pod.name for pod in found if matches(each["spec"]["selector"], pod.labels)]
            assert chosen == [each["metadata"]["name"]]
        for pod in found:
            for spread in pod.spec.get("topologySpreadConstraints", []):
                assert matches(spread["labelSelector"], pod.labels)
        for service in variants.of(variant, "Service"):
            selector = {"matchLabels": service["spec"]["selector"]}
            (chosen_pod,) = [pod for pod in found if matches(selector, pod.labels)]
            for port in service["spec"]["ports"]:
                assert any(port["targetPort"] in container.ports for container in chosen_pod.containers())

    def test_every_pod_has_one_budget_that_lets_nodes_be_drained(self, variants: Variants, variant: str) -> None:
        budgets = [each["spec"] for each in variants.of(variant, "PodDisruptionBudget")]
        for pod in pods(variants, variant):
            (budget,) = [each for each in budgets if matches(each["selector"], pod.labels)]
            assert budget["maxUnavailable"] == 1
            assert "minAvailable" not in budget
        assert len(budgets) == len(pods(variants, variant))

    def test_autoscalers_have_what_they_scale(self, variants: Variants, variant: str) -> None:
        deployments = {each["metadata"]["name"]: each["spec"] for each in variants.of(variant, "Deployment")}
        scaled = set()
        for each in variants.of(variant, "HorizontalPodAutoscaler"):
            name = each["spec"]["scaleTargetRef"]["name"]
            scaled.add(name)
            assert "replicas" not in deployments[name], "applying it again would undo the autoscaler"
            assert 1 <= each["spec"]["minReplicas"] < each["spec"]["maxReplicas"]
            for metric in each["spec"]["metrics"]:
                assert metric["type"] == "Pods"
                assert 0 < quantity(metric["pods"]["target"]["averageValue"]) < 1, "busy is at most 1"
        models = {
            pod.name for pod in pods(variants, variant) if {"minedraft-verifier", "minedraft-drafter"} & set(pod.labels)
        }
        assert scaled == models


class TestHardening:
    def test_every_pod_is_restricted(self, variants: Variants, variant: str) -> None:
        (namespace,) = variants.of(variant, "Namespace")
        assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
        for pod in pods(variants, variant):
            security = pod.spec["securityContext"]
            assert security["runAsNonRoot"]
            assert {security[name] for name in ("runAsUser", "runAsGroup", "fsGroup")} == {10001}
            assert security["seccompProfile"] == {"type": "RuntimeDefault"}
            assert pod.spec["automountServiceAccountToken"] is False
            assert pod.spec["enableServiceLinks"] is False
            assert not {"hostNetwork", "hostIPC", "hostPID"} & set(pod.spec)
            (account,) = variants.of(variant, "ServiceAccount")
            assert pod.spec["serviceAccountName"] == account["metadata"]["name"]
            for container in [*pod.containers(), *pod.containers(initial=True)]:
                assert container.spec["securityContext"] == {
                    "allowPrivilegeEscalation": False,
                    "readOnlyRootFilesystem": True,
                    "capabilities": {"drop": ["ALL"]},
                }

    def test_only_scratch_can_be_written(self, variants: Variants, variant: str) -> None:
        for pod in pods(variants, variant):
            everyone = [*pod.containers(), *pod.containers(initial=True)]
            used = {mount["name"] for container in everyone for mount in container.spec["volumeMounts"]}
            assert used == {volume["name"] for volume in pod.spec["volumes"]}
            for container in everyone:
                assert "emptyDir" in container.mounts["/tmp"]
                for mount in container.spec["volumeMounts"]:
                    writable = not mount.get("readOnly", False)
                    if writable:
                        assert "emptyDir" in container.mounts[mount["mountPath"]]
            for volume in pod.spec["volumes"]:
                if "secret" in volume:
                    assert volume["secret"]["defaultMode"] == 0o440
                if "emptyDir" in volume:
                    assert quantity(volume["emptyDir"]["sizeLimit"]) > 0

    def test_every_container_says_what_it_needs(self, variants: Variants, variant: str) -> None:
        for pod in pods(variants, variant):
            memory = sum(
                quantity(volume["emptyDir"]["sizeLimit"])
                for volume in pod.spec["volumes"]
                if volume.get("emptyDir", {}).get("medium") == "Memory"
            )
            for container in [*pod.containers(), *pod.containers(initial=True)]:
                needs, limits = container.spec["resources"]["requests"], container.spec["resources"]["limits"]
                assert quantity(needs["cpu"]) > 0
                assert quantity(needs["memory"]) <= quantity(limits["memory"])
                assert "cpu" not in limits, "throttling makes steps late"
                if "/dev/shm" in container.mounts:
                    assert memory < quantity(limits["memory"]) / 2, "memory volumes count as the container's"


class TestGpus:
    def test_a_pair_shares_what_cuda_ipc_needs(self, variants: Variants) -> None:
        (pair,) = [pod for pod in pods(variants, "gpu-same-node") if "minedraft-verifier" in pod.labels]
        verifier, drafter = pair.containers()
        assert pair.spec["shareProcessNamespace"]
        assert verifier.mounts["/dev/shm"] == drafter.mounts["/dev/shm"]
        claims = [container.spec["resources"]["claims"] for container in (verifier, drafter)]
        assert claims[0] == claims[1] == [{"name": "gpus"}], "each must see the other's GPU"
        (claim,) = pair.spec["resourceClaims"]
        (template,) = variants.of("gpu-same-node", "ResourceClaimTemplate")
        assert claim["resourceClaimTemplateName"] == template["metadata"]["name"]
        (request,) = template["spec"]["spec"]["devices"]["requests"]
        devices = {container.environment["MINEDRAFT_DEVICE"] for container in (verifier, drafter)}
        assert devices == {f"cuda:{i}" for i in range(request["exactly"]["count"])}

    def test_a_rank_for_each_gpu(self, variants: Variants) -> None:
        for container in containers(variants, "gpu-multi-node"):
            limits = container.spec["resources"]["limits"]
            assert ("nvidia.com/gpu" in limits) == (SETTINGS[container.name].__base__ is EngineSettings)
            if container.name == "verifier":
                assert limits["nvidia.com/gpu"] == container.environment["MINEDRAFT_TENSOR_PARALLEL"]

    def test_channels_are_offered_at_the_pods_own_address(self, variants: Variants, variant: str) -> None:
        for container in containers(variants, variant):
            if container.name in {"verifier", "drafter"}:
                assert container.environment["MINEDRAFT_CHANNEL_HOST"] == "10.1.2.3"


def test_nothing_secret_is_in_the_manifests(variants: Variants, variant: str) -> None:
    assert variants.of(variant, "Secret") == []
    assert "BEGIN" not in json.dumps(variants.objects(variant))
