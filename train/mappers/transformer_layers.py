"""The layers of ClipCap's transformer mapper, with the names and shapes of rmokady/CLIP_prefix_caption train.py.

B images, D width.
"""

import torch
import torch.nn.functional as F
from torch import nn

MLP_RATIO = 2


class Transformer(nn.Module):
    """Pre-norm layers without a final norm: float (B, positions, D) to the same.

    Args:
        width: D, a multiple of `heads`.
        layers: number of layers.
        heads: attention heads of each layer.
    """

    def __init__(self, width: int, layers: int, heads: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList([Layer(width, heads) for _ in range(layers)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


class Layer(nn.Module):
    """Attention, then an MLP, each on the normalised input and added to it."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attn = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = MLP(width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attn(self.norm1(x))
        mixed: torch.Tensor = x + self.mlp(self.norm2(x))
        return mixed


class Attention(nn.Module):
    """Attention of every position to every other. Only the output projection has a bias."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.to_queries = nn.Linear(width, width, bias=False)
        self.to_keys_values = nn.Linear(width, 2 * width, bias=False)
        self.project = nn.Linear(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        queries = self.to_queries(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (B, heads, positions, D / heads)
        keys, values = self.to_keys_values(x).unflatten(-1, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(queries, keys, values)
        projected: torch.Tensor = self.project(mixed.transpose(1, 2).flatten(2))
        return projected


class MLP(nn.Module):
    """Linear D -> 2D, ReLU, linear 2D -> D."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, MLP_RATIO * width)
        self.fc2 = nn.Linear(MLP_RATIO * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden: torch.Tensor = self.fc2(F.relu(self.fc1(x)))
        return hidden
