"""`clipcap-evaluate [CACHE]`: the command line of evaluation."""

from pathlib import Path
from typing import Annotated, Any

import typer

from clipcap.caption.decoding.options import DecodeOptions
from clipcap.caption.decoding.strategy_option import Decode
from clipcap.caption.evaluate.figures import EXTRA, TOOLKIT
from clipcap.caption.settings import DEFAULT_MODEL, MODEL, OUTPUT, CaptionerSettings
from clipcap.data.command.app import Debug, Version, command, new_app, run_command
from clipcap.data.command.config import Config
from clipcap.data.command.options import with_settings
from clipcap.data.errors import UsageError
from clipcap.data.remote import is_url
from clipcap.data.settings import parameters_of

app = new_app()

# One caption of each image is scored.
DECODING = [parameter for parameter in parameters_of(DecodeOptions) if parameter.name != "captions"]
INPUT, FIGURES = "What it reads", "Figures"
EXAMPLES = """
clipcap-evaluate cache.h5                                          # checkpoints/best on the test split, else val
clipcap-evaluate cache.h5 --model a/best --model b/best --beams 5  # two models, and their difference
clipcap-evaluate --predictions results.json --references captions_val2017.json   # captions of any program
clipcap-evaluate cache.h5 --json -o figures.json                   # the figures as one object, into a file
clipcap-evaluate cache.h5 --report report.html                     # a page with figures, curves and examples
"""

CachePath = Annotated[
    Path | None,
    typer.Argument(
        metavar="CACHE",
        help="The cache.h5 whose images are captioned, without loading CLIP; its captions are the references.",
    ),
]
Split = Annotated[
    str | None,
    typer.Option(
        metavar="SPLIT", rich_help_panel=INPUT,
        help="Split to evaluate: train, val or test. Default: the one that most predictions lie in; without "
        "--predictions test, else val.",
    ),
]  # fmt: skip
PredictionFiles = Annotated[
    list[str] | None,
    typer.Option(
        "--predictions", metavar="FILE", rich_help_panel=INPUT,
        help="Captions of any captioner: COCO's result format, or what clipcap-caption writes with --json, --jsonl or "
        "--csv; a file or its URL. Several, each with its own --predictions, are compared.",
    ),
]  # fmt: skip
ReferencesPath = Annotated[
    str | None,
    typer.Option(
        metavar="PATH", rich_help_panel=INPUT,
        help="References of the predictions: a cache, a dataset of any format that clipcap-precompute reads, or JSON "
        "of the form {id: [caption, ...]}; the last two also by their URL.",
    ),
]  # fmt: skip
Format = Annotated[
    str | None,
    typer.Option(
        metavar="NAME", rich_help_panel=INPUT, help="Format of the references. Default: the format is detected."
    ),
]
ImageColumn = Annotated[
    str | None,
    typer.Option(metavar="NAME", rich_help_panel=INPUT, help="Column of image names, if the references are a table."),
]
CaptionColumn = Annotated[
    str | None,
    typer.Option(metavar="NAME", rich_help_panel=INPUT, help="Column of captions, if the references are a table."),
]
Images = Annotated[
    str | None,
    typer.Option(
        metavar="DIR", rich_help_panel=INPUT,
        help="Folder of the images, or its URL, for --report. Default: they are looked for beside the cache or the "
        "references.",
    ),
]  # fmt: skip
Models = Annotated[
    list[Path] | None,
    typer.Option(
        "--model", metavar="CHECKPOINT", rich_help_panel=MODEL,
        help="Checkpoint of clipcap-train, or a .pt or .pkl file of rmokady, jmisilo or Lahdhirim. Several, each "
        f"with its own --model, are compared. Default: {DEFAULT_MODEL}, unless there are --predictions.",
    ),
]  # fmt: skip
Metrics = Annotated[
    list[str] | None,
    typer.Option(
        "--metric", metavar="NAME", rich_help_panel=FIGURES,
        help=f"A metric besides BLEU, ROUGE-L and CIDEr-D: {', '.join((*TOOLKIT, *EXTRA))}. Several, each with its own "
        "--metric.",
    ),
]  # fmt: skip
Exact = Annotated[
    bool, typer.Option("--exact", rich_help_panel=FIGURES, help="Let the COCO toolkit itself compute what it knows.")
]
NoBaseline = Annotated[
    bool,
    typer.Option(
        "--no-baseline", rich_help_panel=FIGURES,
        help="Leave out the captions of the nearest training image, which are scored beside a model's.",
    ),
]  # fmt: skip
Json = Annotated[
    bool,
    typer.Option("--json", rich_help_panel=OUTPUT, help="Write one JSON object; with several captioners, one by name."),
]
Csv = Annotated[bool, typer.Option("--csv", rich_help_panel=OUTPUT, help="Write a row for each image and captioner.")]
OutputFile = Annotated[
    Path | None,
    typer.Option(
        "--output", "-o", metavar="FILE", rich_help_panel=OUTPUT,
        help="File for the figures. The ending .json or .csv chooses the format. Default: stdout.",
    ),
]  # fmt: skip
Report = Annotated[
    Path | None,
    typer.Option(metavar="FILE", rich_help_panel=OUTPUT, help="Also write a page of HTML that opens offline."),
]


