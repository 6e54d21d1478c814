"""Knowledge as files: logits and targets are arrays over rows, bound to the keys of those rows.

A file's metadata carries the digest of its split's keys in row order, so that a permuted, foreign or stale
file is refused. Tensors only (safetensors): nothing from elsewhere is unpickled. Further knowledge (spectra
of features) is a further tensor over rows.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from ukd_dist.config import Views
from ukd_dist.data.shards import Rows, SplitName
from ukd_dist.errors import DataError, MismatchError
from ukd_dist.manifest import write_atomically

METADATA = "ukd_dist"
LOGITS, TARGET, TRAINED_ON, MEAN_ENTROPY = "logits", "target", "trained_on", "mean_entropy"


def logits_name(split: SplitName) -> str:
    """Path of a split's logits inside a member's directory."""
    return f"logits/{split}.safetensors"


def logits_path(member: Path, split: SplitName) -> Path:
    """Where a teacher's or student's logits on a split lie."""
    return member / logits_name(split)


def write_logits(
    path: Path, logits: torch.Tensor, rows: Rows, split: SplitName, *, view: str, trained_on: torch.Tensor
) -> None:
    """Write the logits of every row.

    Args:
        path: The file.
        logits: float32 or float16 `[rows, classes]`, of random views `[rows, views, classes]`.
        rows: The split's samples.
        split: Which split.
        view: What of each video was seen, `config.Views.name`.
        trained_on: bool `[rows]`, True where the network was trained on the row.

    Raises:
        DataError: A logit is not finite.
    """
    finite = torch.isfinite(logits).flatten(1).all(dim=1)
    if not finite.all():
        first = int((~finite).nonzero()[0])
        raise DataError(
            f"{int((~finite).sum())} rows for {path} are not finite, first '{rows.keys[first]}'",
            expected="finite logits",
            action="train with a lower learning rate",
        )
    tensors = {LOGITS: logits.contiguous(), TRAINED_ON: trained_on}
    _write(path, tensors, rows, {"split": split, "view": view})


def write_target(
    path: Path,
    target: torch.Tensor,
    rows: Rows,
    description: dict[str, Any],
    *,
    view: str,
    mean_entropies: torch.Tensor | None = None,
) -> None:
    """Write the target of every training row.

    Args:
        path: The file.
        target: float32, of the shape of its teachers' logits.
        rows: The training rows.
        description: The target's settings.
        view: What of each video its teachers saw.
        mean_entropies: Of AVG-1, float64 in nats, one for each row of classes: what its loss needs too.
    """
    tensors = {TARGET: target}
    if mean_entropies is not None:
        tensors[MEAN_ENTROPY] = mean_entropies
    _write(path, tensors, rows, {"split": "train", "view": view, "target": description})


@dataclass(frozen=True)
class RowArray:
    """An array over rows in a file, checked against the rows that it must speak of; read in blocks.

    Attributes:
        path: The file.
        tensor: Name of the tensor.
        shape: Rows, views where they are random, and classes where there are any.
        itemsize: Bytes of one value.
        view: What of each video the array speaks of, `config.Views.name`.
    """

    path: Path
    tensor: str
    shape: tuple[int, ...]
    itemsize: int
    view: str

    @property
    def row_bytes(self) -> int:
        """Bytes of one row, as stored."""
        return math.prod(self.shape[1:]) * self.itemsize

    def read(self, begin: int = 0, end: int | None = None) -> torch.Tensor:
        """Rows `begin` to `end`, `[end - begin, ...]`; only their bytes are read."""
        with safe_open(self.path, framework="pt") as file:
            block: torch.Tensor = file.get_slice(self.tensor)[begin : self.shape[0] if end is None else end]
        return block


def open_rows(path: Path, tensor: str, rows: Rows, split: SplitName, num_classes: int | None) -> RowArray:
    """Open logits or targets for reading; without classes, an array of one value for each row of them.

    Raises:
        DataError: The file is missing or damaged, or has another class count.
        MismatchError: It speaks of other rows.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = json.loads((file.metadata() or {}).get(METADATA, "{}"))
            array = file.get_slice(tensor)
            shape, itemsize = tuple(array.get_shape()), array[:0].element_size()
    except FileNotFoundError:
        raise DataError(
            f"{path} is missing",
            expected=f"safetensors with '{tensor}'",
            action="remove its member to make it again",
        ) from None
    except (SafetensorError, OSError, ValueError) as error:
        raise DataError(
            f"{path} is damaged ({error})",
            expected=f"safetensors with '{tensor}'",
            action="remove its member to make it again",
        ) from error
    if metadata.get("split") != split or metadata.get("keys_sha256") != rows.digest:
        raise MismatchError(
            f"{path} speaks of other videos (split {metadata.get('split')}, shape {list(shape)})",
            expected=f"the {len(rows)} {split} rows of this run's shards, in their order",
            action="remove its member to make it again from these shards",
        )
    view = str(metadata.get("view", Views().name))
    views = Views.named(view)
    expected = {"rows": len(rows)}
    if views is not None and views.kind == "random" and tensor != TRAINED_ON:
        expected["views"] = views.count
    if num_classes is not None:
        expected["classes"] = num_classes
    if shape != tuple(expected.values()):
        raise DataError(
            f"{path} has shape {list(shape)}",
            expected=f"{list(expected.values())}: {', '.join(expected)}",
            action="remove its member to make it again from these shards",
        )
    return RowArray(path, tensor, shape, itemsize, view)


def common_view(arrays: Sequence[RowArray]) -> str:
    """The view that all of them speak of.

    Raises:
        MismatchError: Two speak of different ones; names both.
    """
    first, *others = arrays
    for other in others:
        if other.view != first.view:
            raise MismatchError(
                f"{other.path} speaks of view {other.view}, {first.path} of {first.view}",
                expected="the same view in all logits of a target",
                action="select teachers of one view, or make their logits again",
            )
    return first.view


def _write(path: Path, tensors: dict[str, torch.Tensor], rows: Rows, metadata: dict[str, Any]) -> None:
    for name, tensor in tensors.items():
        assert len(tensor) == len(rows), f"{name} has {len(tensor)} rows, the split {len(rows)}"
    # One entry: safetensors writes several in no fixed order, and equal content must give equal bytes.
    entry = json.dumps({**metadata, "keys_sha256": rows.digest, "schema": 1}, sort_keys=True)
    write_atomically(path, save(tensors, metadata={METADATA: entry}))
