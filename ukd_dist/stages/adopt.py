"""Shards for a run: made here, or finished ones from elsewhere taken into the root.

Of shards from elsewhere the root gets the manifest, the table and the indexes: what is needed to know their
rows. The tars stay where they are; who decodes reads them there, or its node's copy (`data/shard_cache.py`).
Later stages see no difference, since the shards' digest is the same.
"""

from __future__ import annotations

import logging
from typing import Any

from ukd_dist import manifest
from ukd_dist.data.places import Place, place_of, write_place
from ukd_dist.errors import MismatchError
from ukd_dist.experiment import Experiment
from ukd_dist.manifest import Manifest
from ukd_dist.stages.context import Context
from ukd_dist.stages.reduce import weighting_of
from ukd_dist.stages.shard import PLAN, claim, shard, stated_settings

_log = logging.getLogger(__name__)


def provide_shards(context: Context) -> None:
    """Make the run's shards, or take those of `data.shards`, unless they are there.

    Raises:
        UsageError: There are no finished shards at `data.shards`.
        DataError: They, or the videos that shards are to be made of, are damaged.
        MismatchError: The root holds other shards, or those of `data.shards` do not fit the experiment.
        ResourceError: The place cannot be read.
    """
    location = context.experiment.data.shards
    if location is not None:
        _adopt(context, Place(location))
        return
    adopted = place_of(context.run.shards)
    if adopted.folder != context.run.shards:
        _refuse_or_drop(context, f"{context.run.shards} are those of {adopted.name}", "shards made here")
    shard(context)


def _adopt(context: Context, place: Place) -> None:
    directory, found = context.run.shards, place.manifest()
    _check_fit(context.experiment, found, place)
    before = manifest.read(directory)
    if before is not None and before.digest() != found.digest():
        _refuse_or_drop(context, f"{directory} holds other shards", f"those of {place.name}")
        before = None
    if before is not None and place_of(directory).folder == directory:
        context.progress.say(f"shards: the root has those of {place.name} itself, nothing is sharded")
        return
    if before is None:
        claim(directory, {"shards": place.name}, {})
        for name, record in found.files.items():
            if not name.endswith(".tar"):
                manifest.write_atomically(directory / name, b"".join(place.blocks(name, record)))
    if place_of(directory) != place:
        write_place(directory, place)
    if before is None:
        manifest.write(directory, found)
        (directory / PLAN).unlink()
    context.progress.say(f"shards: those of {place.name}, nothing is sharded")


def _refuse_or_drop(context: Context, problem: str, wanted: str) -> None:
    """Drop the shards that the root holds where that was asked for.

    Raises:
        MismatchError: It was not.
    """
    if not context.replace:
        raise MismatchError(
            problem,
            expected=f"{wanted}, as the experiment says now",
            action="use another root, or remove them (`--replace` does)",
        )
    _log.warning("dropping shards: %s", problem)
    manifest.drop(context.run.shards)


def _check_fit(experiment: Experiment, found: Manifest, place: Place) -> None:
    """Refuse shards that are not as the experiment says; without a source it says codec and modalities.

    Raises:
        MismatchError: They are not; names the first setting.
    """
    data, made = experiment.data, {"codec": "vp9", **found.settings}
    for modality in data.modalities:
        if modality not in made.get("modalities", data.modalities):
            raise MismatchError(
                f"{place.name} holds modalities {made['modalities']}",
                expected=f"{modality} among them, as data.modalities says",
                action=f"shard again with {modality}, or remove it from data.modalities",
            )
    stated: dict[str, Any] = stated_settings(data)
    names = {*stated, "validation"} - {"modalities"} if data.source else {"codec"}
    difference = manifest.first_difference(
        {name: made[name] for name in names if name in made},
        {name: stated[name] for name in names if name in stated},
    )
    if difference:
        name, was, now = difference
        raise MismatchError(
            f"the shards of {place.name} were made with {name} = {was}",
            expected=f"{now}, as the experiment says",
            action=f"correct data.{name}, or take other shards",
        )
    for combination in experiment.combinations:
        weighting_of(combination).check_classes(len(made["classes"]))