@command(app, examples=EXAMPLES)
@with_settings(decoding=DECODING, given=parameters_of(CaptionerSettings))
def evaluate(
    context: typer.Context,
    cache: CachePath = None,
    *,
    config: Config = None,
    split: Split = None,
    predictions: PredictionFiles = None,
    references: ReferencesPath = None,
    format: Format = None,
    image_column: ImageColumn = None,
    caption_column: CaptionColumn = None,
    images: Images = None,
    models: Models = None,
    decode: Decode = None,
    decoding: dict[str, Any],
    given: dict[str, Any],
    metric: Metrics = None,
    exact: Exact = False,
    no_baseline: NoBaseline = False,
    json: Json = False,
    csv: Csv = False,
    output: OutputFile = None,
    report: Report = None,
    debug: Debug = False,
    version: Version = False,
) -> None:
    """Score captions as the COCO toolkit does, and say what the figures are worth."""
    form = _choose_form(json=json, csv=csv, output=output)
    from clipcap.caption.evaluate.outputs import check_outputs, write_evaluation

    predictions, models = predictions or [], models or []
    files = [Path(one) for one in (references, *predictions) if one is not None and not is_url(one)]
    check_outputs(output, report, [cache, *files])
    from clipcap.caption.decoding.registry import infer_strategy
    from clipcap.caption.evaluate import start
    from clipcap.data.readers import Columns

    evaluation = start.evaluate(
        cache, models, CaptionerSettings(**given), decode=infer_strategy(decoding, decode),
        options=DecodeOptions(**decoding), split=split, predictions=predictions, references=references,
        format=format, columns=Columns(image=image_column, caption=caption_column), images=images,
        metric=metric or [], exact=exact, baseline=not no_baseline,
    )  # fmt: skip
    if report is not None:
        from clipcap.caption.evaluate.report import write_report

        write_report(evaluation, report, decoding=decoding)
    write_evaluation(evaluation, form, output)


def _choose_form(*, json: bool, csv: bool, output: Path | None) -> str:
    """Choose the format of the output: the one that was asked for, or that the file's ending names, or the table."""
    from clipcap.caption.outputs import choose_format

    form = choose_format([name for name, wanted in (("json", json), ("csv", csv)) if wanted], output)
    if form == "jsonl":
        raise UsageError(f"`output` {output} ends with .jsonl; an evaluation is .json, .csv or a table")
    return form


def main() -> None:
    """Entry point of `clipcap-evaluate`."""
    run_command(app, "clipcap-evaluate")


if __name__ == "__main__":
    main()
