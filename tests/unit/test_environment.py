"""The environment of the services that the CLI starts."""

from __future__ import annotations

import pytest

from minedraft.config import OPENMP_SPINS, environment_for_services

NAME = "GOMP_SPINCOUNT"


@pytest.fixture(autouse=True)
def nothing_told(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (NAME, "OMP_WAIT_POLICY"):
        monkeypatch.delenv(name, raising=False)


def test_threads_spin_briefly_unless_told_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    assert environment_for_services()[NAME] == OPENMP_SPINS[NAME]
    monkeypatch.setenv(NAME, "7")
    assert environment_for_services()[NAME] == "7"


def test_a_wait_policy_is_told_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_WAIT_POLICY", "active")
    assert NAME not in environment_for_services()


def test_settings_of_this_process_are_not_the_services(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINEDRAFT_LANES", "7")
    monkeypatch.setenv("minedraft_token", "secret")
    monkeypatch.setenv("LANES", "8")
    found = environment_for_services()
    assert found["LANES"] == "8"
    assert not {"MINEDRAFT_LANES", "minedraft_token"} & found.keys()
