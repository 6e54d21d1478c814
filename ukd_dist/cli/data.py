"""Commands about videos: `ukd synth` draws some, `ukd data` looks at those in shards."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ukd_dist.cli.answering import answering
from ukd_dist.cli.arguments import Debug, Json
from ukd_dist.printing.answers import print_answer, print_splits

if TYPE_CHECKING:
    from ukd_dist.stages.show import ShardFigures

app = typer.Typer(help="What shards hold.", no_args_is_help=True)


def synth(
    dest: Annotated[Path, typer.Argument(metavar="DEST", help="folder to write to")],
    seed: Annotated[int, typer.Option(min=0, help="of actors, scenes and motions")] = 0,
    train_clips: Annotated[int, typer.Option(min=1, help="training videos a class")] = 24,
    test_clips: Annotated[int, typer.Option(min=1, help="test videos a class")] = 20,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Draw a miniature ARID: real H.264 files in ARID's layout, with lists in its format."""
    with answering(debug):
        from ukd_dist.data import synthetic
        from ukd_dist.progress import Progress

        total = len(synthetic.CLASSES) * (train_clips + test_clips)
        with Progress().bar("videos", total, "videos") as bar:
            train, test = synthetic.write_dataset(
                dest,
                seed=seed,
                train_clips=train_clips,
                test_clips=test_clips,
                on_progress=lambda done, _: bar.update(done),
            )
        print_answer({"dest": str(dest), "train": train, "test": test}, as_json)


@app.command("show")
def data_show(
    place: Annotated[Path, typer.Argument(metavar="ROOT|SHARDS_DIR", help="run or shards directory")],
    out: Annotated[Path, typer.Option(metavar="FILE.png", help="the contact sheet")] = Path(
        "contact-sheet.png"
    ),
    seed: Annotated[int, typer.Option(min=0, help="draws the samples that are shown")] = 0,
    gamma: Annotated[float, typer.Option(min=0.1, help="of the corrected frames")] = 3.0,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Figures of finished shards, and a contact sheet: a video of each class, corrected, and its flow."""
    with answering(debug):
        from ukd_dist.stages.contact_sheet import write_contact_sheet
        from ukd_dist.stages.show import measure, open_shards, shard_places

        places = shard_places(place)

        def answers() -> Iterator[tuple[str, tuple[ShardFigures, Path]]]:
            for split, directory in places.items():
                shards = open_shards(directory)
                sheet = out.with_stem(f"{out.stem}-{split}") if len(places) > 1 else out
                figures = measure(shards, seed=seed)
                write_contact_sheet(shards, sheet, gamma=gamma, seed=seed)
                yield split, (figures, sheet)

        print_splits(answers(), len(places) > 1, as_json, _shown, _print_shown)


def _shown(answer: tuple[ShardFigures, Path]) -> dict[str, object]:
    return {**asdict(answer[0]), "contact_sheet": str(answer[1])}


def _print_shown(answer: tuple[ShardFigures, Path]) -> None:
    from ukd_dist.stages.show import describe

    print(f"{describe(answer[0])}\n\ncontact sheet: {answer[1]}")
