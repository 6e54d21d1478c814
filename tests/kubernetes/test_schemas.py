"""Custom resources against their definitions: as strict as the API server, and no stricter."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from ukd_dist.errors import ResourceError, UsageError
from ukd_dist.kubernetes.manifests import Manifest
from ukd_dist.kubernetes.pods import job_spec, quantity
from ukd_dist.kubernetes.schemas import Schemas, custom_problems, fill_defaults

Built = Callable[[str], list[Manifest]]
SCHEMA = yaml.safe_load("""
type: object
properties:
  apiVersion: {type: string}
  kind: {type: string}
  metadata: {type: object}
  spec:
    type: object
    required: [size, mode]
    properties:
      size: {anyOf: [{type: integer}, {type: string}], x-kubernetes-int-or-string: true}
      mode: {type: string, enum: [a, b], default: a}
      note: {type: string, nullable: true}
      labels: {type: object, additionalProperties: {type: string}}
      anything:
        {type: object, x-kubernetes-preserve-unknown-fields: true, properties: {known: {type: string}}}
      parts:
        type: array
        items:
          type: object
          properties: {from: {type: integer, default: 1}, to: {type: integer}}
          x-kubernetes-validations:
            - {rule: "!has(self.to) || self.from <= self.to", message: from is behind to}
      state:
        type: string
        x-kubernetes-validations: [{rule: self == oldSelf, message: state is immutable}]
""")


def sample(**spec: Any) -> Manifest:
    return {"apiVersion": "x/v1", "kind": "X", "metadata": {"name": "x"}, "spec": {"size": 1, **spec}}


@pytest.mark.parametrize(
    "spec",
    [
        {},
        {"size": "2Gi"},
        {"note": None},
        {"labels": {"any": "thing"}},
        {"anything": {"known": "a", "unknown": 1}},
        {"parts": [{"to": 1}, {"from": 2, "to": 3}]},
        {"state": "what it was before is not known here"},
    ],
)
def test_what_the_definition_allows_is_accepted(spec: dict[str, Any]) -> None:
    assert custom_problems(sample(**spec), SCHEMA) == []


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ({"sise": 1}, "spec: Additional properties are not allowed ('sise' was unexpected)"),
        ({"size": 1.5}, "spec.size: 1.5 is not valid"),
        ({"mode": "c"}, "spec.mode: 'c' is not one of ['a', 'b']"),
        ({"mode": None}, "spec.mode: None is not"),
        ({"labels": {"one": 1}}, "spec.labels.one: 1 is not of type 'string'"),
        ({"parts": [{}, {"too": 1}]}, "spec.parts.1: Additional properties"),
        ({"parts": [{"to": 0}]}, "spec.parts.0: from is behind to"),
    ],
)
def test_what_the_definition_does_not_allow_is_named_with_its_place(spec: dict[str, Any], said: str) -> None:
    (problem, *_) = custom_problems(sample(**spec), SCHEMA)
    assert problem.startswith(said)


def test_defaults_are_filled_in_before_anything_is_required() -> None:
    filled = fill_defaults(sample(parts=[{}]), SCHEMA)
    assert filled["spec"] == {"size": 1, "mode": "a", "parts": [{"from": 1}]}


def test_the_object_that_is_checked_stays_as_it_is() -> None:
    manifest = sample(parts=[{}])
    before = copy.deepcopy(manifest)
    custom_problems(manifest, SCHEMA)
    assert manifest == before


def test_an_object_has_a_name_and_nothing_unknown_beside_its_spec() -> None:
    assert custom_problems({**sample(), "metadata": {}}, SCHEMA) == [
        "metadata: 'name' is a required property"
    ]
    assert "unexpected" in custom_problems({**sample(), "specs": {}}, SCHEMA)[0]
    assert "labls" in custom_problems({**sample(), "metadata": {"name": "x", "labls": {}}}, SCHEMA)[0]


def break_job(spec: dict[str, Any], way: str) -> None:
    head = spec["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["containers"][0]
    match way:
        case "entrypoints":
            spec["entrypoints"] = spec.pop("entrypoint")
        case "imagePullPolicies":
            head["imagePullPolicies"] = "Always"
        case "backend":
            spec["rayClusterSpec"]["gcsFaultToleranceOptions"] = {"backend": "memory"}
        case "maxReplicas":
            spec["rayClusterSpec"]["workerGroupSpecs"][0]["maxReplicas"] = "many"
        case "deletionStrategy":
            spec["deletionStrategy"] = {"onSuccess": {"policy": "DeleteCluster"}}
        case "managedBy":
            spec["managedBy"] = "somebody"


@pytest.mark.parametrize(
    "way", ["entrypoints", "imagePullPolicies", "backend", "maxReplicas", "deletionStrategy", "managedBy"]
)
@pytest.mark.parametrize("overlay", ["gpu", "nightly"])
def test_a_mistake_in_a_job_is_found(built: Built, schemas: Schemas, overlay: str, way: str) -> None:
    (manifest,) = [item for item in built(overlay) if item["kind"] in ("RayJob", "RayCronJob")]
    assert schemas.problems(manifest) == []
    spec = job_spec(manifest)
    assert spec is not None
    break_job(spec, way)

    found = schemas.problems(manifest)

    assert found
    assert way in found[0]


def test_a_mistake_in_what_kubernetes_knows_itself_is_found() -> None:
    claim = yaml.safe_load("""
        {apiVersion: v1, kind: PersistentVolumeClaim, metadata: {name: a},
         spec: {accessModes: [ReadWriteMany], resources: {requests: {storage: 1Gi}}}}
    """)
    assert Schemas().problems(claim) == []
    claim["spec"]["accesModes"] = claim["spec"].pop("accessModes")
    assert "accesModes" in (Schemas().problems(claim) or [""])[0]


def test_of_a_kind_without_a_schema_nothing_is_said() -> None:
    assert Schemas().problems(sample()) is None


def test_a_version_of_kubernetes_that_is_not_known_is_refused() -> None:
    with pytest.raises(UsageError, match=r"Kubernetes 1\.5 is not known here; expected 1\.\d+ to 1\.\d+"):
        Schemas("1.5")


def test_a_folder_without_definitions_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds no definition"):
        Schemas(definitions=tmp_path)


def test_without_kubernetes_schemas_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "kubernetes_validate", None)
    with pytest.raises(ResourceError, match=r"pip install 'ukd-dist\[k8s\]'"):
        Schemas()


@pytest.mark.parametrize(
    ("text", "number"), [("2", 2), ("500m", 0.5), ("1.5", 1.5), ("2Gi", 2**31), ("1G", 1e9), (4, 4)]
)
def test_a_quantity_is_a_number(text: str | int, number: float) -> None:
    assert quantity(text) == number


@given(st.integers(1, 10**6))
def test_a_thousand_thousandths_are_one(number: int) -> None:
    assert quantity(f"{1000 * number}m") == quantity(number)


@pytest.mark.parametrize("text", ["", "Gi", "1 Gi", "-1", "1Zi"])
def test_what_is_no_quantity_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is no quantity"):
        quantity(text)
