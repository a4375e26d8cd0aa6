"""What tools such as grpcurl and Kubernetes' probes ask of each server."""

from __future__ import annotations

from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from minedraft.cli.stack import Stack

SERVICES = {
    "coordinator": "minedraft.v1.GenerationService",
    "verifier": "minedraft.v1.VerifierService",
    "drafter": "minedraft.v1.DrafterService",
}


@pytest.mark.parametrize("name", SERVICES)
def test_health_and_reflection(stack: Stack, name: str) -> None:
    with grpc.insecure_channel(getattr(stack, name)) as channel:
        health: Any = health_pb2_grpc.HealthStub(channel)
        for asked in ("", SERVICES[name]):
            answer = health.Check(health_pb2.HealthCheckRequest(service=asked), timeout=10)
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
        reflection: Any = reflection_pb2_grpc.ServerReflectionStub
        requests = iter([reflection_pb2.ServerReflectionRequest(list_services="")])
        (answer,) = reflection(channel).ServerReflectionInfo(requests, timeout=10)
        listed = {service.name for service in answer.list_services_response.service}
        assert {SERVICES[name], "grpc.health.v1.Health"} <= listed
