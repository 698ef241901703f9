"""Where options come from besides the command line: `--config FILE` and, below it, `--preset NAME`.

Both fill what click calls the default map, so that their values are checked like any other.
"""

import difflib
import json
import tomllib
from pathlib import Path
from typing import Annotated, Any

import typer

from clipcap.data.command.presets import PRESETS
from clipcap.data.errors import UsageError, one_line


def _use_config(context: typer.Context, path: Path | None) -> Path | None:
    if path is not None:
        context.meta["config"] = read_config_file(path, _names(context))
        _settle(context)
    return path


def _use_preset(context: typer.Context, name: str | None) -> str | None:
    if name is not None and context.get_parameter_source("preset").name == "COMMANDLINE":  # type: ignore[union-attr]
        context.meta["preset"] = name
        _settle(context)
    return name


def _settle(context: typer.Context) -> None:
    """Put the file over the preset; of two presets the one on the command line counts."""
    values = dict(context.meta.get("config", {}))
    below = values.pop("preset", None)
    name = context.meta.get("preset", below)
    context.default_map = {**(_preset(context, name) if isinstance(name, str) else {}), **values}


Config = Annotated[
    Path | None,
    typer.Option(
        "--config", metavar="FILE", is_eager=True, callback=_use_config, help="Options from a .toml or .json file."
    ),
]
Preset = Annotated[
    str | None,
    typer.Option("--preset", is_eager=True, callback=_use_preset, help=f"A recipe by name: {', '.join(PRESETS)}."),
]


def given(context: typer.Context, name: str) -> bool:
    """Whether a person gave an option, on the command line, in a config file or by a preset."""
    source = context.get_parameter_source(name)
    return source is not None and source.name in ("COMMANDLINE", "DEFAULT_MAP")


def on_command_line(context: typer.Context, name: str) -> bool:
    """Whether a person gave an option on the command line itself."""
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def read_config_file(path: Path, names: dict[str, str]) -> dict[str, Any]:
    """The options in a file, by the names of the command's parameters.

    Args:
        path: TOML, or JSON where it ends in `.json`: one table, keys as the options are called.
        names: of options, to the parameter's.

    Raises:
        UsageError: it cannot be read, is neither, or has a key that is no option.
    """
    try:
        text = path.read_text(encoding="utf-8")
        content: Any = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except OSError as error:
        raise UsageError(f"--config {path} cannot be read ({error.strerror}); give a .toml or .json file") from error
    except ValueError as error:
        raise UsageError(f"--config {path} is not {path.suffix or '.toml'} ({one_line(error)}); mend it") from error
    if not isinstance(content, dict):
        raise UsageError(f"--config {path} holds no table of options but a {type(content).__name__}; mend it")
    values = {}
    for key, value in content.items():
        name = key.replace("-", "_")
        if name not in names:
            near = difflib.get_close_matches(name, names, 1)
            what = f"the nearest is {near[0]}" if near else "see --help"
            raise UsageError(f"--config {path} has the key {key!r}, which is no option; {what}")
        values[names[name]] = value
    return values


def _preset(context: typer.Context, name: str) -> dict[str, Any]:
    """The half of a preset that the command has options for.

    Raises:
        UsageError: there is none of that name.
    """
    if name not in PRESETS:
        near = difflib.get_close_matches(name, PRESETS, 1)
        what = f"the nearest is {near[0]}" if near else f"use {', '.join(PRESETS)}"
        raise UsageError(f"--preset {name} is not known; {what}")
    _, *halves = PRESETS[name]
    names = _names(context)
    # The half whose every option the command has is its own.
    return next(dict(half) for half in halves if set(half) <= set(names.values()))


def _names(context: typer.Context) -> dict[str, str]:
    """Options as a person writes them, without dashes in front and with low lines inside, to their parameters."""
    return {
        name: str(parameter.name)
        for parameter in context.command.params
        for name in [str(parameter.name), *(option.lstrip("-").replace("-", "_") for option in parameter.opts)]
    }
