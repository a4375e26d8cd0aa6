"""From flags and the environment to a connection, and from `up`'s flags to a coordinator's."""

from __future__ import annotations

from pathlib import Path

import pytest

from minedraft.cli.access import NO_PROTECTION, Access, Protection
from minedraft.cli.options import access_of
from minedraft.cli.stack import Stack, StackOptions
from minedraft.errors import SetupError
from tests.certificates import Authority

TOKEN, OTHER = "a" * 32, "b" * 32


def test_flags_win_over_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, token in (("flag", TOKEN), ("environment", OTHER)):
        (tmp_path / name).write_text(f"alice:{token}\n")
    assert access_of() == Access()
    monkeypatch.setenv("MINEDRAFT_TOKEN_FILE", str(tmp_path / "environment"))
    monkeypatch.setenv("MINEDRAFT_TLS_CA", "system")
    assert access_of() == Access(OTHER, "system")
    assert access_of(str(tmp_path / "flag"), "ca.pem", "c.pem", "k.pem", "name") == Access(
        TOKEN, "ca.pem", "c.pem", "k.pem", "name"
    )
    assert access_of("", "") == Access()
    assert TOKEN not in repr(Access(TOKEN))


def test_what_up_gives_its_coordinator(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    (tmp_path / "tokens").write_text(f"alice:{TOKEN}\n")
    files = str(tmp_path / "tokens"), "cert.pem", "key.pem", "clients.pem"
    assert NO_PROTECTION.flags() == []
    flags = ["--token-file", files[0], "--tls-cert", "cert.pem", "--tls-key", "key.pem", "--tls-client-ca"]
    protected = Protection(*files, ca=str(authority.file))
    assert protected.flags() == [*flags, "clients.pem"]
    with protected.client("0.0.0.0:1") as client:  # listened on everywhere, called here
        assert client.address == "127.0.0.1:1"
    with Protection(files[0]).client("[::]:1") as client:
        assert client.address == "[::1]:1"


def test_a_stack_that_cannot_work_is_told_at_once(tmp_path: Path) -> None:
    simulated = {"simulate": "drafter=1ms,verifier=1ms,accept=1", "listen": "127.0.0.1:0"}
    missing = Protection(str(tmp_path / "none"))
    with pytest.raises(SetupError, match=r"^--token-file: .*none: cannot be read"):
        Stack(StackOptions(**simulated, protection=missing)).start()  # type: ignore[arg-type]
