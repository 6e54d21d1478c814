"""The overlays as kustomize builds them, and KubeRay's definitions, where they are."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from ukd_dist.errors import ResourceError
from ukd_dist.kubernetes import manifests
from ukd_dist.kubernetes.manifests import Manifest
from ukd_dist.kubernetes.schemas import Schemas


@cache
def _built(name: str) -> list[Manifest]:
    return manifests.build(manifests.overlay_folder(name))


@pytest.fixture(scope="session")
def kustomize() -> None:
    """Skips where there is no recent kustomize."""
    try:
        manifests.find_kustomize()
    except ResourceError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def built(kustomize: None) -> Callable[[str], list[Manifest]]:
    """The objects of an overlay, by its name; they may be changed."""
    return lambda name: copy.deepcopy(_built(name))


@pytest.fixture(scope="session")
def definitions(request: pytest.FixtureRequest) -> Path:
    """The folder with KubeRay's definitions."""
    folder = Path(request.config.getoption("--kuberay-crds"))
    if not folder.is_dir():
        pytest.skip(f"no definitions of KubeRay in {folder}: give --kuberay-crds or UKD_KUBERAY_CRDS")
    return folder


@pytest.fixture(scope="session")
def schemas(definitions: Path) -> Schemas:
    return Schemas(definitions=definitions)
