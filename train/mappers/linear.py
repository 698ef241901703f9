"""One linear layer from the embedding to the whole prefix, with or without a tanh after it.

With tanh it is the projector of Lahdhirim/CV-image-captioning-clip-gpt2 (5 visual tokens from 512 numbers); without, it
is what rmokady/CLIP_prefix_caption predict.py builds for a prefix longer than 10.
"""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from clipcap.data.settings import setting
from clipcap.train.mappers.base import GROUP, MapperConfig

if TYPE_CHECKING:
    import torch
    from torch import nn


@dataclass(frozen=True, kw_only=True)
class LinearMapper(MapperConfig):
    """Linear d -> K*D, then tanh if `tanh`."""

    kind: str = field(init=False, default="linear")
    tanh: bool = setting(True, "Whether the mapper ends with a tanh.", group=GROUP)

    def layers_by_name(self) -> "dict[str, nn.Module | nn.Parameter]":
        from torch import nn

        return {"linear": nn.Linear(self.embedding_width, self.prefix_length * self.lm_width)}

    def prefix(self, layers: Any, embedding: "torch.Tensor") -> "torch.Tensor":
        prefix: torch.Tensor = layers.linear(embedding)  # (B, K*D)
        if self.tanh:
            prefix = prefix.tanh()
        return prefix.view(len(embedding), self.prefix_length, self.lm_width)
