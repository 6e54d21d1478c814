"""The manifests of k8s/: where they lie, and what kustomize makes of an overlay.

kustomize itself builds them, that of kubectl or one of its own, so that what is rendered and checked is what
`kubectl apply -k` would apply.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sysconfig
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from ukd_dist.errors import ResourceError, UsageError

Manifest = dict[str, Any]
_FILE = "kustomization.yaml"
_OLDEST = 5  # the major version that knows what the manifests use
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _Dumper(yaml.SafeDumper):
    """Text of several lines stays that."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002 - PyYAML's signature
        """Write what occurs twice twice: not every reader of manifests follows aliases."""
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.Node:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _text)


def folder() -> Path:
    """Where the manifests are: beside the package in a clone, else where its installation put them.

    Raises:
        ResourceError: Neither has them.
    """
    places = (
        Path(__file__).parents[2] / "k8s",
        Path(sysconfig.get_path("data")) / "share" / "ukd-dist" / "k8s",
    )
    for place in places:
        if (place / "base" / _FILE).is_file():
            return place
    raise ResourceError(
        f"no manifests in {' or '.join(map(str, places))}",
        expected="the folder k8s/ of this package",
        action="work in a clone of the repository, or install the package again",
    )


def overlays() -> list[str]:
    """Names of the overlays."""
    return sorted(path.parent.name for path in folder().glob(f"overlays/*/{_FILE}"))


def overlay_folder(name: str) -> Path:
    """The folder of an overlay, by its name or as a path of one's own.

    Raises:
        UsageError: There is none.
    """
    for place in (folder() / "overlays" / name, Path(name)):
        if (place / _FILE).is_file():
            return place
    raise UsageError(
        f"overlay '{name}' does not exist",
        expected=f"one of {', '.join(overlays())}, or a folder with a {_FILE}",
        action="name one of these",
    )


def build(place: Path) -> list[Manifest]:
    """What kustomize makes of a folder.

    Raises:
        ResourceError: There is no recent kustomize.
        UsageError: kustomize refuses the folder.
    """
    done = _call([*find_kustomize(), str(place)])
    if done.returncode:
        raise UsageError(
            f"kustomize refuses {place} ({_last_line(done.stderr)})",
            expected="a folder that kustomize can build",
            action="correct what it names",
        )
    return parse(done.stdout, str(place))


def parse(text: str, where: str) -> list[Manifest]:
    """The objects of a YAML text, those of lists included; `where` names it in messages.

    Raises:
        UsageError: It is not YAML, or one of its documents is no object of Kubernetes.
    """
    try:
        documents = [document for document in yaml.load_all(text, _LOADER) if document is not None]
    except yaml.YAMLError as error:
        raise UsageError(
            f"{where} is not YAML: {' '.join(str(error).split())}",
            expected="manifests in YAML",
            action="correct the file",
        ) from error
    items = [d.get("items") if isinstance(d, dict) and d.get("kind") == "List" else [d] for d in documents]
    found = [item for group in items for item in group or []]
    for item in found:
        if not _is_object(item):
            raise UsageError(
                f"{where} holds what is no object of Kubernetes",
                expected="apiVersion, kind and metadata in every document",
                action="correct the file",
            )
    return found


def _is_object(item: Any) -> bool:
    """Whether a document has what every object of Kubernetes has."""
    return (
        isinstance(item, dict)
        and all(isinstance(item.get(name), str) for name in ("apiVersion", "kind"))
        and isinstance(item.get("metadata"), dict)
    )


def dump(objects: Sequence[Manifest]) -> str:
    """Objects as `kubectl apply -f -` reads them."""
    return yaml.dump_all(objects, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110)


def find_kustomize() -> list[str]:
    """The command that builds a folder.

    Raises:
        ResourceError: Neither kustomize nor kubectl is here, or they are too old.
    """
    tried = []
    for program, asked, command in (
        ("kustomize", ["version"], ["build"]),
        ("kubectl", ["version", "--client", "--output", "json"], ["kustomize"]),
    ):
        if shutil.which(program) is None:
            continue
        version = _version(_call([program, *asked]).stdout)
        if version is not None and int(version.partition(".")[0]) >= _OLDEST:
            return [program, *command]
        tried.append(f"{program} has {version or 'none'}")
    raise ResourceError(
        f"no recent kustomize ({'; '.join(tried) or 'neither kustomize nor kubectl is on the PATH'})",
        expected=f"kustomize {_OLDEST} or later, as in kubectl 1.27 and later",
        action="install kubectl: https://kubernetes.io/docs/tasks/tools/",
    )


def _version(said: str) -> str | None:
    if said.startswith("{"):
        said = str(json.loads(said).get("kustomizeVersion", ""))
    found = re.search(r"v(\d+\.\d+\.\d+)", said)
    return found.group(1) if found else None


def _call(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False)


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or ["it says nothing"])[-1]
