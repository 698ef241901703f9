"""Scores captions with a model: the loss of each of their tokens, given the embeddings that they describe."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from clipcap.data.errors import UsageError
from clipcap.data.pretrained.device import autocast
from clipcap.data.pretrained.tokenizer import encode_captions
from clipcap.train.model.captioning import ClipCapModel

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def score_captions(
    model: ClipCapModel,
    tokenizer: "PreTrainedTokenizerBase",
    embedding: torch.Tensor,
    captions: Sequence[str] | Sequence[Sequence[int]],
    *,
    with_end: bool,
    batch_size: int,
    precision: str,
) -> list[list[float]]:
    """Compute the loss of each token of captions.

    Args:
        model: in evaluation mode.
        tokenizer: of its language model.
        embedding: float (n, d) or (n, t, d), on the CPU, as the model takes them.
        captions: n texts; or the token ids of each, to which nothing is added.
        with_end: whether end-of-text comes after a text.
        batch_size: captions in a forward pass.
        precision: `fp32`, `bf16` or `fp16`.

    Returns:
        For each caption the losses of its tokens in order, in nats.

    Raises:
        UsageError: the number of captions is not that of the embeddings, or a caption is empty or longer than the model
            has positions for.
    """
    if len(embedding) != len(captions):
        raise UsageError(
            f"there are {len(embedding)} embeddings and {len(captions)} captions; give one caption for each"
        )
    tokens = [_tokens(caption, tokenizer, with_end) for caption in captions]
    _check_lengths(captions, tokens, model.gpt.config.n_positions - model.clip_project.config.prefix_length)
    device = model.gpt.device
    losses: list[list[float]] = []
    for start in range(0, len(tokens), batch_size):
        batch = [torch.tensor(row) for row in tokens[start : start + batch_size]]
        lengths = torch.tensor([len(row) for row in batch])
        padded = torch.nn.utils.rnn.pad_sequence(batch, batch_first=True)  # (rows, longest)
        rows = embedding[start : start + batch_size]
        with torch.inference_mode(), autocast(device, precision):
            flat = model.token_losses(rows.to(device), padded.to(device), lengths.to(device)).cpu()
        losses.extend(row.tolist() for row in flat.split(lengths.tolist()))
    return losses


def _tokens(caption: str | Sequence[int], tokenizer: "PreTrainedTokenizerBase", with_end: bool) -> list[int]:
    if not isinstance(caption, str):
        return list(caption)
    (tokens,) = encode_captions(tokenizer, [caption])
    return tokens if with_end else tokens[:-1]


def _check_lengths(captions: Sequence[str | Sequence[int]], tokens: list[list[int]], longest: int) -> None:
    for caption, row in zip(captions, tokens, strict=True):
        empty = not caption.strip() if isinstance(caption, str) else not caption
        if empty or len(row) > longest:
            fact = f"a caption of {0 if empty else len(row)} tokens cannot be scored"
            raise UsageError(f"{fact}; give 1 to {longest} tokens: {caption[:60]!r}")
