"""ClipCap's MLP mapper: two linear layers, from the embedding to all positions of the prefix at once.

Shapes, names and initialisation as in rmokady/CLIP_prefix_caption train.py (`MLP`), so that their checkpoints are
ours: for 512 -> 10 x 768 it has `model.0.weight` (3840, 512) and `model.2.weight` (7680, 3840), 31.47M parameters.
"""

import torch
from torch import nn

from clipcap.train.mappers.base import Mapper, MapperConfig


class MLPMapper(Mapper):
    """Linear d -> K*D/2, tanh, linear K*D/2 -> K*D."""

    def __init__(self, config: MapperConfig) -> None:
        super().__init__(config)
        output = config.prefix_length * config.lm_width
        self.model = nn.Sequential(
            nn.Linear(config.embedding_width, output // 2), nn.Tanh(), nn.Linear(output // 2, output)
        )

    def forward(self, embedding: torch.Tensor) -> torch.Tensor:
        """Embedding, float (B, d), to prefix, float (B, K, D)."""
        prefix: torch.Tensor = self.model(embedding)
        return prefix.view(len(embedding), self.config.prefix_length, self.config.lm_width)
