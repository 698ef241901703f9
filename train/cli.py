"""`clipcap-train CACHE`: the command line of stage 2."""

import logging
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from clipcap.data.command.app import Debug, Version, command, new_app, run_command
from clipcap.data.command.config import Config, Preset
from clipcap.data.command.options import on_command_line, with_settings
from clipcap.data.command.printable import printable
from clipcap.train.presets import PRESETS
from clipcap.train.settings import OUTPUT, option_parameters

logger = logging.getLogger(__name__)
app = new_app()

EXAMPLES = """
clipcap-train cache.h5                                     # ClipCap's MLP and GPT-2, into checkpoints/
clipcap-train cache.h5 --preset clipcap-transformer -o t   # a published recipe, into t/
clipcap-train cache.h5 --resume                            # continue after Ctrl-C, to the same weights
"""


@command(app, examples=EXAMPLES, presets=lambda: {name: settings.changed() for name, settings in PRESETS.items()})
@with_settings(given=option_parameters())
def train(
    context: typer.Context,
    cache: Annotated[Path, typer.Argument(metavar="CACHE", help="The cache.h5 that clipcap-precompute wrote.")],
    *,
    preset: Preset = None,
    config: Config = None,
    given: dict[str, Any],
    output: Annotated[
        Path,
        typer.Option(
            "--output", "-o", rich_help_panel=OUTPUT, help="Folder of the run: best/, last/, metrics.jsonl, curves.png."
        ),
    ] = Path("checkpoints"),
    resume: Annotated[
        bool, typer.Option("--resume", rich_help_panel=OUTPUT, help="Continue the run in the folder.")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", rich_help_panel=OUTPUT, help="Replace the run in the folder.")
    ] = False,
    debug: Debug = False,
    version: Version = False,
) -> None:
    """Train a mapper, and GPT-2 with it, from a cache."""
    from clipcap.train import start

    settings = start.resumed_settings(output, given) if resume else None
    if settings is None:
        explicit = {name: value for name, value in given.items() if on_command_line(context, name)}
        settings = start.new_settings(given, explicit)
    result = start.train(cache, output, settings, resume=resume, overwrite=overwrite)
    if not result.finished:
        logger.info(f"saved to {result.last}; continue with: clipcap-train {cache} -o {output} --resume")
        raise KeyboardInterrupt
    if result.is_first:
        print(printable(str(result.best), sys.stdout))


def main() -> None:
    """Entry point of `clipcap-train`."""
    run_command(app, "clipcap-train")


if __name__ == "__main__":
    main()
