"""ClipCap's MLP mapper: two linear layers from the embedding to all positions of the prefix at once.

Shapes, names and initialisation are those of rmokady/CLIP_prefix_caption train.py (`MLP`), so that its checkpoints
load: for 512 -> 10 x 768 there are `model.0.weight` (3840, 512) and `model.2.weight` (7680, 3840), 31.47M parameters.
"""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from clipcap.train.mappers.base import MapperConfig

if TYPE_CHECKING:
    import torch
    from torch import nn


@dataclass(frozen=True, kw_only=True)
class MLPMapper(MapperConfig):
    """Linear d -> K*D/2, tanh, linear K*D/2 -> K*D."""

    kind: str = field(init=False, default="mlp")

    def layers_by_name(self) -> "dict[str, nn.Module | nn.Parameter]":
        from torch import nn

        output = self.prefix_length * self.lm_width
        return {
            "model": nn.Sequential(
                nn.Linear(self.embedding_width, output // 2), nn.Tanh(), nn.Linear(output // 2, output)
            )
        }

    def prefix(self, layers: Any, embedding: "torch.Tensor") -> "torch.Tensor":
        prefix: torch.Tensor = layers.model(embedding)  # (B, K*D)
        return prefix.view(len(embedding), self.prefix_length, self.lm_width)
