"""`clipcap-caption INPUT...`: the command line of use."""

import logging
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TextIO

import typer

from clipcap.data.command.app import Debug, Version, command, new_app, run_command
from clipcap.data.command.config import Config
from clipcap.data.command.progress import Progress, plural
from clipcap.data.errors import ClipCapError, SourceError, UsageError

if TYPE_CHECKING:
    from clipcap.caption.outputs import Writer

logger = logging.getLogger(__name__)

app = new_app()
_TEXTS = {".json", ".jsonl", ".csv", ".tsv", ".txt", ""}


@command(app, examples="clipcap-caption img.jpg")
def caption(
    inputs: Annotated[
        list[Path],
        typer.Argument(
            metavar="INPUT...",
            help="Pictures, folders, patterns ('*.jpg'), rows of embeddings (.npy), caches (.h5); - : a list on stdin.",
        ),
    ],
    models: Annotated[
        list[Path] | None,
        typer.Option(
            "--model",
            help="The checkpoint that clipcap-train wrote, or a .pt or .pkl of rmokady, jmisilo or Lahdhirim; several, "
            "each with its --model, caption in turn. Default: checkpoints/best.",
        ),
    ] = None,
    config: Config = None,
    split: Annotated[str | None, typer.Option(help="Of a cache, only this: train, val or test.")] = None,
    decode: Annotated[
        str | None,
        typer.Option(help="greedy, beam or sample. Default: greedy, or what a foreign checkpoint's own code does."),
    ] = None,
    beams: Annotated[int, typer.Option(min=1, help="Beams of --decode beam.")] = 5,
    top_p: Annotated[float, typer.Option(help="Sample from the likeliest tokens that make up this probability.")] = 1.0,
    top_k: Annotated[int, typer.Option(min=0, help="Sample from so many likeliest tokens; 0: from all.")] = 0,
    temperature: Annotated[float, typer.Option(help="Of sampling: below 1 safer, above 1 bolder.")] = 1.0,
    seed: Annotated[int, typer.Option(help="Of sampling.")] = 0,
    captions: Annotated[
        int, typer.Option("-n", min=1, help="Distinct captions of each input, best first (beam, sample).")
    ] = 1,
    max_tokens: Annotated[int | None, typer.Option(min=1, help="The longest caption. Default: 67.")] = None,
    stop: Annotated[str | None, typer.Option(help="A text that ends a caption, as '.' does.")] = None,
    repetition_penalty: Annotated[
        float, typer.Option(help="Above 1, what was said is less likely to come again.")
    ] = 1.0,
    batch_size: Annotated[int, typer.Option(min=1, help="Inputs that are captioned together.")] = 32,
    encoder: Annotated[
        str | None,
        typer.Option(help="CLIP of a model that does not know it. Default for foreign files: the published one."),
    ] = None,
    pretrained: Annotated[
        str | None, typer.Option(help="CLIP weights, where they are no longer where they were in stage 1.")
    ] = None,
    tokenizer: Annotated[str | None, typer.Option(help="Of a foreign file. Default: gpt2.")] = None,
    normalize: Annotated[
        bool,
        typer.Option(
            "--normalize",
            help="A foreign file was trained on embeddings of length 1, as the released RN50x4 transformer of rmokady.",
        ),
    ] = False,
    heads: Annotated[
        int | None, typer.Option(min=1, help="Attention heads of a foreign file's GPT-2, if it is of no usual size.")
    ] = None,
    precision: Annotated[
        str, typer.Option(help="auto, fp32, bf16 or fp16. auto: bf16 on a GPU that has it, else fp32.")
    ] = "auto",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 or mps.")] = "auto",
    as_table: Annotated[bool, typer.Option("--table", help="Two columns, to read.")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="An array of objects: input, caption (with -n: captions).")
    ] = False,
    as_jsonl: Annotated[bool, typer.Option("--jsonl", help="The same, an object a line.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="A table: input, caption.")] = False,
    save_pictures: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Write each picture here, with its caption under it.")
    ] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="A file for the captions, not stdout.")] = None,
    debug: Debug = False,
    version: Version = False,
) -> None:
    """Caption pictures, or embeddings without loading CLIP."""
    choices = {"table": as_table, "json": as_json, "jsonl": as_jsonl, "csv": as_csv}
    formats = [name for name, wanted in choices.items() if wanted]
    if len(formats) > 1:
        raise UsageError(f"--{formats[0]} and --{formats[1]} are two formats; give one")
    from clipcap.train.model.find import find_checkpoint

    models = models or [Path("checkpoints/best")]
    for model in models:  # before anything heavy is loaded
        find_checkpoint(model)

    from clipcap.caption.inputs import Inputs, has_rows

    stream = Inputs(inputs, split)
    if output is not None:
        for model in models:
            _check_output(output, stream.paths, model)
    rows = [path for path in stream.paths if has_rows(path)]
    if save_pictures is not None and rows:
        raise UsageError(f"--save-pictures is for pictures; {rows[0]} holds rows")

    from clipcap.caption.captioner import Captioner
    from clipcap.caption.decoding.options import DecodeOptions
    from clipcap.caption.decoding.registry import choose_strategy
    from clipcap.caption.images import PictureFolder

    options = DecodeOptions(
        captions=captions, max_tokens=max_tokens, stop=stop, repetition_penalty=repetition_penalty, beams=beams,
        temperature=temperature, top_p=top_p, top_k=top_k, seed=seed,
    )  # fmt: skip
    if not any(model.is_file() for model in models):
        choose_strategy(decode, options)  # a wrong word is said before a model is loaded
    several = len(models) > 1
    with ExitStack() as stack:
        file = stack.enter_context(_results(output)) if output is not None else sys.stdout
        bare = stream.one_picture and not several
        writer = _writer(formats[0] if formats else "text", file, captions > 1, bare, several)
        stack.callback(writer.close)
        # Results on the same terminal are progress enough, and a bar would write over them.
        shown = output is not None or not sys.stdout.isatty()
        progress = stack.enter_context(Progress("captioning", "inputs", None, bar=shown))
        foreign: dict[str, Any] = {"tokenizer": tokenizer, "normalize": normalize, "heads": heads}
        some_foreign = any(model.is_file() for model in models)
        for model in models:
            captioner = Captioner.from_checkpoint(
                model, device=device, precision=precision, encoder=encoder, pretrained=pretrained,
                batch_size=batch_size, **(foreign if model.is_file() or not some_foreign else {}),
            )  # fmt: skip
            strategy = captioner.strategy(decode, options)
            name = str(model) if several else ""
            folder = None
            if save_pictures is not None:
                folder = PictureFolder(save_pictures / _folder_name(model, models) if several else save_pictures)
            done = 0
            for group in stream.groups(captioner):
                for path, reason in group.skipped:
                    logger.warning(f"{path} skipped: {reason}")
                texts = captioner.caption(group.embedding, strategy)
                for given, some in zip(group.names, texts, strict=True):
                    writer.write(given, some, name)
                if folder is not None:
                    for picture, some in zip(group.pictures, texts, strict=True):
                        folder.save(picture, some)
                file.flush()
                done += len(group.names)
                progress.advance(len(group.names) + len(group.skipped), len(group.skipped))
            if not done:
                raise SourceError(f"none of {plural(progress.skipped, 'picture')} could be read; see the reasons above")


