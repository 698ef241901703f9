"""Mappers turn an embedding into a prefix. One file a mapper; a new one is its file and its line in `MAPPERS`."""

from clipcap.data.errors import UsageError
from clipcap.train.mappers.base import Mapper, MapperConfig
from clipcap.train.mappers.encoder import EncoderMapper
from clipcap.train.mappers.linear import LinearMapper
from clipcap.train.mappers.mlp import MLPMapper
from clipcap.train.mappers.transformer import TransformerMapper

MAPPERS: dict[str, type[Mapper]] = {
    "mlp": MLPMapper,
    "transformer": TransformerMapper,
    "encoder": EncoderMapper,
    "linear": LinearMapper,
}


def build_mapper(config: MapperConfig) -> Mapper:
    """Build the mapper that `config.kind` names, with fresh weights.

    Raises:
        UsageError: there is no mapper of that name.
    """
    if config.kind not in MAPPERS:
        raise UsageError(f"--mapper {config.kind} is not known; use {', '.join(MAPPERS)}")
    return MAPPERS[config.kind](config)


__all__ = ["MAPPERS", "Mapper", "MapperConfig", "build_mapper"]
