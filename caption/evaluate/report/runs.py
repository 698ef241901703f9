"""What a report says of the models: the curves of the run that trained each, and its recipe."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from clipcap.caption.evaluate.base import Evaluated
from clipcap.caption.evaluate.report.charts import Curve, line_chart
from clipcap.data.errors import ClipCapError

_SIZES = ("n_layer", "n_head", "n_embd", "n_positions", "vocab_size")

Facts = list[tuple[str, str]]


@dataclass(frozen=True, kw_only=True)
class Run:
    """The training run of one or several captioners.

    Attributes:
        name: of the captioner.
        charts: (title, chart).
        image_gap: at the last validation, in nats, if it is known.
        recipe: (title, facts) of its parts; empty if the model is not ours.
        problem: why there is no recipe, if there is none.
    """

    name: str
    charts: list[tuple[str, Markup]]
    image_gap: float | None
    recipe: list[tuple[str, Facts]]
    problem: str


def read_runs(evaluated: Sequence[Evaluated]) -> list[Run]:
    """Read what is known of each captioner that is a model. What cannot be read is left out."""
    runs, drawn = [], set[Path]()
    for one in evaluated:
        if one.checkpoint is not None:
            folder = one.checkpoint.parent if one.checkpoint.is_dir() else None
            lines = _lines(folder) if folder and folder not in drawn else []  # `best` and `last` are of one run
            drawn |= {folder} if folder else set()
            runs.append(_describe(one.name, one.checkpoint, lines))
    return runs


def facts(values: Mapping[str, Any]) -> Facts:
    """Write values as people read them, in the order given."""
    return [(name.replace("_", " "), fact(value)) for name, value in values.items()]


def fact(value: object) -> str:
    """Write one value."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None or value == "":
        return "not set"
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {fact(each)}" for name, each in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(fact, value))
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _describe(name: str, checkpoint: Path, lines: Sequence[dict[str, Any]]) -> Run:
    gaps = _points(lines, "image_gap")
    recipe: list[tuple[str, Facts]] = []
    problem = ""
    try:
        recipe = _recipe(checkpoint)
    except ClipCapError as error:
        problem = str(error)
    return Run(
        name=name, charts=_charts(lines), image_gap=gaps[-1][1] if gaps else None, recipe=recipe, problem=problem
    )


def _recipe(checkpoint: Path) -> list[tuple[str, Facts]]:
    from clipcap.data.errors import CheckpointError
    from clipcap.train.model.checkpoint import read_config

    if not checkpoint.is_dir():
        raise CheckpointError(f"{checkpoint} is a file of another system, which does not record how it was trained")
    config = read_config(checkpoint)
    language_model = config.language_model
    sizes = {name: language_model.config[name] for name in _SIZES if name in language_model.config}
    encoder = config.encoder
    return [
        ("Settings of the run", facts({**config.progress, **config.training})),
        ("Mapper", facts({"kind": config.mapper.kind, **asdict(config.mapper)})),
        ("Language model", facts({"name": language_model.name, "tuned": language_model.tuned, **sizes})),
        (
            "Encoder",
            facts({n: getattr(encoder, n) for n in ("encoder", "pretrained", "features", "width", "normalized")}),
        ),
    ]


def _lines(folder: Path) -> list[dict[str, Any]]:
    """Read metrics.jsonl of a run, as far as it is whole."""
    from clipcap.train.run.metrics_file import read_metrics

    try:
        return [line for _, line in read_metrics(folder / "metrics.jsonl")]
    except OSError:
        return []


def _charts(lines: Sequence[dict[str, Any]]) -> list[tuple[str, Markup]]:
    validated = dict.fromkeys(name for line in lines for name in line if name.startswith("val_"))
    metrics = [name.removeprefix("val_") for name in validated if name != "val_loss"]  # as `metric` of training chose
    panels: list[tuple[str, list[Curve]]] = [
        (
            "Loss, nats per token",
            [
                Curve(name="training", points=_points(lines, "train_loss")),
                Curve(name="validation", points=_points(lines, "val_loss"), dots=True),
            ],
        ),
        ("Image gap, nats per token", [Curve(name="image gap", points=_points(lines, "image_gap"), dots=True)]),
        *(
            (f"{name} of validation captions", [Curve(name=name, points=_points(lines, f"val_{name}"), dots=True)])
            for name in metrics
        ),
        ("Learning rate", [Curve(name="learning rate", points=_points(lines, "lr"))]),
    ]
    drawn = [(title, [curve for curve in curves if curve.points]) for title, curves in panels]
    return [(title, line_chart(title, curves)) for title, curves in drawn if curves]


def _points(lines: Sequence[dict[str, Any]], name: str) -> list[tuple[float, float]]:
    found = [(_number(line.get("step")), _number(line.get(name))) for line in lines]
    return [(step, value) for step, value in found if math.isfinite(step) and math.isfinite(value)]


def _number(value: object) -> float:
    """Return a number as a float, and NaN for anything else."""
    return float(value) if isinstance(value, int | float) else math.nan
