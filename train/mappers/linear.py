"""One linear layer from the embedding to the whole prefix, with a tanh behind it or without.

With it, as in Lahdhirim/CV-image-captioning-clip-gpt2 (`projector`: 5 visual tokens from 512 numbers); without it, as
rmokady/CLIP_prefix_caption predict.py makes its mapper of a prefix longer than 10.
"""

import torch
from torch import nn

from clipcap.train.mappers.base import Mapper, MapperConfig


class LinearMapper(Mapper):
    """Linear d -> K*D, and tanh where the configuration says so."""

    def __init__(self, config: MapperConfig) -> None:
        super().__init__(config)
        self.linear = nn.Linear(config.embedding_width, config.prefix_length * config.lm_width)

    def forward(self, embedding: torch.Tensor) -> torch.Tensor:
        """Embedding, float (B, d), to prefix, float (B, K, D)."""
        prefix: torch.Tensor = self.linear(embedding)
        if self.config.tanh:
            prefix = prefix.tanh()
        return prefix.view(len(embedding), self.config.prefix_length, self.config.lm_width)
