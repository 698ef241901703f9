"""The mapper as a module of torch: the layers that its configuration makes, and one forward.

Letters for shapes are those of base.py.
"""

import torch
from torch import nn

from clipcap.train.mappers.base import MapperConfig


class Mapper(nn.Module):
    """A mapper with fresh weights.

    Args:
        config: which mapper, and its sizes.
    """

    def __init__(self, config: MapperConfig) -> None:
        super().__init__()
        self.config = config
        for name, layer in config.layers_by_name().items():
            setattr(self, name, layer)

    def forward(self, embedding: torch.Tensor) -> torch.Tensor:
        """Embedding, float (B, d) or (B, t, d), to prefix, float (B, K, D)."""
        return self.config.prefix(self, embedding)
