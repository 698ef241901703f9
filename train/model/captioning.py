"""The captioning model: a mapper's prefix in front of GPT-2, its loss, and its continuation.

B captions, T tokens of the longest, K positions of the prefix, D width, d numbers in an embedding, t patches, V
vocabulary.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from transformers import GenerationConfig, GPT2LMHeadModel

from clipcap.train.mappers.module import Mapper


class ClipCapModel(nn.Module):
    """A mapper and a GPT-2, under the names that ClipCap's checkpoints give them.

    Args:
        mapper: embedding -> prefix.
        lm: the language model; its width is the mapper's `lm_width`.
    """

    def __init__(self, mapper: Mapper, lm: GPT2LMHeadModel) -> None:
        super().__init__()
        self.clip_project = mapper
        self.gpt = lm
        # transformers fills what a call leaves open from here: a folder's own defaults would change what greedy means.
        self.gpt.generation_config = GenerationConfig()

    @property
    def end(self) -> int:
        """The token that ends a caption."""
        end = self.gpt.config.eos_token_id
        assert isinstance(end, int), end
        return end

    def target_logits(
        self, embedding: torch.Tensor, tokens: torch.Tensor, lengths: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The logits that predict each caption token, and these tokens; padding and prefix have none.

        Position K - 1, the last of the prefix, predicts the first token; the last token is predicted, never read.

        Args:
            embedding: float (B, d) or (B, t, d).
            tokens: int64 (B, T), padded at the right with any valid token.
            lengths: int64 (B), real tokens in each row, at least 1.

        Returns:
            Logits, float (N, V), and tokens, int64 (N): N is the sum of `lengths`, row after row.
        """
        prefix = self.clip_project(embedding)  # (B, K, D)
        words = self.gpt.transformer.wte(tokens[:, :-1])  # (B, T - 1, D)
        inputs = torch.cat([prefix.to(words.dtype), words], dim=1)
        # No attention mask: attention is causal and padding is at the right, so no real token ever sees any.
        hidden = self.gpt.transformer(inputs_embeds=inputs, use_cache=False).last_hidden_state
        hidden = hidden[:, self.clip_project.config.prefix_length - 1 :]  # (B, T, D)
        real = torch.arange(tokens.shape[1], device=tokens.device) < lengths[:, None]  # (B, T)
        return self.gpt.lm_head(hidden[real]), tokens[real]

    def token_losses(
        self, embedding: torch.Tensor, tokens: torch.Tensor, lengths: torch.Tensor, label_smoothing: float = 0.0
    ) -> torch.Tensor:
        """The loss of every caption token, and of nothing else: float32 (sum of lengths), in nats, row after row.

        Args:
            embedding, tokens, lengths: as for `target_logits`.
            label_smoothing: the part of the target's probability that is spread over all tokens (arXiv:1512.00567).
        """
        logits, targets = self.target_logits(embedding, tokens, lengths)
        return F.cross_entropy(logits.float(), targets, reduction="none", label_smoothing=label_smoothing)

    @torch.no_grad()
    def continue_prefix(self, embedding: torch.Tensor, *, end: int | None = None, **options: Any) -> torch.Tensor:
        """Let GPT-2 go on after the prefix, through transformers' own `generate`.

        Args:
            embedding: float (B, d) or (B, t, d).
            end: the token that ends a text; by default that of the language model.
            options: of `GenerationConfig`, as `max_new_tokens`, `num_beams`, `num_return_sequences`; and `tokenizer`,
                which `stop_strings` needs.

        Returns:
            int64 (B * num_return_sequences, at most max_new_tokens), `end` at the end and after it.
        """
        prefix = self.clip_project(embedding)
        end = self.end if end is None else end
        room = self.gpt.config.n_positions - prefix.shape[1]
        options["max_new_tokens"] = min(options["max_new_tokens"], room)
        tokenizer = options.pop("tokenizer", None)
        tokens = self.gpt.generate(  # type: ignore[misc]
            inputs_embeds=prefix.to(self.gpt.dtype),
            attention_mask=torch.ones(prefix.shape[:2], dtype=torch.long, device=prefix.device),
            generation_config=GenerationConfig(eos_token_id=end, pad_token_id=end, do_sample=False, **options),
            tokenizer=tokenizer,
        )
        assert isinstance(tokens, torch.Tensor)
        return tokens


def train_mode(model: ClipCapModel) -> None:
    """Switch dropout on where something is trained; a frozen language model stays as it is in use."""
    model.train()
    if not any(parameter.requires_grad for parameter in model.gpt.parameters()):
        model.gpt.eval()
