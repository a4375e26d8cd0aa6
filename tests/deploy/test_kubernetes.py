"""The manifests agree with Kubernetes' schemas, with the services' settings, and with each other."""

from __future__ import annotations

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

import minedraft
from minedraft import config, health
from minedraft.cli.demo_drafter import drafter_folder
from minedraft.config import EngineSettings, HealthSettings, ServiceSettings
from minedraft.model_service import CLOSE_SECONDS
from minedraft.rpc.server import ALIVE, Server
from tests.deploy.kustomize import Object
from tests.deploy.pods import SETTINGS, Container, containers, matches, pods, quantity
from tests.deploy.variants import Variants
from tests.http.fake_coordinator import FakeCoordinator, asking, door

OLDEST = {"cpu": "1.30", "gpu-multi-node": "1.30", "gpu-same-node": "1.34"}  # docs/kubernetes.md says why
NEWEST = "1.37"
OTHERS_VARIABLES = {"CUDA_DEVICE_ORDER", "NCCL_SOCKET_IFNAME"}
CUSTOM = {"PodMonitor"}  # no schema of Kubernetes' own
FILES = (
    "tls_cert",
    "tls_key",
    "tls_client_ca",
    "tls_ca",
    "tls_client_cert",
    "tls_client_key",
    "token_file",
    "api_key_file",
)


def complaint(each: Object, version: str) -> str:
    try:
        kubernetes_validate.validate(each, version, strict=True)
    except kubernetes_validate.ValidationError as error:
        return str(error.message)
    return ""


class TestSchemas:
    def test_every_object_follows_its_schema(self, variants: Variants, variant: str) -> None:
        checked = 0
        for each in variants.objects(variant):
            if each["kind"] in CUSTOM or (variant.endswith("+") and each["kind"] != "Deployment"):
                continue  # the same as without components
            for version in (OLDEST[variant.removesuffix("+")], NEWEST):
                assert complaint(each, version) == "", f"{each['kind']}/{each['metadata']['name']}, {version}"
                checked += 1
        assert checked >= 6

    def test_a_wrong_field_and_a_wrong_type_are_seen(self, variants: Variants) -> None:
        right = variants.of("cpu", "Deployment")[0]
        for path, field, value in (
            (("spec",), "replica", 1),
            (("spec", "template", "spec", "containers", 0), "image", 5),
            (("spec", "template", "spec", "containers", 0, "readinessProbe"), "gprc", {"port": 1}),
        ):
            wrong = deepcopy(right)
            place: Any = wrong
            for step in path:
                place = place[step]
            place[field] = value
            assert complaint(wrong, NEWEST)

    def test_what_needs_a_newer_kubernetes_says_so(self, variants: Variants) -> None:
        (claim,) = variants.of("gpu-same-node", "ResourceClaimTemplate")
        with pytest.raises(kubernetes_validate.utils.SchemaNotFoundError):
            kubernetes_validate.validate(claim, "1.33", strict=True)


