"""The images as they were built: who runs in them, what they hold, and what they leave out."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.containers.conftest import Served
from tests.containers.engine import IMAGES, TAG, docker

pytestmark = [pytest.mark.containers, pytest.mark.timeout(3600)]

# Python looks at both before it believes a file of bytecode.
STALE = """
import importlib.util, pathlib, struct, sys
import minedraft, coordinator
for package in (minedraft, coordinator):
    for source in pathlib.Path(package.__file__).parent.rglob("*.py"):
        compiled = pathlib.Path(importlib.util.cache_from_source(source))
        found = source.stat()
        if struct.unpack("<II", compiled.read_bytes()[8:16]) != (int(found.st_mtime), found.st_size):
            print(source)
"""


def image(name: str) -> Any:
    return json.loads(docker("image", "inspect", f"minedraft/{name}:{TAG}"))[0]


def inside(name: str, code: str) -> str:
    return docker("run", "--rm", "--network=none", "--entrypoint=python3", f"minedraft/{name}:{TAG}", "-c", code)


@pytest.mark.parametrize("name", IMAGES)
def test_an_image_says_how_it_is_run(served: Served, name: str) -> None:
    config = image(name)["Config"]
    assert config["User"] == "10001:10001"
    assert config["Entrypoint"][:2] == ["python3", "-m"]  # no shell between SIGTERM and Python
    assert config["StopSignal"] == "SIGTERM"
    assert config["Healthcheck"]["Test"][:4] == ["CMD", "python3", "-m", "minedraft.health"]
    assert config["Labels"]["org.opencontainers.image.title"] == f"minedraft-{name}"
    assert config["Labels"]["org.opencontainers.image.licenses"] == "Apache-2.0"
    assert "MINEDRAFT_LISTEN=127.0.0.1:" in " ".join(config["Env"])  # nothing is open before it is told to be


@pytest.mark.parametrize("name", IMAGES)
def test_bytecode_is_compiled_and_current(served: Served, name: str) -> None:
    assert inside(name, STALE) == ""


@pytest.mark.parametrize("name", ["coordinator", "http"])
def test_light_images_have_no_torch_and_no_pip(served: Served, name: str) -> None:
    code = "from importlib.util import find_spec; print([n for n in ('torch', 'transformers', 'pip') if find_spec(n)])"
    assert inside(name, code) == "[]\n"
    assert image(name)["Size"] * 2 < image("verifier")["Size"]


def test_the_model_services_share_their_layers(served: Served) -> None:
    assert image("drafter")["RootFS"]["Layers"] == image("verifier")["RootFS"]["Layers"]
