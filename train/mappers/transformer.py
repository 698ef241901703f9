"""ClipCap's transformer mapper: the embedding as several positions, beside learned ones that become the prefix.

Layers, names, initialisation and counts as in rmokady/CLIP_prefix_caption train.py (`TransformerMapper`), so that
their checkpoints are ours. The paper's size, 10 + 10 positions and 8 layers at d = 512 and D = 768, has 41.75M
parameters; the released weights', 40 + 40 at d = 640, has 57.52M.
"""

import torch
import torch.nn.functional as F
from torch import nn

from clipcap.data.errors import UsageError
from clipcap.train.mappers.base import Mapper, MapperConfig

HEADS = 8
MLP_RATIO = 2


class TransformerMapper(Mapper):
    """Linear d -> C*D, C + K positions through pre-norm layers, the last K of them out. No final norm.

    Patches are such positions already: each goes through one linear d -> D, and C is their number.
    """

    takes_patches = True
    one_row = False

    def __init__(self, config: MapperConfig) -> None:
        super().__init__(config)
        width = config.lm_width
        if width % HEADS:
            raise UsageError(f"--mapper transformer has {HEADS} heads, into which the width {width} cannot be divided")
        self.transformer = _Transformer(width, config.layers)
        self.linear = nn.Linear(config.embedding_width, (1 if config.patches else config.clip_length) * width)
        self.prefix_const = nn.Parameter(torch.randn(config.prefix_length, width))

    def forward(self, embedding: torch.Tensor) -> torch.Tensor:
        """Embedding, float (B, d) or (B, t, d), to prefix, float (B, K, D)."""
        picture = self.linear(embedding).reshape(len(embedding), -1, self.config.lm_width)  # (B, C, D)
        learned = self.prefix_const.to(picture.dtype).expand(len(picture), -1, -1)  # (B, K, D)
        positions: torch.Tensor = self.transformer(torch.cat([picture, learned], dim=1))
        return positions[:, -self.config.prefix_length :]


class _Transformer(nn.Module):
    def __init__(self, width: int, layers: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList([_Layer(width) for _ in range(layers)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


class _Layer(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attn = _Attention(width)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = _MLP(width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attn(self.norm1(x))
        mixed: torch.Tensor = x + self.mlp(self.norm2(x))
        return mixed


class _Attention(nn.Module):
    """Every position sees every other; queries, keys and values have no bias, the projection has one."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.to_queries = nn.Linear(width, width, bias=False)
        self.to_keys_values = nn.Linear(width, 2 * width, bias=False)
        self.project = nn.Linear(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        queries = self.to_queries(x).unflatten(-1, (HEADS, -1)).transpose(1, 2)  # (B, heads, positions, width / heads)
        keys, values = self.to_keys_values(x).unflatten(-1, (2, HEADS, -1)).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(queries, keys, values)
        projected: torch.Tensor = self.project(mixed.transpose(1, 2).flatten(2))
        return projected


class _MLP(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, MLP_RATIO * width)
        self.fc2 = nn.Linear(MLP_RATIO * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden: torch.Tensor = self.fc2(F.relu(self.fc1(x)))
        return hidden