class TestSettings:
    def test_every_variable_is_a_setting_and_parses(
        self, variants: Variants, variant: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for container in containers(variants, variant):
            kind = SETTINGS[container.name]
            ours = {name for name in container.environment if name.startswith("MINEDRAFT_")}
            assert set(container.environment) - ours <= OTHERS_VARIABLES
            known = {f"MINEDRAFT_{name.upper()}" for name in kind.model_fields}
            assert ours <= known, f"{container.name}: {sorted(ours - known)}"
            with monkeypatch.context() as patch:
                for name in ours:
                    patch.setenv(name, container.environment[name])
                settings = config.load(kind, container.name, [])
            for name in ours:
                field = name.removeprefix("MINEDRAFT_").lower()
                assert field in settings.model_fields_set

    def test_addresses_lead_to_services_that_lead_to_listeners(self, variants: Variants, variant: str) -> None:
        by_name = {container.name: container for container in containers(variants, variant)}
        services = {each["metadata"]["name"]: each["spec"] for each in variants.of(variant, "Service")}
        told = by_name["coordinator"].environment
        for role in ("verifier", "drafter"):
            scheme, name, port = told[f"MINEDRAFT_{role.upper()}"].split(":")
            assert scheme == "dns"
            assert services[name]["clusterIP"] == "None", "each pod must be seen"
            self._leads_to(services[name], int(port), by_name[role])
        name, port = by_name["http"].environment["MINEDRAFT_COORDINATOR"].split(":")
        self._leads_to(services[name], int(port), by_name["coordinator"])

    def _leads_to(self, service: Object, port: int, container: Container) -> None:
        (found,) = [each for each in service["ports"] if each["port"] == port]
        listens = int(container.environment["MINEDRAFT_LISTEN"].rpartition(":")[2])
        assert container.ports[found["targetPort"]] == listens
        if service.get("clusterIP") == "None":
            assert port == listens, "a headless service translates no ports"
        assert all(container.pod.labels.get(key) == value for key, value in service["selector"].items())

    def test_ports_named_are_ports_served(self, variants: Variants, variant: str) -> None:
        for container in containers(variants, variant):
            told = [container.environment[name] for name in ("MINEDRAFT_LISTEN", "MINEDRAFT_METRICS")]
            assert all(address.startswith("0.0.0.0:") for address in told)
            assert sorted(container.ports.values()) == sorted(int(address.rpartition(":")[2]) for address in told)
        for pod in pods(variants, variant):
            names = [name for container in pod.containers() for name in container.ports]
            numbers = [port for container in pod.containers() for port in container.ports.values()]
            assert len(set(names)) == len(names)
            assert len(set(numbers)) == len(numbers)

    def test_files_named_are_files_mounted(self, variants: Variants, variant: str) -> None:
        for container in containers(variants, variant):
            named = {
                container.environment[f"MINEDRAFT_{field.upper()}"]
                for field in FILES
                if f"MINEDRAFT_{field.upper()}" in container.environment
            }
            assert bool(named) == variant.endswith("+")
            for file in named:
                assert "secret" in container.mounts[str(Path(file).parent)], f"{container.name}: {file}"
            paths = [container.environment.get(f"MINEDRAFT_{name}", "") for name in ("MODEL", "TOKENIZER")]
            for path in filter(None, paths):
                assert path.startswith("/models/")
                assert "/models" in container.mounts

    def test_the_demo_pair_is_where_it_is_looked_for(self, variants: Variants) -> None:
        for container in containers(variants, "cpu"):
            for initial in container.pod.containers(initial=True):
                assert initial.spec["command"][:-1] == ["minedraft", "models", "pull", "demo", "--to"]
                folder = Path(initial.spec["command"][-1])
                wanted = {"verifier": folder, "drafter": drafter_folder(folder)}[container.name]
                assert container.environment["MINEDRAFT_MODEL"] == str(wanted)
                assert container.mounts["/models"] == initial.mounts["/models"]

    def test_images_have_this_version(self, variants: Variants, variant: str) -> None:
        for pod in pods(variants, variant):
            for container in [*pod.containers(), *pod.containers(initial=True)]:
                name, _, tag = container.spec["image"].partition(":")
                assert name == f"minedraft/{'verifier' if container.name == 'models' else container.name}"
                engine = name.endswith(("verifier", "drafter"))
                assert tag == minedraft.__version__ + ("-gpu" if engine and variant.startswith("gpu") else "")


class TestProbes:
    def test_they_ask_where_the_service_answers(self, variants: Variants, variant: str) -> None:
        for container in containers(variants, variant):
            listens = int(container.environment["MINEDRAFT_LISTEN"].rpartition(":")[2])
            probes = container.probes()
            assert {"readinessProbe", "livenessProbe"} <= set(probes)
            assert ("startupProbe" in probes) == (container.name in {"verifier", "drafter"})
            tls = "MINEDRAFT_TLS_CERT" in container.environment
            for kind, probe in probes.items():
                (way,) = {"grpc", "httpGet", "tcpSocket", "exec"} & set(probe)
                if way == "exec":
                    assert tls
                    assert kind != "livenessProbe"
                    self._asks_for_health(container, probe["exec"]["command"])
                    continue
                assert container.port(probe[way]["port"]) == listens
                if way == "grpc":
                    assert not tls, "the kubelet's own gRPC probes know no TLS"
                    assert probe["grpc"].get("service", "") == (ALIVE if kind == "livenessProbe" else "")
                assert (way == "httpGet") == (container.name == "http" and kind == "readinessProbe")

    def _asks_for_health(self, container: Container, command: list[str]) -> None:
        assert command[:3] == ["python3", "-m", health.__name__]
        settings = config.load(HealthSettings, "health", command[3:])
        for file in (settings.tls_ca, settings.tls_client_cert, settings.tls_client_key):
            assert not file or "secret" in container.mounts[str(Path(file).parent)]
        assert settings.tls_ca
        wants_certificates = "MINEDRAFT_TLS_CLIENT_CA" in container.environment
        assert bool(settings.tls_client_cert) == bool(settings.tls_client_key) == wants_certificates
        if container.name != "coordinator":
            assert settings.tls_server_name == "minedraft-model"

    async def test_a_service_that_waits_is_alive_but_not_ready(self) -> None:
        import grpc

        server = Server(ServiceSettings(listen="127.0.0.1:0"), ["a.Service"])
        await server.start()
        try:
            async with grpc.aio.insecure_channel(server.address) as channel:
                stub: Any = health_pb2_grpc.HealthStub(channel)
                answers = {
                    name: (await stub.Check(health_pb2.HealthCheckRequest(service=name))).status
                    for name in (ALIVE, "", "a.Service")
                }
        finally:
            await server.stop(0)
        serving, waiting = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING
        assert answers == {ALIVE: serving, "": waiting, "a.Service": waiting}

    async def test_the_door_knows_the_path_of_its_probe(self, variants: Variants) -> None:
        (path,) = {
            container.spec["readinessProbe"]["httpGet"]["path"]
            for container in containers(variants, "cpu")
            if container.name == "http"
        }
        async with asking(door(FakeCoordinator())) as client:
            assert (await client.get(path)).status_code == 200


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
