"""Options of the commands, made from settings classes: each parameter is described in its field, and nowhere else.

    @command(app, examples="...")
    @with_settings(given=parameters_of(TrainSettings))
    def train(context: typer.Context, cache: ..., given: dict[str, Any]) -> None: ...

`given` then holds what the person gave: on the command line, in a `--config FILE`, or by a `--preset NAME`.
"""

import inspect
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, get_args, get_origin

import typer

from clipcap.data.settings import Parameter, Setting

EXPLICIT = ("COMMANDLINE", "DEFAULT_MAP")
METAVARS: dict[Any, str] = {int: "N", float: "NUMBER", str: "TEXT", Path: "PATH"}


def with_settings(**groups: Sequence[Parameter]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Replace parameters of a command's function by the options of settings classes.

    Args:
        groups: for each parameter to replace, the settings that become options in its place. The function gets a dict
            of those that were given, by name. It must also take the context, as `context`.
    """

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        def command(**values: Any) -> None:
            context = values["context"]
            for name, parameters in groups.items():
                found = {parameter.name: values.pop(parameter.name) for parameter in parameters}
                values[name] = {key: value for key, value in found.items() if was_given(context, key)}
            function(**values)

        made: list[inspect.Parameter] = []
        for parameter in inspect.signature(function, eval_str=True).parameters.values():
            options = groups.get(parameter.name)
            made += [parameter] if options is None else [_option(option) for option in options]
        made = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in made]
        names = [parameter.name for parameter in made]
        assert len(set(names)) == len(names), f"two parameters of {function.__name__} have one name: {sorted(names)}"
        command.__name__, command.__doc__ = function.__name__, function.__doc__
        command.__signature__ = inspect.Signature(made)  # type: ignore[attr-defined]
        command.__annotations__ = {parameter.name: parameter.annotation for parameter in made}
        return command

    return decorate


def was_given(context: typer.Context, name: str) -> bool:
    """Whether a parameter was given on the command line, in a config file or by a preset."""
    source = context.get_parameter_source(name)
    return source is not None and source.name in EXPLICIT


def on_command_line(context: typer.Context, name: str) -> bool:
    """Whether a parameter was given on the command line itself."""
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def option_help(described: Setting) -> str:
    """The help of an option: that of its setting, with the parameters that it names spelled as options."""
    return re.sub(r"`([a-z_]+)`", lambda found: "--" + found[1].replace("_", "-"), described.help)


def _option(parameter: Parameter) -> inspect.Parameter:
    """The option of one setting, as typer reads it from a function's parameter."""
    described = parameter.setting
    spelling = f"--{parameter.name.replace('_', '-')}"
    kinds = [kind for kind in get_args(parameter.type) if kind is not type(None)]
    kind = kinds[0] if isinstance(parameter.type, UnionType) else parameter.type
    spellings = described.spellings or (spelling,)
    metavar = described.metavar or (
        "[" + "|".join(described.choices) + "]" if described.choices else METAVARS.get(kind)
    )
    if kind is bool:
        metavar = None
        if parameter.default is not False:
            spellings = (f"{spelling}/--no-{spelling[2:]}",)
    option = typer.Option(
        *spellings,
        help=option_help(described) + (f" {described.range.capitalize()}." if described.range else ""),
        rich_help_panel=described.group or None,
        metavar=metavar,
        autocompletion=_complete(described.choices) if described.choices else None,
    )
    assert get_origin(kind) is None, f"{parameter.name}: no option can be made of {kind}"
    return inspect.Parameter(
        parameter.name,
        inspect.Parameter.KEYWORD_ONLY,
        default=parameter.default,
        annotation=Annotated[parameter.type, option, described],  # docs/generate.py reads the description
    )


def _complete(choices: Sequence[str]) -> Callable[[str], list[str]]:
    return lambda incomplete: [choice for choice in choices if choice.startswith(incomplete)]
