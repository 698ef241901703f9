"""`clipcap-precompute SOURCE`: the command line of stage 1."""

import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clipcap.data.command.app import Debug, Version, command, new_app, run_command
from clipcap.data.command.config import Config, Preset
from clipcap.data.command.options import on_command_line, with_settings
from clipcap.data.command.printable import printable
from clipcap.data.command.progress import plural
from clipcap.data.settings import changed_values, parameters_of
from clipcap.precompute.part import WHOLE, Part
from clipcap.precompute.presets import PRESETS
from clipcap.precompute.settings import OUTPUT, SPEED, PrecomputeSettings

if TYPE_CHECKING:
    from clipcap.precompute.start import PrecomputeResult

logger = logging.getLogger(__name__)
app = new_app()

EXAMPLES = """
clipcap-precompute coco/                                        # ViT-B-32 and GPT-2's tokenizer, into cache.h5
clipcap-precompute coco/ --dry-run                              # what coco/ is understood to be
clipcap-precompute coco/ --preset clipxgpt-large -o large.h5    # a published recipe
clipcap-precompute rows.npz --captions captions.csv             # existing embeddings
clipcap-precompute coco/ -o all.h5 --reuse cache.h5             # what cache.h5 has is copied, and the rest encoded
clipcap-precompute a.h5 --join b.h5 -o both.h5                  # one cache of two encoders, without an image
clipcap-precompute hf://datasets/USER/NAME -o hub.h5            # behind a URL: hf, s3, gs, https, ...
clipcap-precompute coco/ -o shared/coco.h5 --part 1/4           # a quarter; other machines make the rest
"""

Overwrite = Annotated[
    bool,
    typer.Option("--overwrite", rich_help_panel=OUTPUT, help="Delete the existing cache, and make it again."),
]
Retokenize = Annotated[
    bool,
    typer.Option(
        "--retokenize",
        rich_help_panel=OUTPUT,
        help="Give the finished cache the tokens of the tokenizer that is named; no image is read.",
    ),
]
Repair = Annotated[
    bool,
    typer.Option(
        "--repair",
        rich_help_panel=OUTPUT,
        help="Check every checksum of the cache first, and make the shards again that are broken.",
    ),
]
Reuse = Annotated[
    list[Path] | None,
    typer.Option(
        "--reuse",
        metavar="CACHE",
        rich_help_panel=OUTPUT,
        help="Copy what another cache of the same encoder has of these images; may be given several times.",
    ),
]
Join = Annotated[
    list[Path] | None,
    typer.Option(
        "--join",
        metavar="CACHE",
        rich_help_panel=OUTPUT,
        help="Add the embeddings of another cache of the same images, by another encoder; SOURCE is then a cache too. "
        "May be given several times.",
    ),
]
Devices = Annotated[
    int,
    typer.Option(
        "--devices",
        min=1,
        metavar="N",
        rich_help_panel=SPEED,
        help="GPUs to use, each by a process of its own; on a CPU, the number of processes.",
    ),
]
Engine = Annotated[
    str,
    typer.Option(
        "--engine",
        metavar="NAME",
        rich_help_panel=SPEED,
        help="local, or ray for the Ray cluster that RAY_ADDRESS names, with as many workers as --devices says. "
        "All its machines must see the folders of the dataset and of the cache.",
    ),
]
PartName = Annotated[
    str | None,
    typer.Option(
        metavar="I/N",
        rich_help_panel=OUTPUT,
        help="Make every N-th shard alone; other processes or machines make the other parts in the same folder, "
        "and the last one to end writes the index. Default: all shards.",
    ),
]


@command(app, examples=EXAMPLES, presets=lambda: {name: changed_values(settings) for name, settings in PRESETS.items()})
@with_settings(given=parameters_of(PrecomputeSettings))
def precompute(
    context: typer.Context,
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="Folder or URL of the dataset, or of its file of captions or embeddings. With --join, a cache.",
        ),
    ],
    *,
    preset: Preset = None,
    config: Config = None,
    given: dict[str, Any],
    output: Annotated[
        Path,
        typer.Option("--output", "-o", rich_help_panel=OUTPUT, help="Cache to write. Its shards are named after it."),
    ] = Path("cache.h5"),
    overwrite: Overwrite = False,
    retokenize: Retokenize = False,
    repair: Repair = False,
    reuse: Reuse = None,
    join: Join = None,
    devices: Devices = 1,
    engine: Engine = "local",
    part: PartName = None,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", rich_help_panel=OUTPUT, help="Print what SOURCE is understood to be; write nothing."),
    ] = False,
    debug: Debug = False,
    version: Version = False,
) -> None:
    """Encode each image of a dataset once with a frozen CLIP, and write embeddings and tokens to a cache."""
    if on_command_line(context, "encoder") and not on_command_line(context, "pretrained"):
        given.pop("pretrained", None)  # the weights of a preset belong to the encoder of the preset
    settings = PrecomputeSettings(**given)
    if dry_run:
        _print_dataset(source, settings)
        return
    from clipcap.precompute import start

    try:
        result = start.precompute(
            source, output, settings, overwrite=overwrite, retokenize=retokenize, repair=repair,
            part=Part.of(part) if part is not None else WHOLE, reuse=reuse or (), join=join or (),
            devices=devices, engine=engine,
        )  # fmt: skip
    except start.Interrupted as interrupt:
        how = ", without --overwrite," if overwrite else ""
        logger.info(f"stopped after {plural(interrupt.shards, 'shard')}; run the same command again{how} to continue")
        raise
    if result.failures and result.is_complete and not result.was_finished:
        logger.info(f"{plural(len(result.failures), 'skipped image')}; list them with: clipcap-inspect {output}")
    if not result.is_complete:
        logger.info(f"part {part} is done; the part that ends last writes {output}")
    _print_result(result)


def _print_result(result: "PrecomputeResult") -> None:
    """Print the path and the counts of a cache on one line."""
    width = " x ".join(map(str, result.embedding_shape))
    counts = (
        f"{result.path}: {plural(result.images, 'image')}, {plural(result.captions, 'caption')}, "
        f"{plural(result.tokens, 'token')}, {plural(result.shards, 'shard')}, width {width}"
    )
    print(printable(counts, sys.stdout))


def _print_dataset(path: str, settings: PrecomputeSettings) -> None:
    """Print what `--dry-run` shows of a dataset: its counts, notes and first images."""
    from clipcap.precompute.dataset import describe, understand

    source = understand(path, settings)
    lines = [describe(source), *source.notes]
    lines += [f"listed but missing: {_count(source.missing)}", f"not listed, left out: {_count(source.unlisted)}"]
    for record in source.records[:3]:
        lines.append(f"{record.path} [{record.split}] {record.captions[0] if record.captions else '(no caption)'!r}")
    print("\n".join(map(printable, lines)))


def _count(paths: list[str]) -> str:
    return f"{plural(len(paths), 'image')} (such as {paths[0]})" if paths else "none"


def main() -> None:
    """Entry point of `clipcap-precompute`."""
    run_command(app, "clipcap-precompute")


if __name__ == "__main__":
    main()
