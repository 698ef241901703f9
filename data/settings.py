"""Settings: frozen dataclasses in which each parameter is described once, in its field.

    @dataclass(frozen=True, kw_only=True)
    class TrainSettings(Settings):
        epochs: int = setting(10, "Passes over all captions.", group="Training", minimum=1)

A settings object checks itself when it is built. The command line makes its options from the same fields
(data/command/options.py). This module imports neither a command-line library nor anything heavy.
"""

import dataclasses
import math
import numbers
import re
import types
import typing
from dataclasses import dataclass
from typing import Any

from clipcap.data.errors import UsageError
from clipcap.data.pretrained.device import PRECISIONS

_METADATA = "setting"
# What a value of each type must be an instance of, and what messages call it.
_KINDS: dict[Any, tuple[type, str]] = {
    int: (numbers.Integral, "a whole number"),
    float: (numbers.Real, "a number"),
    str: (str, "a text"),
    bool: (bool, "true or false"),
}


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What is known of one parameter besides its name, type and default.

    Attributes:
        help: one or two sentences: what it does, its unit, and what a default of None means.
        group: heading under which the command's help lists it.
        choices: the values that are allowed.
        pattern: regular expression that the value must match as a whole; `help` says what it admits.
        minimum, maximum: bounds that are allowed values themselves.
        above, below: bounds that are not.
        metavar: placeholder for the value in the command's help.
        spellings: of the option, instead of the one that its name gives (`batch_size`: `--batch-size`).
        stored: whether the parameter decides the result, and so is stored with it.
    """

    help: str
    group: str = ""
    choices: tuple[str, ...] = ()
    pattern: str | None = None
    minimum: float | None = None
    maximum: float | None = None
    above: float | None = None
    below: float | None = None
    metavar: str | None = None
    spellings: tuple[str, ...] = ()
    stored: bool = True

    def check(self, name: str, value: Any) -> None:
        """Raise UsageError where `value` is not allowed for the parameter `name`."""
        if self.choices and value not in self.choices:
            raise UsageError(f"`{name}` {value} is not known; use {', '.join(self.choices)}")
        if self.pattern is not None and not (isinstance(value, str) and re.fullmatch(self.pattern, value)):
            raise UsageError(f"`{name}` {value!r} is not known; {self.help[0].lower()}{self.help[1:]}")
        bounds = [self.minimum, self.above, self.maximum, self.below]
        if any(bound is not None for bound in bounds) and not self._contains(value):
            raise UsageError(f"`{name}` must be {self.range}, not {value}")

    def _contains(self, value: Any) -> bool:
        return (
            isinstance(value, int | float)
            and (isinstance(value, int) or math.isfinite(value))  # a large integer is no float
            and (self.minimum is None or value >= self.minimum)
            and (self.above is None or value > self.above)
            and (self.maximum is None or value <= self.maximum)
            and (self.below is None or value < self.below)
        )

    @property
    def range(self) -> str:
        """The bounds in words, such as "above 0 and at most 1"; empty if there are none."""
        bounds = (
            ("at least", self.minimum),
            ("above", self.above),
            ("at most", self.maximum),
            ("below", self.below),
        )
        return " and ".join(f"{words} {bound:.10g}" for words, bound in bounds if bound is not None)


def setting(default: Any, help: str, **more: Any) -> Any:
    """Declare a field of a settings class: its default, its help, and what else `Setting` knows."""
    return dataclasses.field(default=default, metadata={_METADATA: Setting(help=help, **more)})


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Base of the settings classes.

    Raises:
        UsageError: a value is of another type, outside its bounds or not among its choices. None is allowed where it is
            the default.
    """

    def __post_init__(self) -> None:
        for parameter in parameters_of(type(self)):
            value = getattr(self, parameter.name)
            if value is not None or parameter.default is not None:
                parameter.setting.check(parameter.name, value)
                check_type(parameter.name, value, parameter.type)


def check_type(name: str, value: Any, kind: Any) -> None:
    """Check the type of a parameter's value, which may come from a file.

    Args:
        name: of the parameter.
        value: of any type.
        kind: the type that it is declared with, such as `int` or `int | None`; others than those of `_KINDS` may have
            any value.

    Raises:
        UsageError: the value is of another type.
    """
    members = typing.get_args(kind) if isinstance(kind, types.UnionType) else (kind,)
    kinds = [_KINDS[each] for each in members if each in _KINDS]
    if not kinds or (value is None and type(None) in members):
        return
    if not any(isinstance(value, each) and (each is bool or not isinstance(value, bool)) for each, _ in kinds):
        raise UsageError(f"`{name}` must be {' or '.join(words for _, words in kinds)}, not {str(value)[:60]}")


@dataclass(frozen=True, kw_only=True)
class Parameter:
    """One parameter of a settings class: name, type, default and description."""

    name: str
    type: Any
    default: Any
    setting: Setting


def parameters_of(settings: type[Settings]) -> list[Parameter]:
    """The parameters that a settings class declares with `setting`, in order."""
    types = typing.get_type_hints(settings)
    return [
        Parameter(name=field.name, type=types[field.name], default=field.default, setting=field.metadata[_METADATA])
        for field in dataclasses.fields(settings)
        if _METADATA in field.metadata
    ]


def stored_values(settings: Settings) -> dict[str, Any]:
    """The parameters of a settings object that decide its result, by name."""
    return {p.name: getattr(settings, p.name) for p in parameters_of(type(settings)) if p.setting.stored}


def changed_values(settings: Settings) -> dict[str, Any]:
    """The parameters of a settings object that differ from their defaults, by name."""
    values = {p.name: (getattr(settings, p.name), p.default) for p in parameters_of(type(settings))}
    return {name: value for name, (value, default) in values.items() if value != default}


def precision_setting(group: str) -> Any:
    """The parameter `precision` of the stages that only run a model: stage 1 and captioning."""
    return setting(
        "auto",
        "Precision of the computation. auto takes bf16 on a GPU that has it, and in stage 1, for most encoders, also "
        "on a CPU that has it; else fp32.",
        group=group, choices=("auto", *PRECISIONS),
    )  # fmt: skip


def device_setting(group: str) -> Any:
    """The parameter `device`, which all stages share. It decides the speed, and the last digits at most."""
    return setting(
        "auto", "Device to compute on: cpu, cuda, cuda:1 or mps. auto takes the first CUDA GPU, else mps, else cpu.",
        group=group, metavar="DEVICE", stored=False,
    )  # fmt: skip
