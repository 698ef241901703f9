"""Where options come from besides the command line: `--config FILE` and, below it, `--preset NAME`.

Both fill what click calls the default map, so that their values are checked like any other.
"""

import difflib
from pathlib import Path
from typing import Annotated, Any

import typer

from clipcap.data.command.presets import PRESETS
from clipcap.data.errors import UsageError, one_line
from clipcap.data.files import parse_json, parse_toml, read_text


def _use_config(context: typer.Context, path: Path | None) -> Path | None:
    if path is not None:
        context.meta["config"] = read_config_file(path, _names(context))
        _merge(context)
    return path


def _use_preset(context: typer.Context, name: str | None) -> str | None:
    if name is not None and context.get_parameter_source("preset").name == "COMMANDLINE":  # type: ignore[union-attr]
        context.meta["preset"] = name
        _merge(context)
    return name


def _merge(context: typer.Context) -> None:
    """Let the values of the file win over those of the preset, and a preset on the command line over the file's."""
    values = dict(context.meta.get("config", {}))
    name = context.meta.get("preset", values.pop("preset", None))
    values.pop("preset", None)
    context.default_map = {**(_preset_values(context, name) if isinstance(name, str) else {}), **values}


Config = Annotated[
    Path | None,
    typer.Option(
        "--config", metavar="FILE", is_eager=True, callback=_use_config, rich_help_panel="What it reads",
        help="A .toml or .json file of options, by their names. The command line wins over it.",
    ),
]  # fmt: skip
Preset = Annotated[
    str | None,
    typer.Option(
        "--preset", metavar="NAME", is_eager=True, callback=_use_preset, rich_help_panel="What it reads",
        autocompletion=lambda incomplete: [name for name in PRESETS if name.startswith(incomplete)],
        help=f"A recipe by its name: {', '.join(PRESETS)}. The command line and --config win over it.",
    ),
]  # fmt: skip


def read_config_file(path: Path, names: dict[str, str]) -> dict[str, Any]:
    """Read options from a file.

    Args:
        path: TOML, or JSON where it ends with `.json`: one table, with the options' names as keys.
        names: the spellings of all options, with the name of each one's parameter.

    Returns:
        Values by the names of the parameters.

    Raises:
        UsageError: the file cannot be read, is neither, or has a key that is no option.
    """
    try:
        text = read_text(path)
        content: Any = parse_json(text) if path.suffix == ".json" else parse_toml(text)
    except OSError as error:
        raise UsageError(f"`config` {path} cannot be read ({error.strerror}); give a .toml or .json file") from error
    except ValueError as error:
        kind = path.suffix or ".toml"
        raise UsageError(f"`config` {path} is not valid {kind} ({one_line(error)}); correct it") from error
    if not isinstance(content, dict):
        raise UsageError(f"`config` {path} holds a {type(content).__name__}, not a table of options; correct it")
    values = {}
    for key, value in content.items():
        name = key.replace("-", "_")
        if name not in names:
            raise UsageError(f"`config` {path} has the key {key!r}, which is no option; {_nearest(name, list(names))}")
        values[names[name]] = value
    return values


def _preset_values(context: typer.Context, name: str) -> dict[str, Any]:
    """The values that a preset has for the options of this command.

    Raises:
        UsageError: there is no preset of that name.
    """
    if name not in PRESETS:
        raise UsageError(f"`preset` {name} is not known; {_nearest(name, list(PRESETS))}")
    load = context.command.presets  # type: ignore[attr-defined]
    values: dict[str, Any] = load()[name]
    return values


def _nearest(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, 1)
    return f"the nearest is {near[0]}" if near else f"use {', '.join(known)}"


def _names(context: typer.Context) -> dict[str, str]:
    """Every spelling of an option, without leading dashes and with underscores inside, with its parameter's name."""
    return {
        name: str(parameter.name)
        for parameter in context.command.params
        for name in [str(parameter.name), *(option.lstrip("-").replace("-", "_") for option in parameter.opts)]
    }
