"""The demo target's own draft model: made by `minedraft distill`, comes with this package."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from minedraft.errors import SetupError

FOLDER: Final = "drafter-3"  # in the target's folder; counts up with the shipped weights
SHIPPED: Final = Path(__file__).parents[1] / "assets" / "demo_drafter"


def drafter_folder(target: Path) -> Path:
    return target / FOLDER


def is_complete(target: Path) -> bool:
    return (drafter_folder(target) / "config.json").is_file()


def fetch(target: Path) -> Path:
    """Put the draft model beside its target, unless it is there; its folder. Raises SetupError."""
    folder = drafter_folder(target)
    if not is_complete(target):
        try:
            from minedraft.distill.shipping import complete
        except ImportError as error:
            raise SetupError(f"{error}: install the model services with `pip install 'minedraft[engine]'`") from error
        try:
            complete(SHIPPED, target, folder)
        except OSError as error:
            raise SetupError(
                f"the demo draft model cannot be written to {folder}: {error.strerror or error}"
            ) from error
    return folder
