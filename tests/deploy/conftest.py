"""Fixtures of the tests of deploy/."""

from __future__ import annotations

import pytest

from tests.deploy.variants import VARIANTS, Variants


@pytest.fixture(scope="session")
def variants(tmp_path_factory: pytest.TempPathFactory) -> Variants:
    return Variants(tmp_path_factory.mktemp("kustomize"))


@pytest.fixture(params=VARIANTS)
def variant(request: pytest.FixtureRequest) -> str:
    return str(request.param)
