"""python -m minedraft.health: ask a service of this machine how it is, for health checks of containers and pods.

It reads the variables that the service itself reads, MINEDRAFT_LISTEN first of all, so that inside a service's
container it needs no flag. Exit code 0: calls are welcome. 1: they are not, or nobody answers. 2: a wrong set-up.
"""

from __future__ import annotations

import http.client
import ssl
import sys
from collections.abc import Sequence
from typing import Any, Final

from minedraft import config
from minedraft.config import HealthSettings
from minedraft.errors import PeerUnavailable, SetupError

# Where a service listens on every address, it is called on loopback.
CALLED: Final = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]", "::": "[::1]"}  # noqa: S104
HEALTHY: Final = 200


def main(arguments: Sequence[str] | None = None) -> int:
    """One question, one line, one exit code."""
    try:
        settings = config.load(HealthSettings, "health", sys.argv[1:] if arguments is None else arguments)
        sys.stdout.write(ask(settings) + "\n")
    except PeerUnavailable as error:
        sys.stderr.write(f"health: {error}\n")
        return 1
    except SetupError as error:
        sys.stderr.write(f"health: {error}\n")
        return 2
    return 0


def ask(settings: HealthSettings) -> str:
    """Words for a healthy service. Raises PeerUnavailable for any other, SetupError for unusable certificates."""
    host, _, port = settings.listen.rpartition(":")
    address = f"{CALLED.get(host, host)}:{port}"
    return _ask_http(address, settings) if settings.http else _ask_grpc(address, settings)


def _ask_grpc(address: str, settings: HealthSettings) -> str:
    import grpc
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    from minedraft.rpc.credentials import ClientTls

    with ClientTls.of(settings).channel(address, ()) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)  # its type stubs have no methods
        try:
            answer = stub.Check(health_pb2.HealthCheckRequest(), timeout=settings.timeout_seconds)
        except grpc.RpcError as error:
            raise PeerUnavailable(f"no answer from {address}: {error.details()}") from None
    status = health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)
    if answer.status != health_pb2.HealthCheckResponse.SERVING:
        raise PeerUnavailable(f"{address} is {status}")
    return f"{address} is {status}"


def _ask_http(address: str, settings: HealthSettings) -> str:
    connection = _connection(address, settings)
    try:
        connection.request("GET", "/health")
        status = connection.getresponse().status
    except (OSError, http.client.HTTPException) as error:
        raise PeerUnavailable(f"no answer from {address}: {str(error) or type(error).__name__}") from None
    finally:
        connection.close()
    if status != HEALTHY:
        raise PeerUnavailable(f"{address} answered {status}")
    return f"{address} answered {status}"


def _connection(address: str, settings: HealthSettings) -> http.client.HTTPConnection:
    """A door that shows a certificate must show the one in its own file, whatever name is in it."""
    if not settings.tls_cert:
        return http.client.HTTPConnection(address, timeout=settings.timeout_seconds)
    try:
        context = ssl.create_default_context(cafile=settings.tls_cert)
    except OSError as error:  # ssl.SSLError is one
        raise SetupError(f"--tls-cert: {settings.tls_cert} cannot be used: {error.strerror}") from None
    context.check_hostname = False
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    return http.client.HTTPSConnection(address, timeout=settings.timeout_seconds, context=context)


if __name__ == "__main__":
    sys.exit(main())
