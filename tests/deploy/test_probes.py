"""Probes ask where the services answer, and mean what they are taken for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from minedraft import config, health
from minedraft.config import HealthSettings, ServiceSettings
from minedraft.rpc.server import ALIVE, Server
from tests.deploy.pods import Container, containers
from tests.deploy.variants import Variants
from tests.http.fake_coordinator import FakeCoordinator, asking, door


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
