"""The overlays build, alike by kustomize itself and by the small part of it that the other tests use."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.deploy.kustomize import MERGED_BY, NotUnderstood, Object, build, merged, read
from tests.deploy.variants import KUBERNETES, OPTIONAL, OVERLAYS, VARIANTS, Variants

GENERATED = re.compile(r"(minedraft-(?:coordinator|verifier|drafter|http))-[bcdfghkmt2456789]{10}")
HEAD = "apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\n"


def comparable(value: Any, key: str = "") -> Any:
    """Without the order of lists that are merged by name, and without the hashes of generated names."""
    if isinstance(value, dict):
        return {name: comparable(inner, name) for name, inner in value.items()}
    if isinstance(value, list):
        each = [comparable(inner) for inner in value]
        return sorted(each, key=lambda one: str(one[MERGED_BY[key]])) if key in MERGED_BY and key != "ports" else each
    return GENERATED.sub(r"\1", value) if isinstance(value, str) else value


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="needs kubectl")
def test_kubectl_builds_the_same(variants: Variants, variant: str) -> None:
    done = subprocess.run(
        ["kubectl", "kustomize", str(variants.folder(variant))], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    theirs, ours = read(done.stdout), variants.objects(variant)

    def by_name(objects: list[Object]) -> dict[str, Object]:
        return {f"{each['kind']}/{comparable(each['metadata']['name'])}": each for each in objects}

    assert set(by_name(theirs)) == set(by_name(ours))
    for name, each in by_name(theirs).items():
        assert comparable(each) == comparable(by_name(ours)[name]), name
    references = re.findall(r"configMapRef:\n +name: (\S+)", done.stdout)
    assert references
    assert set(references) <= {each["metadata"]["name"] for each in theirs if each["kind"] == "ConfigMap"}


def test_every_file_is_part_of_a_deployment() -> None:
    used: set[Path] = set()

    def walk(folder: Path) -> None:
        used.add(folder / "kustomization.yaml")
        (plan,) = read((folder / "kustomization.yaml").read_text())
        for name in [*plan.get("resources", []), *plan.get("components", [])]:
            path = (folder / name).resolve()
            walk(path) if path.is_dir() else used.add(path)
        for patch in plan.get("patches", []):
            used.update({folder / patch["path"]} if "path" in patch else set())
        used.update(folder / file for each in plan.get("configMapGenerator", []) for file in each.get("envs", []))

    for folder in [*(f"overlays/{name}" for name in OVERLAYS), *(f"components/{name}" for name in OPTIONAL)]:
        walk((KUBERNETES / folder).resolve())
    assert {path.resolve() for path in KUBERNETES.rglob("*") if path.is_file()} == used
    assert len(VARIANTS) == 2 * len(list((KUBERNETES / "overlays").iterdir()))


@pytest.mark.parametrize(
    "text",
    [
        "replicas: [{name: a, count: 2}]",
        "resources: [a.yaml, a.yaml]",
        "resources: [twice.yaml]",
        "resources: [a.yaml]\npatches: [{path: nothing.yaml}]",
        "resources: [a.yaml]\nconfigMapGenerator: [{name: c, files: [a.yaml]}]",
        "resources: [a.yaml]\nimages: [{name: a, newName: b}]",
        "components: [.]",
    ],
)
def test_what_it_does_not_know_is_an_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.yaml").write_text("kind: A\nmetadata: {name: a}")
    (tmp_path / "nothing.yaml").write_text("kind: A\nmetadata: {name: b}\nspec: {}")
    (tmp_path / "twice.yaml").write_text("kind: A\nkind: B\nmetadata: {name: a}")
    (tmp_path / "kustomization.yaml").write_text(HEAD + text)
    with pytest.raises(NotUnderstood):
        build(tmp_path)


def test_a_strategic_merge() -> None:
    base = {"env": [{"name": "a", "value": "1"}, {"name": "b", "value": "2"}], "probe": {"grpc": 1, "period": 5}}
    patch = {"env": [{"name": "b", "value": "3"}], "probe": {"grpc": None, "exec": {"command": ["x"]}}}
    assert merged(base, patch) == {
        "env": [{"name": "a", "value": "1"}, {"name": "b", "value": "3"}],
        "probe": {"period": 5, "exec": {"command": ["x"]}},
    }
    with pytest.raises(NotUnderstood, match="without names"):
        merged({"tolerations": [{"key": "a"}]}, {"tolerations": [{"key": "b"}]})
    with pytest.raises(NotUnderstood, match="directive"):
        merged({"env": []}, {"$retainKeys": ["a"]})
