"""ClipCap's transformer mapper: the embedding as C positions, beside K learned ones that become the prefix.

      embedding (d) -> linear -> C positions \
                                              layers -> the last K positions: the prefix
                       K learned positions   /

Layers, names, initialisation and counts are those of rmokady/CLIP_prefix_caption train.py (`TransformerMapper`), so
that its checkpoints load. The paper's size, 10 + 10 positions and 8 layers at d = 512 and D = 768, has 41.75M
parameters; the released weights, 40 + 40 positions at d = 640, have 57.52M.
"""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from clipcap.data.settings import setting
from clipcap.train.mappers.base import GROUP, LARGEST, MapperConfig, check_heads, layers_setting

if TYPE_CHECKING:
    import torch
    from torch import nn

HEADS = 8


@dataclass(frozen=True, kw_only=True)
class TransformerMapper(MapperConfig):
    """Linear d -> C*D, C + K positions through pre-norm layers, the last K of them out. There is no final norm.

    Patches are positions already: each goes through one linear d -> D, and C is their number.
    """

    kind: str = field(init=False, default="transformer")
    clip_length: int = setting(
        10, "Positions that the mapper projects an embedding to.", group=GROUP, minimum=1, maximum=LARGEST
    )
    layers: int = layers_setting()

    takes_patches: ClassVar[bool] = True
    one_row: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_heads(self.kind, self.lm_width, HEADS)

    def layers_by_name(self) -> "dict[str, nn.Module | nn.Parameter]":
        import torch
        from torch import nn

        from clipcap.train.mappers.transformer_layers import Transformer

        transformer = Transformer(self.lm_width, self.layers, HEADS)
        positions = 1 if self.patches else self.clip_length
        return {
            "transformer": transformer,
            "linear": nn.Linear(self.embedding_width, positions * self.lm_width),
            "prefix_const": nn.Parameter(torch.randn(self.prefix_length, self.lm_width)),
        }

    def prefix(self, layers: Any, embedding: "torch.Tensor") -> "torch.Tensor":
        import torch

        image = layers.linear(embedding).reshape(len(embedding), -1, self.lm_width)  # (B, C, D)
        learned = layers.prefix_const.to(image.dtype).expand(len(image), -1, -1)  # (B, K, D)
        positions: torch.Tensor = layers.transformer(torch.cat([image, learned], dim=1))  # (B, C + K, D)
        return positions[:, -self.prefix_length :]
