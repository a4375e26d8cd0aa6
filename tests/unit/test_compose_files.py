"""The files for Docker agree with the code: settings that exist, the demo's folders, one torch. Needs no Docker."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from minedraft.cli import demo_drafter
from minedraft.config import (
    CoordinatorSettings,
    DrafterSettings,
    HealthSettings,
    HttpSettings,
    ProcessSettings,
    VerifierSettings,
)

REPOSITORY = Path(__file__).parents[2]
SETTINGS: dict[str, type[ProcessSettings]] = {
    "verifier": VerifierSettings,
    "drafter": DrafterSettings,
    "coordinator": CoordinatorSettings,
    "http": HttpSettings,
}
PREFIX = "MINEDRAFT_"


def services(name: str) -> dict[str, Any]:
    read: dict[str, Any] = yaml.safe_load((REPOSITORY / name).read_text(encoding="utf-8"))
    found: dict[str, Any] = read["services"]
    return found


def dockerfile(name: str) -> str:
    return (REPOSITORY / "docker" / f"{name}.Dockerfile").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["compose.yaml", "compose.gpu.yaml"])
def test_every_variable_is_a_setting_of_its_service(name: str) -> None:
    for service, settings in SETTINGS.items():
        variables = services(name).get(service, {}).get("environment", {})
        given = {variable.removeprefix(PREFIX).lower() for variable in variables if variable.startswith(PREFIX)}
        assert given <= set(settings.model_fields), service


@pytest.mark.parametrize("service", ["models", *SETTINGS])
def test_every_service_is_hardened(service: str) -> None:
    found = services("compose.yaml")[service]
    assert found["read_only"] is True
    assert found["cap_drop"] == ["ALL"]
    assert found["security_opt"] == ["no-new-privileges:true"]
    assert found["user"] == "10001:10001"
    assert found["mem_limit"]
    assert "privileged" not in found
    for port in found.get("ports", []):
        assert port.startswith("${MINEDRAFT_BIND:-127.0.0.1}:")


def test_the_demo_is_where_it_is_fetched_to() -> None:
    demo = services("compose.yaml")
    assert demo["models"]["command"] == ["models", "pull", "demo", "--to", "/models/demo"]
    assert demo["verifier"]["environment"]["MINEDRAFT_MODEL"] == "${MINEDRAFT_TARGET:-/models/demo}"
    assert demo["http"]["environment"]["MINEDRAFT_TOKENIZER"] == "${MINEDRAFT_TARGET:-/models/demo}"
    drafter = f"${{MINEDRAFT_DRAFT:-/models/demo/{demo_drafter.FOLDER}}}"
    assert demo["drafter"]["environment"]["MINEDRAFT_MODEL"] == drafter


def test_the_torch_is_one_everywhere() -> None:
    makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    wanted = re.findall(r"^TORCH := (\S+)$", makefile, re.MULTILINE)
    assert len(wanted) == 1
    for name in ("verifier", "drafter"):
        assert re.findall(r"^ARG TORCH_REQUIREMENT=(\S+)$", dockerfile(name), re.MULTILINE) == wanted
    for name in ("compose.yaml", "compose.gpu.yaml"):
        text = (REPOSITORY / name).read_text(encoding="utf-8")
        assert re.findall(r"\$\{TORCH_REQUIREMENT:-(\S+)\}", text) == wanted


def test_the_model_services_images_share_their_layers() -> None:
    verifier, drafter = (dockerfile(name).partition("# Where packages")[2] for name in ("verifier", "drafter"))
    assert verifier.partition("LABEL ")[0] == drafter.partition("LABEL ")[0] != ""


@pytest.mark.parametrize(("name", "settings"), SETTINGS.items())
def test_an_image_listens_where_its_service_does_by_default(name: str, settings: type[ProcessSettings]) -> None:
    listen = settings.model_fields["listen"].default
    text = dockerfile(name)
    assert f"ENV MINEDRAFT_LISTEN={listen}\n" in text
    assert f"EXPOSE {listen.rpartition(':')[2]}\n" in text
    assert ('"--http"' in text) is (name == "http")
    assert "listen" in HealthSettings.model_fields  # read from the same variable
