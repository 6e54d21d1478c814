"""Knowledge as files: logits and targets are arrays over rows, bound to the keys of those rows.

A file's metadata carries the digest of its split's keys in row order, so that a permuted, foreign or stale
file is refused. Beside logits lie two marks of each row: `trained_on`, and `covers` where the network has no
opinion on some rows; those rows' logits are NaN, so that a reader who overlooks the mark is refused, and no
missing opinion passes for a zero. Tensors only (safetensors): nothing from elsewhere is unpickled. Further
knowledge (spectra of features) is a further tensor over rows.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save

from ukd_dist import manifest
from ukd_dist.clip_config import Views
from ukd_dist.data.rowarray import Blocks, Checks, RowArray, open_arrays, write_blocks
from ukd_dist.data.shards import Rows, SplitName
from ukd_dist.errors import DataError, MismatchError

METADATA = "ukd_dist"
LOGITS, TARGET, TRAINED_ON, COVERS = "logits", "target", "trained_on", "covers"
MEAN_ENTROPY = "mean_entropy"
UNKNOWN_VIEW = "unknown"  # of other systems' logits: nobody here knows which frames and which crop they saw
CHECKS = "checks"  # in a manifest's summary: name of a file -> its checks


def logits_name(split: SplitName) -> str:
    """Path of a split's logits inside a member's directory."""
    return f"logits/{split}.safetensors"


def logits_path(member: Path, split: SplitName) -> Path:
    """Where a teacher's or student's logits on a split lie."""
    return member / logits_name(split)


def write_logits(
    path: Path,
    logits: torch.Tensor,
    rows: Rows,
    split: SplitName,
    *,
    view: str,
    trained_on: torch.Tensor,
    covers: torch.Tensor | None = None,
) -> Checks:
    """Write the logits of every row.

    Args:
        path: The file.
        logits: float32 or float16 `[rows, classes]`, of random views `[rows, views, classes]`.
        rows: The split's samples.
        split: Which split.
        view: What of each video was seen, `clip_config.Views.name`.
        trained_on: bool `[rows]`, True where the network was trained on the row.
        covers: bool `[rows]`, True where it has an opinion; None: everywhere. Other rows are written as NaN.

    Returns:
        What the manifest keeps, for the bytes to be checked as they are read.

    Raises:
        DataError: A logit of a covered row is not finite.
    """
    tensors = {LOGITS: logits.contiguous(), TRAINED_ON: trained_on}
    if covers is not None and not covers.all():
        tensors |= {LOGITS: logits.masked_fill(~covers.unsqueeze(1), torch.nan), COVERS: covers}
    refuse_not_finite(path, logits, rows.keys, covers)
    return _write(path, tensors, rows, {"split": split, "view": view})


def refuse_not_finite(
    path: Path, logits: torch.Tensor, keys: Sequence[str], covers: torch.Tensor | None = None
) -> None:
    """Refuse logits that are not finite on a row that is covered; `keys` name their rows.

    Raises:
        DataError: Some are not; names the first.
    """
    wrong = ~torch.isfinite(logits).flatten(1).all(dim=1)
    if covers is not None:
        wrong &= covers
    if wrong.any():
        raise DataError(
            f"{int(wrong.sum())} rows for {path} are not finite, first '{keys[int(wrong.nonzero()[0])]}'",
            expected="finite logits",
            action="train with a lower learning rate",
        )


def join_logits(
    path: Path,
    blocks: Iterable[torch.Tensor],
    shape: tuple[int, ...],
    rows: Rows,
    split: SplitName,
    *,
    view: str,
    trained_on: torch.Tensor,
) -> Checks:
    """Write finite float32 logits of `shape` that come in blocks of rows, as `write_logits` writes them."""
    assert shape[0] == len(trained_on) == len(rows)
    tensors = {
        LOGITS: Blocks(shape, torch.float32, blocks),
        TRAINED_ON: Blocks((len(rows),), torch.bool, [trained_on]),
    }
    return write_blocks(path, tensors, {METADATA: _entry(rows, {"split": split, "view": view})})


def write_target(
    path: Path,
    target: torch.Tensor,
    rows: Rows,
    description: dict[str, Any],
    *,
    view: str,
    mean_entropies: torch.Tensor | None = None,
) -> Checks:
    """Write the target of every training row; returns as `write_logits`.

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
    return _write(path, tensors, rows, {"split": "train", "view": view, "target": description})


def open_finished(
    directory: Path, name: str, tensor: str, rows: Rows, split: SplitName, num_classes: int | None
) -> RowArray:
    """Open a file of a finished directory as `open_rows` does, by the checks in its manifest.

    Where an earlier version left none, the file's sha256 is checked here, at the cost of reading it twice.

    Raises:
        DataError: As `open_rows`, or the manifest is damaged.
        MismatchError: As `open_rows`.
    """
    checks = verified_checks(directory, name)
    return open_rows(directory / name, tensor, rows, split, num_classes, checks)


