"""What is tested: every overlay as it is, and with all optional components."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path
from typing import Final

import yaml

from tests.deploy.kustomize import Object, build

ROOT: Final = Path(__file__).resolve().parents[2]
DEPLOY: Final = ROOT / "deploy"
KUBERNETES: Final = DEPLOY / "kubernetes"
OVERLAYS: Final = ("cpu", "gpu-same-node", "gpu-multi-node")
OPTIONAL: Final = ("monitoring", "tls")
VARIANTS: Final = tuple(f"{overlay}{ending}" for overlay in OVERLAYS for ending in ("", "+"))  # +: with OPTIONAL


def folder_of(variant: str, scratch: Path) -> Path:
    """A folder that kustomize builds the variant from; `scratch` holds it where there is none."""
    overlay = KUBERNETES / "overlays" / variant.removesuffix("+")
    if not variant.endswith("+"):
        return overlay
    whole = scratch / variant
    whole.mkdir()
    here = whole.resolve()
    plan = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "namespace": "minedraft",
        "resources": [os.path.relpath(overlay, here)],
        "components": [os.path.relpath(KUBERNETES / "components" / name, here) for name in OPTIONAL],
    }
    (whole / "kustomization.yaml").write_text(yaml.safe_dump(plan))
    return whole


class Variants:
    """Each is built once. Tests must not change what they get."""

    def __init__(self, scratch: Path) -> None:
        self._scratch = scratch
        self.folder = cache(lambda variant: folder_of(variant, self._scratch))
        self.objects = cache(lambda variant: build(self.folder(variant)))

    def of(self, variant: str, kind: str) -> list[Object]:
        return [each for each in self.objects(variant) if each["kind"] == kind]
