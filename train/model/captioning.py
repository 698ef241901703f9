"""The captioning model: a mapper's prefix in front of GPT-2, with its plain loss and the continuation of a prefix.

The mapper turns an embedding into a prefix of K positions, after which GPT-2 reads the caption. With K = 2 and the
caption "a dog." (`.` is end-of-text):

    position    0    1    2    3
    reads       p0   p1   a    dog
    predicts         a    dog  .

Letters for shapes: B captions, T tokens of the longest, K positions of the prefix, D width of the language model, d
numbers in an embedding, t patches, V vocabulary.
"""

import copy
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from transformers import GenerationConfig, GPT2LMHeadModel

from clipcap.train.mappers.module import Mapper


class ClipCapModel(nn.Module):
    """A mapper and a GPT-2, as attributes with the names that ClipCap's checkpoints have for them.

    Args:
        mapper: makes the prefix of an embedding.
        lm: the language model, whose width is the mapper's `lm_width`.
    """

    def __init__(self, mapper: Mapper, lm: GPT2LMHeadModel) -> None:
        super().__init__()
        self.clip_project = mapper
        self.gpt = lm
        # transformers takes missing options of a call from here; a folder's own defaults would change greedy decoding.
        self.gpt.generation_config = GenerationConfig()

    @property
    def end(self) -> int:
        """The id of the token that ends a caption."""
        end = self.gpt.config.eos_token_id
        assert isinstance(end, int), end
        return end

    def target_logits(
        self, embedding: torch.Tensor, tokens: torch.Tensor, lengths: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Compute the logits that predict each caption token. Padding and prefix have none.

        The last position of the prefix, K - 1, predicts the first token; the last token is predicted but never read.

        Args:
            embedding: float (B, d) or (B, t, d).
            tokens: int64 (B, T), padded at the right with any valid token.
            lengths: int64 (B), real tokens in each row, at least 1.

        Returns:
            Logits, float (N, V), and the tokens that they predict, int64 (N). N is the sum of `lengths`; captions come
            one after the other.
        """
        prefix = self.clip_project(embedding)  # (B, K, D)
        token_embedding = self.gpt.transformer.wte(tokens[:, :-1])  # (B, T - 1, D)
        inputs = torch.cat([prefix.to(token_embedding.dtype), token_embedding], dim=1)  # (B, K + T - 1, D)
        # No attention mask: attention is causal and padding is at the right, so no real token sees padding.
        hidden = self.gpt.transformer(inputs_embeds=inputs, use_cache=False).last_hidden_state
        hidden = hidden[:, self.clip_project.config.prefix_length - 1 :]  # (B, T, D)
        real = torch.arange(tokens.shape[1], device=tokens.device) < lengths[:, None]  # (B, T)
        return self.gpt.lm_head(hidden[real]), tokens[real]

    def token_losses(
        self, embedding: torch.Tensor, tokens: torch.Tensor, lengths: torch.Tensor, label_smoothing: float = 0.0
    ) -> torch.Tensor:
        """Compute the loss of every caption token.

        Args:
            embedding, tokens, lengths: as for `target_logits`.
            label_smoothing: share of the target's probability that is spread over all tokens (arXiv:1512.00567).

        Returns:
            float32 (N), in nats. N is the sum of `lengths`; captions come one after the other.
        """
        logits, targets = self.target_logits(embedding, tokens, lengths)
        return F.cross_entropy(logits.float(), targets, reduction="none", label_smoothing=label_smoothing)

    @torch.no_grad()
    def continue_prefix(self, embedding: torch.Tensor, *, end: int | None = None, **options: Any) -> torch.Tensor:
        """Let GPT-2 continue the prefix with transformers' own `generate`.

        Args:
            embedding: float (B, d) or (B, t, d).
            end: id of the token that ends a text; by default the language model's.
            options: of `GenerationConfig`, such as `max_new_tokens`, `num_beams` and `num_return_sequences`; and
                `tokenizer`, which `stop_strings` needs.

        Returns:
            Token ids, int64 (B * num_return_sequences, at most max_new_tokens). Texts that end earlier are padded with
            `end`.
        """
        prefix = self.clip_project(embedding)
        end = self.end if end is None else end
        room = self.gpt.config.n_positions - prefix.shape[1]
        options["max_new_tokens"] = min(options["max_new_tokens"], room)
        tokenizer = options.pop("tokenizer", None)
        tokens = self.gpt.generate(  # type: ignore[misc, unused-ignore]
            inputs_embeds=prefix.to(self.gpt.dtype),
            attention_mask=torch.ones(prefix.shape[:2], dtype=torch.long, device=prefix.device),
            generation_config=GenerationConfig(eos_token_id=end, pad_token_id=end, do_sample=False, **options),
            tokenizer=tokenizer,
        )
        assert isinstance(tokens, torch.Tensor)
        return tokens


def train_mode(model: ClipCapModel) -> None:
    """Put the model into training mode. A language model that is frozen as a whole stays in evaluation mode."""
    model.train()
    if not any(parameter.requires_grad for parameter in model.gpt.parameters()):
        model.gpt.eval()


def copy_model(model: ClipCapModel) -> ClipCapModel:
    """Copy a model. Weights that do not train are shared, since they never change."""
    shared = {id(parameter): parameter for parameter in model.parameters() if not parameter.requires_grad}
    return copy.deepcopy(model, memo=shared)
