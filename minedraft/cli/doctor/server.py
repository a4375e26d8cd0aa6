"""What a running server says of itself."""

from __future__ import annotations

from typing import Final

from minedraft.cli.doctor.finding import Finding, Scope, broken, not_here, ok, one_line
from minedraft.cli.options import access_of
from minedraft.cli.up import describe_choice
from minedraft.errors import MinedraftError, SetupError
from minedraft.generation import PeerInfo, ServerInfo

DRAFTER: Final = "its drafter"
MEND: Final = "start it with `minedraft up`, look at its log, or give its --address"
MEND_ACCESS: Final = "give the --token-file and --tls-... options that this server wants"
WAIT_SECONDS: Final = 5.0  # for a server that is still starting


def check_server(scope: Scope) -> list[Finding]:
    """Health and target, then the drafter and its channel."""
    name, title = "server", f"server at {scope.address}"
    try:
        access = access_of(
            scope.token_file, scope.tls_ca, scope.tls_client_cert, scope.tls_client_key, scope.tls_server_name
        )
        with access.client(scope.address) as client:
            info = client.wait_ready(min(WAIT_SECONDS, scope.seconds / 2))
    except MinedraftError as error:
        mend = MEND_ACCESS if isinstance(error, SetupError) else MEND
        unasked = not_here("server.drafter", DRAFTER, "not asked: the server does not serve", "mend the server first")
        return [broken(name, title, one_line(str(error)), mend), unasked]
    return [_target(name, title, info), _drafter(info.drafter)]


def _target(name: str, title: str, info: ServerInfo) -> Finding:
    target, limits = info.target, info.limits
    model = (
        f"{target.model_id} ({target.dtype} on {target.device}, {target.attention_backend})" if target else "no target"
    )
    found = f"serving {model}, {describe_choice(info)}, version {info.version}"
    return ok(
        name,
        title,
        found,
        version=info.version,
        target=target.model_id if target else None,
        device=target.device if target else None,
        attention=target.attention_backend if target else None,
        lanes=limits.lanes,
        draft_tokens=limits.draft_tokens,
        queued_requests=info.queued_requests,
    )


def _drafter(drafter: PeerInfo) -> Finding:
    name, title = "server.drafter", DRAFTER
    values = {
        "address": drafter.address,
        "connected": drafter.connected,
        "model": drafter.model.model_id if drafter.model else None,
        "channel": drafter.channel,
        "channel_note": drafter.channel_note,
        "refusal": drafter.refusal,
    }
    if not drafter.address:
        return ok(name, title, "it runs without one", **values)
    if drafter.refusal:
        return broken(
            name, title, f"not used: {drafter.refusal}", "start the drafter otherwise: the reason says what", **values
        )
    if not drafter.connected or drafter.model is None:
        return broken(name, title, f"not connected, at {drafter.address}", "start it, or look at its log", **values)
    way = f"dense laws over {drafter.channel}" if drafter.channel else drafter.channel_note or "no tensor channel"
    return ok(name, title, f"{drafter.model.model_id}, {way}", **values)
