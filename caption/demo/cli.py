"""`clipcap-demo [DIR]`: all three stages on drawn scenes, with the small models inside the package, offline."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from clipcap.data.command.app import Debug, Version, command, new_app, run_command
from clipcap.data.command.printable import printable
from clipcap.data.command.progress import Progress

app = new_app()

EXAMPLES = """
clipcap-demo                                      # everything goes to demo/
clipcap-demo --only-dataset scenes --images 100   # only draw images, as a COCO folder, to try things on
"""


@command(app, examples=EXAMPLES)
def demo(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder that everything goes to.")] = Path("demo"),
    images: Annotated[
        int, typer.Option(min=36, metavar="N", rich_help_panel="Dataset", help="Images to draw; one in 18 is held out.")
    ] = 9000,
    only_dataset: Annotated[
        Path | None,
        typer.Option(
            "--only-dataset", metavar="DIR", rich_help_panel="Dataset", help="Draw the images here, and do no more."
        ),
    ] = None,
    debug: Debug = False,
    version: Version = False,
) -> None:
    """Draw scenes, encode them, train on them and caption those held out: the three commands on a small example."""
    from clipcap.data.demo import dataset

    with Progress("drawing", "images", images) as progress:
        dataset.write_dataset(only_dataset or folder / "scenes", images, progress.advance)
    if only_dataset is not None:
        print(printable(str(only_dataset), sys.stdout))
        return

    from clipcap.caption.demo.run import CommandError, run_demo

    try:
        held_out = run_demo(folder, images)
    except CommandError as failed:
        raise typer.Exit(failed.status) from failed
    print(f"demo: {held_out.percent_right:.1f}% of {len(held_out.scenes)} held-out scenes right")


def main() -> None:
    """Entry point of `clipcap-demo`."""
    run_command(app, "clipcap-demo")


if __name__ == "__main__":
    main()
