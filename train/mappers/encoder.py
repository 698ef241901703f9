"""CLIPxGPT's mapper: transformer layers over the embedding as a sequence of one, then one linear to the whole prefix.

Layers and names are those of jmisilo/clip-gpt-captioning src/model/model.py (`Mapping`), so that its released weights
load: 44.89M parameters at d = D = 768 with 6 layers, 67.18M at 1024 with 5. Two things differ. Its training fed the
batch as one sequence, in which images attended to each other; here each image is a sequence of its own, as in its
prediction. And where d is not D, a linear comes before the layers, as in the fork for ViT-g-14 and GPT-2 XL, which did
not publish it.
"""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from clipcap.data.settings import setting
from clipcap.train.mappers.base import GROUP, MapperConfig, check_heads, layers_setting

if TYPE_CHECKING:
    import torch
    from torch import nn

EXPANSION = 4


@dataclass(frozen=True, kw_only=True)
class EncoderMapper(MapperConfig):
    """(Linear d -> D,) post-norm transformer layers, linear D -> K*D."""

    kind: str = field(init=False, default="encoder")
    layers: int = layers_setting()
    heads: int = setting(16, "Attention heads of the mapper.", group=GROUP, minimum=1)
    dropout: float = setting(0.0, "Dropout in the mapper.", group=GROUP, minimum=0, below=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_heads(self.kind, self.lm_width, self.heads)

    def layers_by_name(self) -> "dict[str, nn.Module | nn.Parameter]":
        from torch import nn

        width = self.lm_width
        made: dict[str, nn.Module | nn.Parameter] = {}
        if self.embedding_width != width:
            made["linear"] = nn.Linear(self.embedding_width, width)
        layer = nn.TransformerEncoderLayer(
            width, self.heads, dim_feedforward=EXPANSION * width, dropout=self.dropout, batch_first=True
        )
        made["transformer_encoder"] = nn.TransformerEncoder(layer, self.layers, enable_nested_tensor=False)
        made["mapper"] = nn.Linear(width, self.prefix_length * width)
        # As in the original; attention's own matrices stay as torch makes them.
        for module in nn.ModuleDict(made).modules():  # type: ignore[arg-type]
            if isinstance(module, nn.Linear):
                nn.init.kaiming_normal_(module.weight, mode="fan_in", nonlinearity="relu")
                nn.init.zeros_(module.bias)
        return made

    def prefix(self, layers: Any, embedding: "torch.Tensor") -> "torch.Tensor":
        if self.embedding_width != self.lm_width:
            embedding = layers.linear(embedding)
        hidden = layers.transformer_encoder(embedding[:, None])[:, 0]  # (B, D)
        prefix: torch.Tensor = layers.mapper(hidden)  # (B, K*D)
        return prefix.view(len(embedding), self.prefix_length, self.lm_width)
