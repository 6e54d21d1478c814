"""`ukd k8s check`: manifests validated offline, by schemas and against each other."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ukd_dist.errors import DataError
from ukd_dist.kubernetes import references
from ukd_dist.kubernetes.manifests import Manifest, build, folder, overlays, parse
from ukd_dist.kubernetes.pods import name_of, pods
from ukd_dist.kubernetes.schemas import Schemas

STDIN = Path("-")


@dataclass(frozen=True)
class Verdict:
    """What was found of an object.

    Attributes:
        where: The file, or the folder that kustomize built.
        object: Its kind and name.
        schema: Whether a schema of its kind is known.
        problems: What is wrong with it; of none of its own with the pods that it describes.
    """

    where: str
    object: str
    schema: bool
    problems: tuple[str, ...]


def check(place: Path | None, schemas: Schemas) -> list[Verdict]:
    """Validate manifests.

    Args:
        place: A file, `-` for stdin, or a folder for kustomize; None: every overlay of the package.
        schemas: By which.

    Raises:
        UsageError: They cannot be read or built.
        ResourceError: They have to be built, and there is no kustomize.
    """
    if place is None:
        return [
            v for name in overlays() for v in verdicts(name, build(folder() / "overlays" / name), schemas)
        ]
    if place.is_dir():
        return verdicts(str(place), build(place), schemas)
    text = sys.stdin.read() if place == STDIN else place.read_text(encoding="utf-8")
    return verdicts(str(place), parse(text, str(place)), schemas)


def verdicts(where: str, objects: Sequence[Manifest], schemas: Schemas) -> list[Verdict]:
    """What is found of objects that are applied together; the last verdict is on all of them."""
    found = []
    for item in objects:
        own = schemas.problems(item)
        inner = [] if own else _pod_problems(item, schemas)
        found.append(Verdict(where, name_of(item), own is not None, (*(own or []), *inner)))
    # What is no object of its kind fits nothing.
    together = () if any(verdict.problems for verdict in found) else tuple(references.problems(objects))
    return [*found, Verdict(where, "together", True, together)]


def _pod_problems(item: Manifest, schemas: Schemas) -> list[str]:
    """What Kubernetes' own schemas say of the pods that an object describes."""
    found = []
    for pod in pods(item):
        name = {"name": "pod"}
        whole = {"apiVersion": "v1", "kind": "PodTemplate", "metadata": name, "template": pod.template}
        found += [f"{pod.where}: {problem}" for problem in schemas.problems(whole) or []]
    return found


def refuse_problems(found: Sequence[Verdict]) -> None:
    """Raise DataError where anything is wrong."""
    wrong = [(verdict, problem) for verdict in found for problem in verdict.problems]
    if wrong:
        verdict, problem = wrong[0]
        raise DataError(
            f"{len(wrong)} problem(s), first {verdict.where}: {verdict.object}: {problem}",
            expected="manifests that Kubernetes and KubeRay take, and that fit each other",
            action="correct them",
        )
