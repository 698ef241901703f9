"""The gradient of the token embedding, which in GPT-2 is the output layer as well.

    forward    token ids -> embed(weight) -> ... -> hidden -> output layer(weight) -> loss
    backward   2. rows of the batch are added  <- ... <-  1. gradient (V, D), left in SharedGradient

Autograd would make a second matrix of zeros for the few tokens of a batch and add it to the gradient of the output
layer: with GPT-2 small that writes 154 MB and adds 154 MB for some hundred rows. Here these rows are added in place. If
the batch reads the tokens 7, 9 and 7, rows 0 and 2 of the incoming gradient are added to row 7, and row 1 to row 9.

Letters for shapes: I input tokens, D width, V vocabulary.
"""

from typing import Any

import torch


class SharedGradient:
    """Carries the gradient of the output layer to the embedding, within one forward and backward pass.

    The output layer's backward pass runs first, and leaves its gradient here. Autograd uses a gradient only when all of
    its terms are there, and the embedding gives the last one, so the buffer may be changed until then. The caller must
    not use it before `backward` has run.

    Attributes:
        gradient: (V, D), or None before the output layer's backward pass.
    """

    gradient: torch.Tensor | None = None


def embed(weight: torch.Tensor, token: torch.Tensor, shared: SharedGradient) -> torch.Tensor:
    """Embed tokens: `weight[token]`, whose gradient is added to that of the output layer.

    Args:
        weight: float (V, D).
        token: int64 (I), token ids.
        shared: the object that the output layer of the same pass gets.

    Returns:
        float (I, D).
    """
    rows = _Embed.apply(weight, token, shared)
    assert isinstance(rows, torch.Tensor)
    return rows


class _Embed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: torch.Tensor, token: torch.Tensor, shared: SharedGradient) -> torch.Tensor:
        ctx.save_for_backward(token)
        ctx.shared, ctx.shape = shared, weight.shape
        return weight.index_select(0, token)

    @staticmethod
    def backward(ctx: Any, upstream: torch.Tensor) -> tuple[torch.Tensor | None, None, None]:
        (token,) = ctx.saved_tensors
        if ctx.shared.gradient is None:
            return upstream.new_zeros(ctx.shape).index_add_(0, token, upstream), None, None
        # Each of these adds in the same order in every run on its device, and in a changing one on the other.
        if upstream.device.type == "cpu":
            ctx.shared.gradient.index_add_(0, token, upstream)
        else:
            ctx.shared.gradient.index_put_((token,), upstream, accumulate=True)
        ctx.shared.gradient = None
        return None, None, None
