"""Every object follows Kubernetes' own schema."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import kubernetes_validate
import pytest

from tests.deploy.kustomize import Object
from tests.deploy.variants import Variants

OLDEST = {"cpu": "1.30", "gpu-multi-node": "1.30", "gpu-same-node": "1.34"}  # docs/kubernetes.md says why
NEWEST = "1.37"
CUSTOM = {"PodMonitor"}  # no schema of Kubernetes' own


def complaint(each: Object, version: str) -> str:
    try:
        kubernetes_validate.validate(each, version, strict=True)
    except kubernetes_validate.ValidationError as error:
        return str(error.message)
    return ""


class TestSchemas:
    def test_every_object_follows_its_schema(self, variants: Variants, variant: str) -> None:
        checked = 0
        for each in variants.objects(variant):
            if each["kind"] in CUSTOM or (variant.endswith("+") and each["kind"] != "Deployment"):
                continue  # the same as without components
            for version in (OLDEST[variant.removesuffix("+")], NEWEST):
                assert complaint(each, version) == "", f"{each['kind']}/{each['metadata']['name']}, {version}"
                checked += 1
        assert checked >= 6

    def test_a_wrong_field_and_a_wrong_type_are_seen(self, variants: Variants) -> None:
        right = variants.of("cpu", "Deployment")[0]
        for path, field, value in (
            (("spec",), "replica", 1),
            (("spec", "template", "spec", "containers", 0), "image", 5),
            (("spec", "template", "spec", "containers", 0, "readinessProbe"), "gprc", {"port": 1}),
        ):
            wrong = deepcopy(right)
            place: Any = wrong
            for step in path:
                place = place[step]
            place[field] = value
            assert complaint(wrong, NEWEST)

    def test_what_needs_a_newer_kubernetes_says_so(self, variants: Variants) -> None:
        (claim,) = variants.of("gpu-same-node", "ResourceClaimTemplate")
        with pytest.raises(kubernetes_validate.utils.SchemaNotFoundError):
            kubernetes_validate.validate(claim, "1.33", strict=True)
