"""Mappers turn an embedding into a prefix. A new mapper is one file with one class, and its line in `MAPPERS`.

`MapperConfig` (base.py) is what the class fills in; its knobs become options of `clipcap-train` by themselves.
"""

from typing import Any

from clipcap.data.errors import UsageError
from clipcap.data.settings import Parameter, parameters_of
from clipcap.train.mappers.base import MapperConfig
from clipcap.train.mappers.encoder import EncoderMapper
from clipcap.train.mappers.linear import LinearMapper
from clipcap.train.mappers.mlp import MLPMapper
from clipcap.train.mappers.transformer import TransformerMapper

MAPPERS: dict[str, type[MapperConfig]] = {
    "mlp": MLPMapper,
    "transformer": TransformerMapper,
    "encoder": EncoderMapper,
    "linear": LinearMapper,
}


def knobs(kind: str) -> list[Parameter]:
    """The parameters of one mapper's own.

    Raises:
        UsageError: there is no mapper of that name.
    """
    return parameters_of(_find(kind))


def mapper_config(kind: str, **values: Any) -> MapperConfig:
    """The configuration of a mapper, as a checkpoint stores it.

    Args:
        kind: the mapper's name.
        values: its fields. Knobs that only other mappers have are ignored: early checkpoints hold all of them.

    Raises:
        UsageError: there is no mapper of that name, or a value is not allowed.
        TypeError: a field is missing, or no mapper has it.
    """
    own = {parameter.name for parameter in knobs(kind)}
    others = {parameter.name for name in MAPPERS for parameter in knobs(name)} - own
    return _find(kind)(**{name: value for name, value in values.items() if name not in others})


def _find(kind: str) -> type[MapperConfig]:
    if kind not in MAPPERS:
        raise UsageError(f"`mapper` {kind} is not known; use {', '.join(MAPPERS)}")
    return MAPPERS[kind]


__all__ = ["MAPPERS", "MapperConfig", "knobs", "mapper_config"]
