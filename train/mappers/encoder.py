"""CLIPxGPT's mapper: transformer layers over the embedding as a sequence of one, then one linear to the whole prefix.

Layers and names as in jmisilo/clip-gpt-captioning src/model/model.py (`Mapping`), whose released weights are ours so:
44.89M parameters at d = D = 768 with 6 layers, 67.18M at 1024 with 5. Two things differ. Their training fed the batch
as one sequence, in which pictures attended to each other; here each is a sequence of its own, as in their prediction.
And where d is not D there is a linear before the layers, which their fork for ViT-g-14 and GPT-2 XL had and never
published.
"""

import torch
from torch import nn

from clipcap.data.errors import UsageError
from clipcap.train.mappers.base import Mapper, MapperConfig

EXPANSION = 4


class EncoderMapper(Mapper):
    """(Linear d -> D,) post-norm transformer layers, linear D -> K*D."""

    def __init__(self, config: MapperConfig) -> None:
        super().__init__(config)
        width = config.lm_width
        if width % config.heads:
            raise UsageError(f"--mapper encoder has {config.heads} heads, into which the width {width} does not divide")
        if config.embedding_width != width:
            self.linear = nn.Linear(config.embedding_width, width)
        layer = nn.TransformerEncoderLayer(
            width, config.heads, dim_feedforward=EXPANSION * width, dropout=config.dropout, batch_first=True
        )
        self.transformer_encoder = nn.TransformerEncoder(layer, config.layers, enable_nested_tensor=False)
        self.mapper = nn.Linear(width, config.prefix_length * width)
        for module in self.modules():  # as theirs; attention's own matrices stay as torch makes them
            if isinstance(module, nn.Linear):
                nn.init.kaiming_normal_(module.weight, mode="fan_in", nonlinearity="relu")
                nn.init.zeros_(module.bias)

    def forward(self, embedding: torch.Tensor) -> torch.Tensor:
        """Embedding, float (B, d), to prefix, float (B, K, D)."""
        if hasattr(self, "linear"):
            embedding = self.linear(embedding)
        hidden = self.transformer_encoder(embedding[:, None])[:, 0]  # (B, D)
        prefix: torch.Tensor = self.mapper(hidden)
        return prefix.view(len(embedding), self.config.prefix_length, self.config.lm_width)