def _folder_name(model: Path, models: list[Path]) -> str:
    """What a model's folder of pictures is called: the shortest end of its path that is no other's."""
    ends = ["-".join(model.parts[-count:]).strip("/-") for count in range(1, len(model.parts) + 1)]
    others = [other for other in models if other != model]
    taken = {"-".join(other.parts[-count:]) for other in others for count in range(1, len(other.parts) + 1)}
    return next((end for end in ends if end not in taken), ends[-1])


def _check_output(output: Path, inputs: list[Path], model: Path) -> None:
    """Captions may replace captions, and nothing else: not an input, a cache, a picture or a part of a checkpoint."""
    if any(output.exists() and output.samefile(path) for path in inputs if path.exists()):
        raise UsageError(f"-o {output} is an input; give another name")
    if not output.is_file():  # nothing is there, or a device
        return
    if output.suffix.lower() not in _TEXTS or output.resolve().is_relative_to(model.resolve()):
        raise UsageError(f"-o {output} is there and does not look like captions; give another name, or delete it first")


@contextmanager
def _results(path: Path) -> Iterator[TextIO]:
    """A file that takes its name when all captions are in it; those of a run that fails are kept beside it."""
    partial = path.with_name(f"{path.name}.partial") if path.is_file() or not path.exists() else path
    try:
        file = partial.open("w", encoding="utf-8", newline="")
    except OSError as error:
        raise ClipCapError(f"{path} cannot be written ({error.strerror}); give another -o") from error
    try:
        with file:
            yield file
    except BaseException:
        if partial != path and partial.stat().st_size:
            logger.info(f"the captions so far are in {partial}")
        elif partial != path:
            partial.unlink()
        raise
    if partial != path:
        partial.replace(path)


def _writer(name: str, file: TextIO, several: bool, bare: bool, models: bool) -> "Writer":
    from clipcap.caption.outputs import Csv, Json, JsonLines, Table, Text

    if name == "table":
        return Table(file)
    if name == "json":
        return Json(file, several)
    if name == "jsonl":
        return JsonLines(file, several)
    return Csv(file, models) if name == "csv" else Text(file, bare)


def main() -> None:
    """Entry point of `clipcap-caption`."""
    run_command(app, "clipcap-caption")


if __name__ == "__main__":
    main()
