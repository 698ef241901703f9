"""`clipcap-caption INPUT...`: the command line of use."""

import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TextIO

import typer

from clipcap.data.command import Debug, Version, new_app, run_command
from clipcap.data.errors import ClipCapError, SourceError, UsageError
from clipcap.data.progress import Progress, plural, warn

if TYPE_CHECKING:
    from clipcap.caption.outputs import Writer

app = new_app()


@app.command(epilog="Captions go to stdout, everything else to stderr.")
def caption(
    inputs: Annotated[
        list[Path],
        typer.Argument(metavar="INPUT...", help="Pictures, folders, rows of embeddings (.npy), caches (.h5)."),
    ],
    model: Annotated[Path, typer.Option(help="The checkpoint that clipcap-train wrote.")] = Path("checkpoints/best"),
    split: Annotated[str | None, typer.Option(help="Of a cache, only this: train, val or test.")] = None,
    decode: Annotated[str, typer.Option(help="greedy or beam.")] = "greedy",
    beams: Annotated[int, typer.Option(min=1, help="Beams of --decode beam.")] = 5,
    captions: Annotated[int, typer.Option("-n", min=1, help="Captions of each input, best first (beam).")] = 1,
    max_tokens: Annotated[int, typer.Option(min=1, help="The longest caption.")] = 67,
    batch_size: Annotated[int, typer.Option(min=1, help="Inputs that are captioned together.")] = 32,
    pretrained: Annotated[
        str | None, typer.Option(help="CLIP weights, where they are no longer where they were in stage 1.")
    ] = None,
    precision: Annotated[
        str, typer.Option(help="auto, fp32, bf16 or fp16. auto: bf16 on a GPU that has it, else fp32.")
    ] = "auto",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 or mps.")] = "auto",
    as_json: Annotated[
        bool, typer.Option("--json", help="An array of objects: input, caption (with -n: captions).")
    ] = False,
    as_jsonl: Annotated[bool, typer.Option("--jsonl", help="The same, an object a line.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="A table: input, caption.")] = False,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="A file for the captions, not stdout.")] = None,
    debug: Debug = False,
    version: Version = False,
) -> None:
    """Caption pictures, or embeddings without loading CLIP."""
    formats = [name for name, wanted in (("json", as_json), ("jsonl", as_jsonl), ("csv", as_csv)) if wanted]
    if len(formats) > 1:
        raise UsageError(f"--{formats[0]} and --{formats[1]} are two formats; give one")
    from clipcap.train.run_folder import find_checkpoint

    find_checkpoint(model)  # before anything heavy is loaded
    if output is not None and any(output.exists() and output.samefile(path) for path in inputs if path.exists()):
        raise UsageError(f"-o {output} is an input; give another name")

    from clipcap.caption.inputs import Inputs

    stream = Inputs(given=inputs, split=split)

    from clipcap.caption.captioner import Captioner
    from clipcap.caption.decoding import choose_strategy

    strategy = choose_strategy(decode, beams=beams, captions=captions, max_tokens=max_tokens)
    captioner = Captioner.from_checkpoint(
        model, device=device, precision=precision, pretrained=pretrained, batch_size=batch_size
    )
    done, skipped = 0, 0
    with ExitStack() as stack:
        file = stack.enter_context(_open(output)) if output is not None else sys.stdout
        writer = _writer(formats[0] if formats else "text", file, captions > 1, stream.one_picture)
        stack.callback(writer.close)
        # Results on the same terminal are progress enough, and a bar would write over them.
        shown = output is not None or not sys.stdout.isatty()
        progress = stack.enter_context(Progress("captioning", "inputs", None, bar=shown))
        for group in stream.groups(captioner):
            for path, reason in group.skipped:
                warn(f"{path} skipped: {reason}")
            for name, texts in zip(group.names, captioner.caption(group.embedding, strategy), strict=True):
                writer.write(name, texts)
            file.flush()
            done += len(group.names)
            skipped += len(group.skipped)
            progress.advance(len(group.names) + len(group.skipped), len(group.skipped))
    if not done:
        raise SourceError(f"none of {plural(skipped, 'picture')} could be read; see the reasons above")


def _open(path: Path) -> TextIO:
    try:
        return path.open("w", encoding="utf-8", newline="")
    except OSError as error:
        raise ClipCapError(f"{path} cannot be written ({error.strerror}); give another -o") from error


def _writer(name: str, file: TextIO, several: bool, bare: bool) -> "Writer":
    from clipcap.caption.outputs import Csv, Json, JsonLines, Text

    if name == "json":
        return Json(file, several)
    if name == "jsonl":
        return JsonLines(file, several)
    return Csv(file) if name == "csv" else Text(file, bare)


def main() -> None:
    """Entry point of `clipcap-caption`."""
    run_command(app, "clipcap-caption")


if __name__ == "__main__":
    main()
