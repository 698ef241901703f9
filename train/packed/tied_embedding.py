"""The gradient of a matrix that embeds the words at the bottom and is the output layer at the top.

Autograd would make a matrix of zeros for the few words of a batch, and add it to the output layer's: with GPT-2 that
writes 154 MB and adds 154 MB for some hundred rows. Here the rows are added where they belong. W words, D width, V
vocabulary.
"""

from typing import Any

import torch


class SharedGradient:
    """Of one forward and backward pass: where the output layer, whose gradient comes first, leaves it.

    Autograd hands a gradient on only when it has all parts of it, and the embedding of the words, which is the other
    part, is the last to come. Until then it is nobody else's.

    Attributes:
        gradient: (V, D), or None as long as there is none.
    """

    gradient: torch.Tensor | None = None


def embed(weight: torch.Tensor, word: torch.Tensor, shared: SharedGradient) -> torch.Tensor:
    """`weight[word]`, float (W, D), whose gradient goes into that of the output layer.

    Args:
        weight: (V, D).
        word: int64 (W).
        shared: what the output layer of the same pass was given too.
    """
    rows = _Embed.apply(weight, word, shared)
    assert isinstance(rows, torch.Tensor)
    return rows


class _Embed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: torch.Tensor, word: torch.Tensor, shared: SharedGradient) -> torch.Tensor:
        ctx.save_for_backward(word)
        ctx.shared, ctx.shape = shared, weight.shape
        return weight.index_select(0, word)

    @staticmethod
    def backward(ctx: Any, upstream: torch.Tensor) -> tuple[torch.Tensor | None, None, None]:
        (word,) = ctx.saved_tensors
        if ctx.shared.gradient is None:
            return upstream.new_zeros(ctx.shape).index_add_(0, word, upstream), None, None
        # Not index_add_: on a GPU that adds in whatever order.
        ctx.shared.gradient.index_put_((word,), upstream, accumulate=True)
        ctx.shared.gradient = None
        return None, None, None
