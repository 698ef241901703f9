"""The option `--decode` of the commands that caption."""

from typing import Annotated

import typer

from clipcap.caption.decoding.options import GROUP

Decode = Annotated[
    str | None,
    typer.Option(
        metavar="STRATEGY", rich_help_panel=GROUP,
        help="Decoding strategy: greedy, beam or sample. Default: chosen from the options below, else greedy; for "
        "files of other systems, that system's default.",
    ),
]  # fmt: skip
