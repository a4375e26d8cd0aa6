"""What the manifests tell the services is what the services take, and agrees with itself."""

from __future__ import annotations

from pathlib import Path

import pytest

import minedraft
from minedraft import config
from minedraft.cli.demo_drafter import drafter_folder
from tests.deploy.kustomize import Object
from tests.deploy.pods import SETTINGS, Container, containers, pods
from tests.deploy.variants import Variants

OTHERS_VARIABLES = {"CUDA_DEVICE_ORDER", "NCCL_SOCKET_IFNAME"}
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
