"""What every mapper has: a configuration that rebuilds it, and one forward.

B pictures, d numbers in an embedding, t patches, K positions of the prefix, D width of the language model.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from clipcap.data.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class MapperConfig:
    """Stored in the checkpoint; a mapper rebuilds from it alone.

    Attributes:
        kind: the mapper's name in `MAPPERS`.
        embedding_width: d.
        lm_width: D.
        prefix_length: K.
        clip_length: positions that the embedding becomes inside the `transformer` mapper.
        layers: of the `transformer` and `encoder` mappers.
        heads: of the `encoder` mapper.
        dropout: in the `encoder` mapper.
        tanh: whether the `linear` mapper ends in one.
        patches: t, where a picture has an embedding for each of its patches; 0 where it has one.
    """

    kind: str
    embedding_width: int
    lm_width: int
    prefix_length: int
    clip_length: int = 10
    layers: int = 8
    heads: int = 16
    dropout: float = 0.0
    tanh: bool = True
    patches: int = 0

    def __post_init__(self) -> None:
        for name in ("embedding_width", "lm_width", "prefix_length", "clip_length", "layers", "heads"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} of a mapper must be at least 1, not {getattr(self, name)}")

    @property
    def embedding_shape(self) -> tuple[int, ...]:
        """Of one picture's embedding: (d,), or (t, d)."""
        return (self.patches, self.embedding_width) if self.patches else (self.embedding_width,)


class Mapper(nn.Module):
    """Base of the mappers.

    Args:
        config: sizes.

    Attributes:
        takes_patches: whether it can do with an embedding for each patch.
        one_row: whether a picture is one row in its layers, rather than several positions.

    Raises:
        UsageError: there are patches, and it cannot.
    """

    takes_patches: ClassVar[bool] = False
    one_row: ClassVar[bool] = True

    def __init__(self, config: MapperConfig) -> None:
        super().__init__()
        self.config = config
        if config.patches and not self.takes_patches:
            fact = f"--mapper {config.kind} takes one embedding of a picture, not {config.patches} patches"
            raise UsageError(f"{fact}; use --mapper transformer, or a cache of other --features")

    def forward(self, embedding: torch.Tensor) -> torch.Tensor:
        """Embedding, float (B, d) or (B, t, d), to prefix, float (B, K, D)."""
        raise NotImplementedError
