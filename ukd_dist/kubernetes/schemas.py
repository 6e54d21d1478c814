"""What Kubernetes' own schemas, and definitions of custom resources, say of an object; offline.

A custom resource is read as the API server reads it: defaults are filled in, what the schema does not name is
refused, and its rules in CEL are asked. Left out: rules that compare with the object's former state, and
whatever admission controllers of a cluster say.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ukd_dist.errors import ResourceError, UsageError
from ukd_dist.kubernetes.manifests import Manifest, parse

Schema = dict[str, Any]
_PRESERVED = "x-kubernetes-preserve-unknown-fields"
_RULES = "x-kubernetes-validations"
# What every custom resource has beside its schema's own properties.
_METADATA: Schema = {
    "type": "object",
    "additionalProperties": False,
    "required": ["name"],
    "properties": {
        "name": {"type": "string", "pattern": r"^[a-z0-9]([-.a-z0-9]{0,251}[a-z0-9])?$"},
        "namespace": {"type": "string"},
        "labels": {"type": "object", "additionalProperties": {"type": "string"}},
        "annotations": {"type": "object", "additionalProperties": {"type": "string"}},
    },
}


class Schemas:
    """Kubernetes' schemas of one version, and definitions of custom resources.

    Args:
        version: Of Kubernetes, such as 1.33; None: the newest that is known.
        definitions: A folder of CustomResourceDefinitions in YAML; None: there are none.

    Raises:
        ResourceError: The package that holds Kubernetes' schemas is not installed.
        UsageError: It does not know the version, or the folder holds no definition.
    """

    def __init__(self, version: str | None = None, definitions: Path | None = None) -> None:
        try:
            import kubernetes_validate
        except ImportError as error:
            raise ResourceError(
                "kubernetes-validate is not installed",
                expected="the schemas of Kubernetes that it brings",
                action="pip install 'ukd-dist[k8s]'",
            ) from error
        known: list[str] = kubernetes_validate.utils.all_versions()
        if version is not None and version not in {found.rpartition(".")[0] for found in known}:
            raise UsageError(
                f"Kubernetes {version} is not known here",
                expected=f"{known[0].rpartition('.')[0]} to {known[-1].rpartition('.')[0]}",
                action="name one of them",
            )
        self._version = version or known[-1]
        self._custom = dict(_definitions(definitions)) if definitions else {}

    def problems(self, manifest: Manifest) -> list[str] | None:
        """What is wrong with an object; None where no schema is known of its kind."""
        kind = (manifest["apiVersion"], manifest["kind"])
        if kind in self._custom:
            return custom_problems(manifest, self._custom[kind])
        import kubernetes_validate

        try:
            kubernetes_validate.validate(manifest, self._version, strict=True)
        except kubernetes_validate.SchemaNotFoundError:
            return None
        except kubernetes_validate.ValidationError as error:
            return [_place(error.path, error.message)]
        return []


def custom_problems(manifest: Manifest, schema: Schema) -> list[str]:
    """What is wrong with a custom resource.

    Args:
        manifest: The object, which is not changed.
        schema: `openAPIV3Schema` of its version.
    """
    from jsonschema import Draft4Validator

    filled = fill_defaults(copy.deepcopy(manifest), schema)
    errors = Draft4Validator(closed(schema)).iter_errors(filled)
    found = [_place(error.absolute_path, error.message) for error in errors]
    return found or list(broken_rules(filled, schema))


def fill_defaults(value: Any, schema: Schema) -> Any:
    """A value with the schema's defaults where it says nothing; changed in place."""
    if isinstance(value, dict):
        for name, part in schema.get("properties", {}).items():
            if name not in value and "default" in part:
                value[name] = copy.deepcopy(part["default"])
    for part, inner in _children(value, schema):
        fill_defaults(part, inner)
    return value


def closed(schema: Schema, *, top: bool = True) -> Schema:
    """A structural schema of Kubernetes as one of JSON Schema that refuses what it does not name."""
    made = {k: v for k, v in schema.items() if not k.startswith("x-kubernetes-") and k != "nullable"}
    if "properties" in made:
        made["properties"] = {name: closed(part, top=False) for name, part in made["properties"].items()}
        if top:
            made["properties"] |= {"metadata": _METADATA}
        if not schema.get(_PRESERVED) and "additionalProperties" not in made:
            made["additionalProperties"] = False
    for key in ("items", "additionalProperties"):
        if isinstance(made.get(key), dict):
            made[key] = closed(made[key], top=False)
    return {"anyOf": [made, {"type": "null"}]} if schema.get("nullable") else made


def broken_rules(value: Any, schema: Schema, where: str = "") -> Iterator[str]:
    """The CEL rules that a value breaks; those about its former state (`oldSelf`) are passed over."""
    import cel

    for rule in schema.get(_RULES, ()):
        if "oldSelf" not in rule["rule"] and not cel.evaluate(rule["rule"], {"self": value}):
            yield f"{where or 'it'}: {rule.get('message', rule['rule'])}"
    for name, part, inner in _named_children(value, schema):
        yield from broken_rules(part, inner, f"{where}.{name}".lstrip("."))


def _children(value: Any, schema: Schema) -> Iterator[tuple[Any, Schema]]:
    for _, part, inner in _named_children(value, schema):
        yield part, inner


def _named_children(value: Any, schema: Schema) -> Iterator[tuple[str, Any, Schema]]:
    """The parts of a value that the schema speaks of."""
    if isinstance(value, dict):
        others = schema.get("additionalProperties")
        for name, part in value.items():
            inner = schema.get("properties", {}).get(name, others)
            if isinstance(inner, dict):
                yield name, part, inner
    elif isinstance(value, list) and isinstance(schema.get("items"), dict):
        for number, part in enumerate(value):
            yield str(number), part, schema["items"]


def _definitions(folder: Path) -> Iterator[tuple[tuple[str, str], Schema]]:
    """The schemas of a folder's definitions, by API version and kind."""
    found = False
    for path in sorted([*folder.glob("*.yaml"), *folder.glob("*.yml")]):
        for definition in parse(path.read_text(encoding="utf-8"), str(path)):
            if definition["kind"] != "CustomResourceDefinition":
                continue
            spec, found = definition["spec"], True
            for version in spec["versions"]:
                kind = (f"{spec['group']}/{version['name']}", spec["names"]["kind"])
                yield kind, version["schema"]["openAPIV3Schema"]
    if not found:
        raise UsageError(
            f"{folder} holds no definition of a custom resource",
            expected="CustomResourceDefinitions in .yaml files",
            action="fill it: kubectl get crd rayjobs.ray.io -o yaml > FOLDER/rayjobs.yaml",
        )


def _place(path: Any, message: str) -> str:
    where = ".".join(map(str, path))
    return f"{where or 'it'}: {message}"
