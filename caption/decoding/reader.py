"""GPT-2 that reads prefixes, and then one token of each row at a time, with the keys and values of what it has read.

Images come and go while others are captioned, so rows differ in age, the number of tokens that were read. Tokens stand
at the right, as do their keys and values. Two images with two rows each, the second of which came a step later:

    image  prefix      rows
    0      p0 p1 p2    a    dog
                       the  dog
    1      p0 p1 p2         a
                            two
    columns            0    1

The keys and values of a prefix are computed once, and shared by the rows of its image.

G images, k rows of each, R = G * k rows, K positions of a prefix, W columns, H heads, E width of a head, D width of the
model, V vocabulary.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F

from clipcap.train.model.captioning import ClipCapModel


class Reader:
    """Reads texts of images with a model in evaluation mode.

    A subclass changes what a text begins with, or how positions are added.

    Args:
        model: mapper and GPT-2.
        rows_per_image: k.

    Attributes:
        ages: for each image, the number of tokens that its rows have.
        tokens: int64 (R, W), the tokens of each row at the right; `PAD` at their left.
        logits: float (R, V), of the next token of each row.
    """

    PAD = -1

    def __init__(self, model: ClipCapModel, rows_per_image: int) -> None:
        self.model, self.rows_per_image = model, rows_per_image
        self._gpt = model.gpt.transformer
        config = model.gpt.config
        scale = (config.hidden_size // config.num_attention_heads) ** -0.5 if config.scale_attn_weights else 1.0
        by_layer = config.scale_attn_by_inverse_layer_idx
        self._scales = [scale / (layer + 1) if by_layer else scale for layer in range(len(self._gpt.h))]
        device = self._gpt.wte.weight.device
        self.ages: list[int] = []
        self.tokens = torch.empty(0, 0, dtype=torch.long, device=device)
        self.logits = torch.empty(0, config.vocab_size, device=device)
        self._prefix: list[torch.Tensor] = []  # of each layer, keys and values (2, G, H, K, E)
        self._read: list[torch.Tensor] = []  # of each layer, keys and values (2, R, H, W, E)

    @property
    def room(self) -> int:
        """The number of tokens that fit behind a prefix."""
        positions: int = self.model.gpt.config.n_positions
        return positions - self.model.clip_project.config.prefix_length

    def enter(self, embedding: torch.Tensor) -> None:
        """Take in images, whose rows come after those that are there.

        Args:
            embedding: float (G', d) or (G', t, d), on the model's device.
        """
        prefix, logits = self.read_prefix(embedding)
        k, W = self.rows_per_image, self.tokens.shape[1]
        rows = len(embedding) * k
        logits = logits.repeat_interleave(k, dim=0)
        if not self.ages:
            self.logits, self._prefix = logits, prefix
            self._read = [part.new_empty(2, rows, part.shape[2], 0, part.shape[4]) for part in prefix]
        else:
            self.logits = torch.cat([self.logits, logits])
            for layer, part in enumerate(prefix):  # each in its place, so that memory holds only one layer twice
                self._prefix[layer] = torch.cat([self._prefix[layer], part], dim=1)
                read = self._read[layer]
                # Zeros, because what attention masks still enters its sum, with weight 0.
                self._read[layer] = torch.cat([read, read.new_zeros(2, rows, *read.shape[2:])], dim=1)
        self.tokens = torch.cat([self.tokens, self.tokens.new_full((rows, W), self.PAD)])
        self.ages += [0] * len(embedding)

    def advance(self, tokens: torch.Tensor, rows: torch.Tensor | None, images: Sequence[int] | None) -> None:
        """Read a token of each row that goes on, and compute the logits of those that follow.

        Args:
            tokens: int64 (R'), of the rows that go on.
            rows: int64 (R'), the row that each of them continues, one of the same image; None stands for all rows of
                the images that stay.
            images: those that stay, ascending; None stands for all. The others leave.
        """
        self._keep(rows, images)
        if not self.ages:
            self.logits = self.logits[:0]
            return
        # From the tokens, not from `ages`: copying a list to a GPU waits until the GPU has caught up.
        present = self.tokens != self.PAD  # (R', W)
        positions = self._prefix[0].shape[3] + present.sum(dim=1)
        empty = None if min(self.ages) == present.shape[1] else F.pad(~present, (0, 1))[:, None]
        hidden = self.embed(self._gpt.wte(tokens), positions)
        hidden = self._through_blocks(hidden, partial(self._attend_to_text, empty))
        self.logits = self.model.gpt.lm_head(self._gpt.ln_f(hidden))
        self.tokens = torch.cat([self.tokens, tokens[:, None]], dim=1)
        self.ages = [age + 1 for age in self.ages]

    def read_prefix(self, embedding: torch.Tensor) -> tuple[list[torch.Tensor], torch.Tensor]:
        """Read the prefixes of images.

        Returns:
            Of each layer the keys and values, float (2, G', H, K, E), and the logits of the first token, (G', V).
        """
        return self.read_inputs(self.model.clip_project(embedding))

    def read_inputs(self, inputs: torch.Tensor) -> tuple[list[torch.Tensor], torch.Tensor]:
        """Read inputs, float (G', K, D), from the first position on. Returns what `read_prefix` does."""
        layers: list[torch.Tensor] = []

        def attend(layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
            layers.append(torch.stack([key, value]))
            return F.scaled_dot_product_attention(query, key, value, is_causal=True, scale=self._scales[layer])

        positions = torch.arange(inputs.shape[1], device=inputs.device)
        hidden = self._through_blocks(self.embed(inputs, positions), attend)
        return layers, self.model.gpt.lm_head(self._gpt.ln_f(hidden[:, -1]))

    def embed(self, inputs: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """Add the embeddings of positions, int64 (R) or (K), to inputs, float (R, D) or (G', K, D)."""
        added: torch.Tensor = inputs.to(self._gpt.wpe.weight.dtype) + self._gpt.wpe(positions)
        return added

    def _through_blocks(self, hidden: torch.Tensor, attend: Callable[..., torch.Tensor]) -> torch.Tensor:
        """Send rows (R, D), or sequences (G', K, D), through the blocks of GPT-2.

        Args:
            hidden: float, the inputs with their positions.
            attend: gets the number of a block, and its queries, keys and values, (R, H, E) or (G', H, K, E); returns
                what is attended to, in the same shape.
        """
        heads = self.model.gpt.config.num_attention_heads
        block: Any
        for layer, block in enumerate(self._gpt.h):
            parts = block.attn.c_attn(block.ln_1(hidden)).unflatten(-1, (3, heads, -1))
            sequence = hidden.ndim == 3
            query, key, value = parts.permute(2, 0, 3, 1, 4) if sequence else parts.unbind(1)
            attended = attend(layer, query, key, value)
            attended = (attended.transpose(1, 2) if sequence else attended).flatten(-2)
            hidden = hidden + block.attn.c_proj(attended)
            hidden = hidden + block.mlp(block.ln_2(hidden))
        return hidden

    def _attend_to_text(
        self, empty: torch.Tensor | None, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor
    ) -> torch.Tensor:
        """Attend from one token of each row to its prefix, its earlier tokens, and itself.

        Args:
            empty: bool (R, 1, W), the columns in which a row has no token; the last is the new one. None stands for no
                such column.
            layer: number of the block.
            query, key, value: float (R, H, E), of the new tokens.

        Returns:
            float (R, H, E).
        """
        new = torch.stack([key, value])[:, :, :, None]  # (2, R, H, 1, E)
        keys, values = self._read[layer] = torch.cat([self._read[layer], new], dim=3)
        prefix_keys, prefix_values = self._prefix[layer]
        G, k, W = len(self.ages), self.rows_per_image, keys.shape[2]
        query = query * self._scales[layer]  # before the products, which could overflow in fp16
        grouped = query.unflatten(0, (G, k)).transpose(1, 2)  # (G, H, k, E)
        to_prefix = grouped @ prefix_keys.transpose(-1, -2)  # (G, H, k, K)
        to_tokens = (keys @ query[..., None])[..., 0]  # (R, H, W)
        if empty is not None:
            to_tokens = to_tokens.masked_fill(empty, -torch.inf)
        to_tokens = to_tokens.unflatten(0, (G, k)).transpose(1, 2)  # (G, H, k, W)
        scores = torch.cat([to_prefix, to_tokens], dim=-1)
        weights = scores.softmax(dim=-1, dtype=torch.promote_types(scores.dtype, torch.float)).to(values.dtype)
        of_prefix, of_tokens = weights.split([prefix_keys.shape[2], W], dim=-1)
        from_prefix: torch.Tensor = (of_prefix @ prefix_values).transpose(1, 2).flatten(0, 1)  # (R, H, E)
        from_tokens: torch.Tensor = (of_tokens.transpose(1, 2).flatten(0, 1)[:, :, None] @ values)[:, :, 0]
        return from_prefix + from_tokens

    def _keep(self, rows: torch.Tensor | None, images: Sequence[int] | None) -> None:
        """Let images leave, reorder the rows of the others, and drop the columns that no row has a token in."""
        device = self.tokens.device
        if images is not None:
            chosen = torch.tensor(images, dtype=torch.long, device=device)
            for layer, part in enumerate(self._prefix):
                self._prefix[layer] = part[:, chosen]
            self.ages = [self.ages[image] for image in images]
            if rows is None:
                k = self.rows_per_image
                rows = (chosen[:, None] * k + torch.arange(k, device=device)).flatten()
        if rows is not None:
            empty = self.tokens.shape[1] - max(self.ages, default=0)
            self.tokens = self.tokens[rows, empty:]
            for layer, part in enumerate(self._read):
                self._read[layer] = part[:, :, :, empty:].index_select(1, rows)
