"""What every mapper has: a configuration that rebuilds it, and one forward.

B pictures, d numbers in an embedding, K positions of the prefix, D width of the language model.
"""

from dataclasses import dataclass

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
        layers: of the `transformer` mapper.
    """

    kind: str
    embedding_width: int
    lm_width: int
    prefix_length: int
    clip_length: int = 10
    layers: int = 8

    def __post_init__(self) -> None:
        for name in ("embedding_width", "lm_width", "prefix_length", "clip_length", "layers"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} of a mapper must be at least 1, not {getattr(self, name)}")


class Mapper(nn.Module):
    """Base of the mappers.

    Args:
        config: sizes.
    """

    def __init__(self, config: MapperConfig) -> None:
        super().__init__()
        self.config = config

    def forward(self, embedding: torch.Tensor) -> torch.Tensor:
        """Embedding, float (B, d), to prefix, float (B, K, D)."""
        raise NotImplementedError
