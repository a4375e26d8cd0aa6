"""The part of kustomize that deploy/kubernetes uses, so that overlays are built without its binary.

Everything else is an error; where kubectl is at hand, a test holds this to what it builds.

Not done: the hash behind the names of generated ConfigMaps.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from copy import deepcopy
from pathlib import Path
from typing import Any, Final

import yaml

Object = dict[str, Any]
NOT_IN_A_NAMESPACE: Final = {"Namespace"}
MERGED_BY: Final = {
    "containers": "name",
    "initContainers": "name",
    "env": "name",
    "volumes": "name",
    "volumeMounts": "mountPath",
    "ports": "containerPort",
}
FIELDS: Final = {
    "apiVersion", "kind", "namespace", "resources", "components", "configMapGenerator", "patches", "images",
}  # fmt: skip


class NotUnderstood(Exception):
    """Something that kustomize may know and this does not, or that both refuse."""


class _Strict(yaml.SafeLoader):
    """Two equal keys are a mistake, as they are to kustomize."""


def _mapping(loader: _Strict, node: yaml.MappingNode) -> dict[Any, Any]:
    keys = [loader.construct_object(key) for key, _ in node.value]
    if len(set(keys)) != len(keys):
        raise NotUnderstood(f"a key is there twice{node.start_mark}")
    return loader.construct_mapping(node, deep=True)


_Strict.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


def read(text: str) -> list[Object]:
    """All documents of a YAML text."""
    return [document for document in yaml.load_all(text, _Strict) if document is not None]


def build(folder: Path) -> list[Object]:
    """The objects of an overlay. Raises NotUnderstood."""
    objects: list[Object] = []
    _accumulate(folder, objects, "Kustomization")
    return objects


def _accumulate(folder: Path, objects: list[Object], kind: str) -> None:
    """Do to `objects` what the kustomization in `folder` says, in kustomize's order."""
    (plan,) = read((folder / "kustomization.yaml").read_text())
    _only(FIELDS, plan, folder)
    if plan["kind"] != kind:
        raise NotUnderstood(f"{folder} is no {kind}")
    for name in plan.get("resources", []):
        path = folder / name
        objects += build(path) if path.is_dir() else read(path.read_text())
    for name in plan.get("components", []):
        _accumulate(folder / name, objects, "Component")
    for wanted in plan.get("configMapGenerator", []):
        _generate(wanted, folder, objects)
    for patch in plan.get("patches", []):
        _patch(patch, folder, objects)
    for each in objects:
        if "namespace" in plan and each["kind"] not in NOT_IN_A_NAMESPACE:
            each["metadata"]["namespace"] = plan["namespace"]
    for image in plan.get("images", []):
        _only({"name", "newTag"}, image, folder)
        _retag(objects, image["name"], image["newTag"])
    names = [(each["kind"], each["metadata"]["name"]) for each in objects]
    if len(set(names)) != len(names):
        raise NotUnderstood(f"{folder}: two objects have one name")


def _generate(wanted: Object, folder: Path, objects: list[Object]) -> None:
    _only({"name", "behavior", "envs", "literals"}, wanted, folder)
    lines = [line for file in wanted.get("envs", []) for line in (folder / file).read_text().splitlines()]
    pairs = [line.split("=", 1) for line in [*lines, *wanted.get("literals", [])] if line and not line.startswith("#")]
    data = dict(pairs)
    if len(data) != len(pairs):
        raise NotUnderstood(f"{folder}: a variable of {wanted['name']} is there twice")
    there = [each for each in objects if (each["kind"], each["metadata"]["name"]) == ("ConfigMap", wanted["name"])]
    if wanted.get("behavior", "create") == "merge":
        (one,) = there
        one["data"] |= data
    elif wanted.get("behavior", "create") != "create" or there:
        raise NotUnderstood(f"{folder}: {wanted}")
    else:
        objects.append({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": wanted["name"]}, "data": data})


def _patch(wanted: Object, folder: Path, objects: list[Object]) -> None:
    _only({"path", "patch", "target"}, wanted, folder)
    (patch,) = read((folder / wanted["path"]).read_text() if "path" in wanted else wanted["patch"])
    found = [each for each in objects if _chooser(wanted.get("target"), patch)(each)]
    if not found:
        raise NotUnderstood(f"{folder}: nothing to patch by {wanted}")
    for each in found:
        if patch.get("$patch") == "delete":
            objects.remove(each)
        else:
            change = {key: value for key, value in patch.items() if key not in {"apiVersion", "kind", "metadata"}}
            each.update(merged(each, change))


def _chooser(target: Object | None, patch: Object) -> Callable[[Object], bool]:
    if target is None:
        return lambda each: (each["kind"], each["metadata"]["name"]) == (patch["kind"], patch["metadata"]["name"])
    _only({"kind", "name", "labelSelector"}, target, "target")
    label, _, value = target.get("labelSelector", "=").partition("=")

    def chosen(each: Object) -> bool:
        return (
            each["kind"] == target["kind"]
            and re.fullmatch(target.get("name", ".*"), each["metadata"]["name"]) is not None
            and (not label or each["metadata"].get("labels", {}).get(label) == value)
        )

    return chosen


def merged(base: Object, patch: Object) -> Object:
    """A strategic merge: maps by key, lists of things that have names by those names, null takes away."""
    result = deepcopy(base)
    for key, value in patch.items():
        if key.startswith("$"):
            raise NotUnderstood(f"directive {key}")
        if value is None:
            result.pop(key, None)
        elif isinstance(value, dict) and isinstance(result.get(key), dict):
            result[key] = merged(result[key], value)
        elif isinstance(value, list) and result.get(key) and isinstance(value[0], dict):
            if key not in MERGED_BY:
                raise NotUnderstood(f"a list of things without names: {key}")
            result[key] = _merged_lists(result[key], value, MERGED_BY[key])
        else:
            result[key] = _without_nulls(value)
    return result


def _merged_lists(base: list[Object], patch: list[Object], name: str) -> list[Object]:
    ours = {each[name]: each for each in base}
    for each in patch:
        ours[each[name]] = merged(ours.get(each[name], {}), each)
    return list(ours.values())


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nulls(inner) for key, inner in value.items() if inner is not None}
    return deepcopy(value)


def _retag(objects: Iterable[Object], name: str, tag: str) -> None:
    for each in objects:
        pod = each.get("spec", {}).get("template", {}).get("spec", {})
        for container in [*pod.get("initContainers", []), *pod.get("containers", [])]:
            if container["image"].partition(":")[0] == name:
                container["image"] = f"{name}:{tag}"


def _only(known: set[str], given: Object, where: object) -> None:
    if unknown := set(given) - known:
        raise NotUnderstood(f"{where}: {sorted(unknown)}")