def verified_checks(directory: Path, name: str) -> Checks | None:
    """The checks of a finished directory's file, or None: then its sha256 was checked instead.

    Raises:
        DataError: The manifest is damaged, or the sha256 is another.
    """
    found = manifest.read(directory)
    assert found is not None, f"{directory} is not finished"
    checks = found.summary.get(CHECKS, {}).get(name)
    if checks is not None:
        return Checks(**checks)
    manifest.verify(directory, found, [name])
    return None


def open_rows(
    path: Path,
    tensor: str,
    rows: Rows,
    split: SplitName,
    num_classes: int | None,
    checks: Checks | None = None,
) -> RowArray:
    """Open logits or targets for reading.

    Args:
        path: The file.
        tensor: `LOGITS`, `TARGET` or `MEAN_ENTROPY`.
        rows: The samples that it must speak of.
        split: Their split.
        num_classes: Classes that it must have; None: one value in place of classes.
        checks: What the manifest says of the file: header and marks are checked here, the array's blocks as
            they are read. None: nothing is checked.

    Raises:
        DataError: The file is missing, damaged or altered, or has another class count.
        MismatchError: It speaks of other rows.
    """
    metadata, array = open_unbound(path, tensor, checks)
    if tensor in (LOGITS, TARGET) and array.dtype not in (torch.float32, torch.float16):
        raise DataError(
            f"{path}: '{tensor}' holds {array.dtype}",
            expected="torch.float32 or torch.float16",
            action="import it with `ukd logits import`",
        )
    if metadata.get("split") != split or metadata.get("keys_sha256") != rows.digest:
        raise MismatchError(
            f"{path} speaks of other videos (split {metadata.get('split')}, shape {list(array.shape)})",
            expected=f"the {len(rows)} {split} rows of this run's shards, in their order",
            action="remove its member to make it again from these shards",
        )
    views = Views.named(array.view)
    expected = {"rows": len(rows)}
    if views is not None and views.kind == "random":
        expected["views"] = views.count
    if num_classes is not None:
        expected["classes"] = num_classes
    if array.shape != tuple(expected.values()):
        raise DataError(
            f"{path} has shape {list(array.shape)}",
            expected=f"{list(expected.values())}: {', '.join(expected)}",
            action="remove its member to make it again from these shards",
        )
    return array


def common_view(arrays: Sequence[RowArray]) -> str:
    """The view that all of them speak of, as far as it is known.

    Raises:
        MismatchError: Two speak of different ones; names both.
    """
    known = [array for array in arrays if array.view != UNKNOWN_VIEW]
    for other in known[1:]:
        if other.view != known[0].view:
            raise MismatchError(
                f"{other.path} speaks of view {other.view}, {known[0].path} of {known[0].view}",
                expected="the same view in all logits of a target",
                action="select teachers of one view, or make their logits again",
            )
    return known[0].view if known else UNKNOWN_VIEW


def open_unbound(path: Path, tensor: str, checks: Checks | None) -> tuple[dict[str, Any], RowArray]:
    """A file's own description and its array, whatever rows it speaks of; header and marks are checked.

    Raises:
        DataError: The file is missing, damaged or altered.
    """
    try:
        entries, arrays = open_arrays(path, checks)
        metadata = json.loads(entries.get(METADATA, "{}"))
        array, marks = arrays[tensor], [arrays[name] for name in (TRAINED_ON, COVERS) if name in arrays]
        if not isinstance(metadata, dict) or any(a.shape != array.shape[:1] for a in marks):
            raise ValueError("its tensors or metadata do not fit each other")
    except FileNotFoundError:
        raise DataError(
            f"{path} is missing",
            expected=f"safetensors with '{tensor}'",
            action="remove its member to make it again",
        ) from None
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise DataError(
            f"{path} is damaged ({error})",
            expected=f"safetensors with '{tensor}'",
            action="remove its member to make it again",
        ) from error
    for mark in marks:
        mark.read()
    view = str(metadata.get("view", Views().name))
    trained_on, covers = arrays.get(TRAINED_ON), arrays.get(COVERS)
    return metadata, replace(array, trained_on=trained_on, covers=covers, view=view)


def _write(path: Path, tensors: dict[str, torch.Tensor], rows: Rows, metadata: dict[str, Any]) -> Checks:
    for name, tensor in tensors.items():
        assert len(tensor) == len(rows), f"{name} has {len(tensor)} rows, the split {len(rows)}"
    payload = save(tensors, metadata={METADATA: _entry(rows, metadata)})
    manifest.write_atomically(path, payload)
    return Checks.of(payload)


def _entry(rows: Rows, metadata: dict[str, Any]) -> str:
    """What a file says of itself: one entry, since safetensors writes several in no fixed order."""
    return json.dumps({**metadata, "keys_sha256": rows.digest, "schema": 1}, sort_keys=True)
