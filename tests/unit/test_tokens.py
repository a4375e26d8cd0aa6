"""The file of tokens: what a line may be, who is let in, and what is never said."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from minedraft.errors import SetupError, Unauthenticated
from minedraft.rpc import tokens
from minedraft.rpc.tokens import Tokens, first_secret, parse

SECRET, OTHER, OLD = "a" * 32, "b0._~+/-" * 4 + "==", "c" * 32
FILE = f"""
# who may ask
alice:{SECRET}
  bob : {OTHER} : 2999-12-31T23:59:59.5+02:00
bob:{OLD}:2001-01-31
:{"d" * 32}:2999-01-01
{"e" * 32}
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "tokens"
    file.write_text(FILE)
    file.chmod(0o600)
    return file


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The file is looked at for every call."""
    monkeypatch.setattr(tokens, "CHECK_SECONDS", 0.0)


def rewrite(path: Path, text: str) -> None:
    """Replace the file as an operator should: whole, and in one go."""
    new = path.with_suffix(".new")
    new.write_text(text)
    new.chmod(0o600)
    os.replace(new, path)


def test_all_forms_of_a_line() -> None:
    alice, bob, expired, dated, bare = parse(FILE)
    assert (alice.name, alice.secret, alice.expires) == ("alice", SECRET, None)
    assert (bob.name, bob.secret) == ("bob", OTHER)
    assert bob.expires is not None
    assert bob.expires.astimezone(UTC) == datetime(2999, 12, 31, 21, 59, 59, 500_000, UTC)
    assert expired.expires == datetime(2001, 1, 31, tzinfo=UTC)
    assert (dated.name, bare.name) == ("line 6", "line 7")
    assert expired.expired(datetime(2001, 1, 31, tzinfo=UTC))
    assert not expired.expired(datetime(2001, 1, 30, 23, 59, 59, tzinfo=UTC))
    assert not any(secret in repr(parse(FILE)) for secret in (SECRET, OTHER, OLD))


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("hunter2", "at least 16"),
        ("alice:hunter2", "at least 16"),
        ("alice:", "at least 16"),
        (f"{SECRET} {SECRET}", "at least 16"),
        (f"alice:{SECRET}\u20ac", "at least 16"),
        (f"{SECRET}=x", "at least 16"),
        (f":{SECRET}", "name before the colon"),
        (f"al ice:{SECRET}", "a name has"),
        (f"{'a' * 65}:{SECRET}", "a name has"),
        (f"alice:{SECRET}:tomorrow", "RFC 3339"),
        (f"alice:{SECRET}:2030-02-30", "RFC 3339"),
        (f"alice:{SECRET}:2030-01-01T00:00:00", "RFC 3339"),  # of which place?
        (f"alice:{SECRET}:20300101", "RFC 3339"),
    ],
)
def test_a_line_without_sense_is_refused_by_its_number_without_its_words(line: str, words: str) -> None:
    with pytest.raises(SetupError, match=rf"^line 2: .*{words}") as caught:
        parse(f"# one\n{line}\n")
    assert SECRET not in str(caught.value)
    assert "hunter2" not in str(caught.value)


@given(st.text())
def test_parsing_ends_in_tokens_or_a_setup_error(text: str) -> None:
    try:
        found = parse(text)
    except SetupError:
        return
    assert all(len(token.secret) >= 16 and token.name for token in found)


def test_who_is_let_in(path: Path) -> None:
    known = Tokens(path)
    assert known.client_of([f"Bearer {SECRET}"]) == "alice"
    assert known.client_of([f"bearer  {OTHER}"]) == "bob"
    assert known.client_of([b"BEARER " + b"e" * 32]) == "line 7"


@pytest.mark.parametrize(
    ("given_", "words"),
    [
        ([], "a token is needed"),
        ([f"Bearer {SECRET[:-1]}"], "the token is wrong"),
        ([f"Bearer {SECRET}a"], "the token is wrong"),
        (["Bearer "], "the token is wrong"),
        (["Bearer \u20ac"], "the token is wrong"),
        (["Bearer alice"], "the token is wrong"),
        ([f"Bearer {OLD}"], "the token has expired"),
        ([f"Basic {SECRET}"], "must be one `Bearer TOKEN`"),
        ([SECRET], "must be one `Bearer TOKEN`"),
        ([f"Bearer {SECRET}", f"Bearer {SECRET}"], "must be one `Bearer TOKEN`"),
    ],
)
def test_who_is_not(path: Path, given_: list[str], words: str) -> None:
    known = Tokens(path)
    with pytest.raises(Unauthenticated, match=words) as caught:
        known.client_of(given_)
    assert not any(secret in str(caught.value) for secret in (SECRET, OLD))


def test_a_token_that_is_listed_twice_counts_as_long_as_one_of_them(tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    file.write_text(f"a:{SECRET}:2001-01-01\nb:{SECRET}\n")
    assert Tokens(file).client_of([f"Bearer {SECRET}"]) == "b"


@pytest.mark.usefixtures("at_once")
def test_a_new_file_counts_at_once_and_nonsense_changes_nothing(path: Path) -> None:
    known = Tokens(path)
    rewrite(path, f"carol:{OLD}\n")
    assert known.client_of([f"Bearer {OLD}"]) == "carol"
    with pytest.raises(Unauthenticated, match="wrong"):
        known.client_of([f"Bearer {SECRET}"])
    for nonsense in ("hunter2\n", "# nobody\n"):
        rewrite(path, nonsense)
        with structlog.testing.capture_logs() as logs:
            assert known.client_of([f"Bearer {OLD}"]) == "carol"
            assert known.client_of([f"Bearer {OLD}"]) == "carol"
        assert [line["event"] for line in logs] == ["tokens cannot be read again; the old ones hold"]
        assert "hunter2" not in str(logs)
    path.unlink()
    assert known.client_of([f"Bearer {OLD}"]) == "carol"
    rewrite(path, f"alice:{SECRET}\n")
    assert known.client_of([f"Bearer {SECRET}"]) == "alice"


def test_a_file_that_others_may_read_is_told(path: Path) -> None:
    with structlog.testing.capture_logs() as logs:
        Tokens(path)
        assert logs == []
        path.chmod(0o604)
        Tokens(path)
    assert [line["log_level"] for line in logs] == ["warning"]
    assert "chmod o-rwx" in logs[0]["event"]


def test_a_client_sends_the_first_token_that_is_valid(tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    file.write_text(f"old:{OLD}:2001-01-01\nnew:{SECRET}\n{OTHER}\n")
    assert first_secret(file) == SECRET
    file.write_text(f"old:{OLD}:2001-01-01\n")
    with pytest.raises(SetupError, match=r"every token in .* has expired"):
        first_secret(file)


def test_files_that_cannot_be_used(tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    with pytest.raises(SetupError, match=r"^--token-file: .*tokens cannot be read: No such file"):
        Tokens(file)
    with pytest.raises(SetupError, match=r"^--token-file: .*tokens: cannot be read: No such file"):
        first_secret(file)
    file.write_text("# nobody yet\n")
    with pytest.raises(SetupError, match="holds no token"):
        Tokens(file)
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(SetupError, match="is not UTF-8"):
        Tokens(file)
