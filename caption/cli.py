"""`clipcap-caption INPUT...`: the command line of captioning."""

import logging
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clipcap.caption.decoding.options import DecodeOptions
from clipcap.caption.decoding.strategy_option import Decode
from clipcap.caption.settings import DEFAULT_MODEL, MODEL, OUTPUT, CaptionerSettings
from clipcap.data.command.app import Debug, Version, command, new_app, run_command
from clipcap.data.command.config import Config
from clipcap.data.command.options import with_settings
from clipcap.data.command.progress import Progress, plural
from clipcap.data.errors import UsageError
from clipcap.data.settings import parameters_of

if TYPE_CHECKING:
    from clipcap.caption.captions_file import Output
    from clipcap.caption.images import ImageFolder
    from clipcap.caption.outputs import Writer
    from clipcap.caption.start import Captioned

logger = logging.getLogger(__name__)
app = new_app()

EXAMPLES = """
clipcap-caption img.jpg                                  # the caption alone
clipcap-caption holiday/ -o captions.jsonl               # a folder; after Ctrl-C the same command continues
clipcap-caption 'holiday/**/*.png' --beams 5 -n 3 --csv  # a pattern, three captions of each image
clipcap-caption cache.h5 --split val --json              # a cache, without loading CLIP
clipcap-caption https://example.com/dog.jpg              # behind a URL: https, s3, gs, hf, ...
clipcap-caption holiday/ --save-images captioned/        # each image with its caption under it
"""


InputPaths = Annotated[
    list[str],
    typer.Argument(
        metavar="INPUT...",
        help="Images, folders, patterns ('*.jpg'), URLs of images and of folders, rows of embeddings (.npy, .npz, "
        "ClipCap's and CLIPxGPT's .pkl) and caches (.h5); - reads a list of them from stdin.",
    ),
]
Split = Annotated[
    str | None,
    typer.Option(
        metavar="SPLIT", rich_help_panel="What it reads", help="Split of a cache: train, val or test. Default: all."
    ),
]
Models = Annotated[
    list[Path] | None,
    typer.Option(
        "--model", metavar="CHECKPOINT", rich_help_panel=MODEL,
        help="Checkpoint of clipcap-train, or a .pt or .pkl file of rmokady, jmisilo or Lahdhirim. Several, each "
        f"with its own --model, caption one after the other. Default: {DEFAULT_MODEL}.",
    ),
]  # fmt: skip
Table = Annotated[bool, typer.Option("--table", rich_help_panel=OUTPUT, help="Write two columns, for a terminal.")]
Json = Annotated[
    bool,
    typer.Option(
        "--json",
        rich_help_panel=OUTPUT,
        help="Write a JSON array of objects: input, caption (with -n: captions), or error.",
    ),
]
JsonLines = Annotated[
    bool, typer.Option("--jsonl", rich_help_panel=OUTPUT, help="Write the same objects, one on each line.")
]
Csv = Annotated[
    bool, typer.Option("--csv", rich_help_panel=OUTPUT, help="Write a table with the columns input, caption and error.")
]
SaveImages = Annotated[
    Path | None,
    typer.Option(
        "--save-images", "--save-pictures", metavar="DIR", rich_help_panel=OUTPUT,
        help="Also save each image here as a JPEG, with its caption under it.",
    ),
]  # fmt: skip
OutputFile = Annotated[
    Path | None,
    typer.Option(
        "--output", "-o", metavar="FILE", rich_help_panel=OUTPUT,
        help="File for the captions. The ending .json, .jsonl or .csv chooses the format. Default: stdout.",
    ),
]  # fmt: skip


@command(app, examples=EXAMPLES)
@with_settings(decoding=parameters_of(DecodeOptions), given=parameters_of(CaptionerSettings))
def caption(
    context: typer.Context,
    inputs: InputPaths,
    *,
    config: Config = None,
    split: Split = None,
    models: Models = None,
    decode: Decode = None,
    decoding: dict[str, Any],
    given: dict[str, Any],
    table: Table = False,
    json: Json = False,
    jsonl: JsonLines = False,
    csv: Csv = False,
    save_images: SaveImages = None,
    output: OutputFile = None,
    debug: Debug = False,
    version: Version = False,
) -> None:
    """Caption images, or embeddings without loading CLIP."""
    from clipcap.caption.outputs import choose_format
    from clipcap.train.model.find import find_checkpoint

    formats = {"table": table, "json": json, "jsonl": jsonl, "csv": csv}
    form = choose_format([name for name, wanted in formats.items() if wanted], output)
    models = list(dict.fromkeys(models or [Path(DEFAULT_MODEL)]))
    for model in models:  # a missing one is an error before torch is loaded
        find_checkpoint(model)

    from clipcap.caption import start
    from clipcap.caption.captions_file import open_output
    from clipcap.caption.decoding.registry import infer_strategy
    from clipcap.caption.images import open_folders
    from clipcap.caption.inputs import Inputs
    from clipcap.caption.outputs import FORMATS, Layout

    settings, options, decode = CaptionerSettings(**given), DecodeOptions(**decoding), infer_strategy(decoding, decode)
    found = Inputs(inputs, split)
    if save_images is not None and found.row_files:
        raise UsageError(f"`save_images` is for images; {found.row_files[0]} holds embeddings")
    if save_images is not None and found.remote.shown:
        url = next(iter(found.remote.shown.values()))
        raise UsageError(f"`save_images` is for image files, and {url} is a URL; download it")
    run = {"format": form, "split": split, **start.describe_run(found, models, settings, decode, options)}
    with open_folders(save_images, models, found.images) as folders, open_output(output, run, found) as out:
        layout = Layout(
            bare=found.one_image and len(models) == 1, several_captions=options.captions > 1,
            several_models=len(models) > 1, resumed=out.resumed,
        )  # fmt: skip
        with closing(FORMATS[form](out.stream, layout)) as writer:
            todo = models[out.model :]
            results = start.caption(found, todo, settings, decode=decode, options=options, start=out.start)
            # Results on the same terminal show the progress; a bar would overwrite them.
            bar = output is not None or not sys.stdout.isatty()
            _write(results, models, writer, out, folders, found.count(), bar)


def _write(
    results: "Iterator[Captioned]",
    models: list[Path],
    writer: "Writer",
    output: "Output",
    folders: "dict[Path, ImageFolder]",
    count: int | None,
    bar: bool,
) -> None:
    """Write each result when it comes, its image first: a run that is interrupted in between writes both again.

    Args:
        results: of all models, from where the output continues.
        models: all of them, also those that are done.
        writer: writes to the output.
        output: takes note of what is written.
        folders: for captioned images, by model.
        count: how many inputs there are, if that is known.
        bar: whether a bar may be drawn.
    """
    total, done = (None, 0) if count is None else (count * len(models), count * output.model + output.start)
    with Progress("captioning", "inputs", total, done, bar=bar) as progress:
        for result in results:
            if result.reason is not None:
                logger.warning(f"{result.input} skipped: {result.reason}")
                writer.write_failure(
                    result.input, result.reason, str(result.model)
                )  # a file gets it with the next result
                progress.advance(skipped=1)
                continue
            if result.image is not None and folders:
                folders[result.model].save(result.image, result.captions)
            writer.write(result.input, result.captions, str(result.model))
            output.done(models.index(result.model), result.number)
            progress.advance()
    if progress.skipped:
        logger.warning(f"{plural(progress.skipped, 'input')} of {progress.done:,} skipped")


def main() -> None:
    """Entry point of `clipcap-caption`."""
    run_command(app, "clipcap-caption")


if __name__ == "__main__":
    main()
