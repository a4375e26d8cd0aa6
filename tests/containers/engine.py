"""The Docker daemon as these tests use it: what there is of it, and the composition under a name of its own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Final

REPOSITORY: Final = Path(__file__).parents[2]
BASE_IMAGE: Final = os.environ.get("BASE_IMAGE", "python:3.11-slim")
IMAGES: Final = ("verifier", "drafter", "coordinator", "http")
TAG: Final = "tested"
BUILD_SECONDS: Final = 3000
PULL_SECONDS: Final = 300
COMMAND_SECONDS: Final = 180


def run(*command: str, seconds: float = COMMAND_SECONDS, **environment: str) -> subprocess.CompletedProcess[str]:
    """A command to its end, whatever that is."""
    return subprocess.run(
        command, cwd=REPOSITORY, env=_environment(environment), capture_output=True, text=True, timeout=seconds,
        check=False,
    )  # fmt: skip


def docker(*arguments: str, seconds: float = COMMAND_SECONDS) -> str:
    """What `docker ...` says. Raises RuntimeError with its complaint when it fails."""
    return _said(run("docker", *arguments, seconds=seconds))


def why_not() -> str:
    """Why the container tests cannot run on this machine; "" when they can. Fetches the base image if need be."""
    if shutil.which("docker") is None:
        return "there is no command `docker`"
    try:
        found = run("docker", "info", "--format", "{{.ServerVersion}}", seconds=30)
    except subprocess.TimeoutExpired:
        return "the Docker daemon does not answer"
    if found.returncode != 0 or not found.stdout.strip():
        return "no Docker daemon answers"
    if not composer():
        return "there is neither `docker compose` nor `docker-compose`"
    if run("docker", "image", "inspect", BASE_IMAGE).returncode == 0:
        return ""
    try:
        pulled = run("docker", "pull", BASE_IMAGE, seconds=PULL_SECONDS).returncode == 0
    except subprocess.TimeoutExpired:
        pulled = False
    return "" if pulled else f"the base image {BASE_IMAGE} cannot be had: name another by BASE_IMAGE"


@cache
def composer() -> tuple[str, ...]:
    """`docker compose`, or the older `docker-compose`, or nothing."""
    if run("docker", "compose", "version").returncode == 0:
        return ("docker", "compose")
    return ("docker-compose",) if shutil.which("docker-compose") else ()


@dataclass(frozen=True)
class Composition:
    """compose.yaml as a project of its own, with settings in its environment."""

    settings: Mapping[str, str]
    project: str = field(default_factory=lambda: f"minedraft-test-{uuid.uuid4().hex[:8]}")

    def __call__(self, *arguments: str, seconds: float = COMMAND_SECONDS) -> str:
        """What `docker compose ...` says. Raises RuntimeError when it fails."""
        return _said(run(*composer(), "--project-name", self.project, *arguments, seconds=seconds, **self.settings))

    def container(self, service: str) -> str:
        """The id of a service's one container, running or not."""
        filters = (f"com.docker.compose.project={self.project}", f"com.docker.compose.service={service}")
        return docker("ps", "--all", "--quiet", *(f"--filter=label={label}" for label in filters)).strip()

    def inspect(self, service: str) -> Any:
        return json.loads(docker("inspect", self.container(service)))[0]

    def python(self, service: str, code: str) -> str:
        """What Python code prints within a service's container, run as the service's user."""
        return docker("exec", self.container(service), "python3", "-c", code).strip()

    def left(self) -> dict[str, list[str]]:
        """What there is of this project, by kind."""
        label = f"--filter=label=com.docker.compose.project={self.project}"
        return {
            "containers": docker("ps", "--all", "--quiet", label).split(),
            "networks": docker("network", "ls", "--quiet", label).split(),
            "volumes": docker("volume", "ls", "--quiet", label).split(),
        }


def _said(done: subprocess.CompletedProcess[str]) -> str:
    if done.returncode != 0:
        last = "\n".join((done.stdout + done.stderr).splitlines()[-40:])
        raise RuntimeError(f"{' '.join(map(str, done.args))} ended with {done.returncode}:\n{last}")
    return done.stdout


def _environment(more: Mapping[str, str]) -> dict[str, str]:
    """This process's, without settings of MineDraft that would change what is tested."""
    mine = {name: value for name, value in os.environ.items() if not name.startswith("MINEDRAFT_")}
    if "DOCKER_BUILDKIT" not in mine and not _has_buildkit():
        mine["DOCKER_BUILDKIT"] = "0"
    return mine | {"BASE_IMAGE": BASE_IMAGE} | dict(more)


@cache
def _has_buildkit() -> bool:
    found: Sequence[str] = ("docker", "buildx", "version")
    return subprocess.run(found, capture_output=True, check=False, timeout=30).returncode == 0


if __name__ == "__main__":
    obstacle = why_not()
    sys.stdout.write(obstacle)
    sys.exit(1 if obstacle else 0)
