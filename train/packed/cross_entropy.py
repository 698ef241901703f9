"""Cross entropy over a large vocabulary, a chunk of rows at a time, with its gradient in the same pass.

The logits of all rows are never in memory together. Chunks, and a gradient that is computed while the logits are there,
are the idea of Liger Kernel (arXiv:2410.10989).

Letters for shapes: R rows, N targets, D width, V vocabulary.
"""

import math
from typing import Any

import numpy as np
import torch

from clipcap.data.pretrained.device import to_device
from clipcap.train.packed.tied_embedding import SharedGradient

# Rows whose logits are in memory at a time: 77 MB in bf16 with GPT-2's vocabulary. Every chunk adds to the whole
# gradient of the weight, which costs a GPU more than the 206 MB of a larger chunk.
CHUNK_ROWS = {"cpu": 768, "cuda": 2048}
# On a CPU, what its cache holds: rows of float32 scores at a time, and tokens of the vocabulary in one product.
SOFTMAX_ROWS = 64
VOCABULARY_CHUNK = 4096


def linear_cross_entropy(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    row: torch.Tensor,
    target: torch.Tensor,
    *,
    scale: float = 1.0,
    label_smoothing: float = 0.0,
    shared: SharedGradient | None = None,
) -> torch.Tensor:
    """Sum the cross entropy of all targets, `F.cross_entropy(hidden[row] @ weight.T, target, reduction="sum")`.

    Args:
        hidden: float (R, D), in the dtype of the matrix products.
        weight: float (V, D).
        row: int64 (N), on the CPU, ascending: the row that predicts each target. A row may predict several targets.
        target: int64 (N), token ids.
        scale: factor of the sum and of its gradient, applied before anything is rounded to the products' dtype.
        label_smoothing: share of the target's probability that is spread over all tokens (arXiv:1512.00567).
        shared: carries the gradient of `weight` to the token embedding, if `weight` embeds the input tokens as well.

    Returns:
        The sum in nats, times `scale`: one number, float32, or float64 if `hidden` is.
    """
    # Inside of the function, requires_grad is True even under torch.no_grad().
    gradients = torch.is_grad_enabled()
    loss = _LinearCrossEntropy.apply(hidden, weight, row, target, scale, label_smoothing, shared, gradients)
    assert isinstance(loss, torch.Tensor)
    return loss


def logits_bytes(device: torch.device, vocabulary: int) -> int:
    """The most bytes that logits take at a time, in 16 bits and in float32 together."""
    on_cpu = device.type == "cpu"
    rows = CHUNK_ROWS["cpu" if on_cpu else "cuda"]
    return vocabulary * (2 * rows + 4 * (SOFTMAX_ROWS if on_cpu else rows))


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        row: torch.Tensor,
        target: torch.Tensor,
        scale: float,
        smoothing: float,
        shared: SharedGradient | None,
        gradients: bool,
    ) -> torch.Tensor:
        wide = torch.promote_types(hidden.dtype, torch.float32)
        narrow = weight.to(hidden.dtype)
        needs_hidden, needs_weight = (gradients and needed for needed in ctx.needs_input_grad[:2])
        on_cpu = hidden.device.type == "cpu"
        most = CHUNK_ROWS["cpu" if on_cpu else "cuda"]
        chunk = math.ceil(len(hidden) / math.ceil(len(hidden) / most))
        step = min(SOFTMAX_ROWS, chunk) if on_cpu else chunk
        tokens = VOCABULARY_CHUNK if on_cpu else len(weight)
        rows = row.numpy()
        # How many targets each row predicts: several for the last row of a prefix and for input tokens that captions
        # share, none for filling.
        count = to_device(torch.from_numpy(np.bincount(rows, minlength=len(hidden))), hidden.device).to(wide)
        row = to_device(row, hidden.device)
        loss = torch.zeros((), device=hidden.device, dtype=wide)
        hidden_gradient = torch.empty_like(hidden) if needs_hidden else None
        weight_gradient = torch.empty_like(weight) if needs_weight else None
        # Rows that begin at multiples of 64 numbers are written a third faster than rows of 50,257 numbers.
        padded_memory = hidden.new_empty(chunk, -(-len(weight) // 64) * 64)
        # oneDNN's products in bf16 read the columns after a row too, where memory may hold a NaN.
        padded_memory[:, len(weight) :] = 0
        logits_memory = padded_memory[:, : len(weight)]
        scores_memory = torch.empty(step, len(weight), device=hidden.device, dtype=wide)
        for begin in range(0, len(hidden), chunk):
            part = hidden[begin : begin + chunk]
            logits = logits_memory[: len(part)]
            for token in range(0, len(weight), tokens):
                torch.mm(part, narrow[token : token + tokens].T, out=logits[:, token : token + tokens])
            for start in range(begin, begin + len(part), step):
                stop = min(start + step, begin + len(part))
                first, last = np.searchsorted(rows, [start, stop])
                at, there = row[first:last] - start, target[first:last]
                some = logits[start - begin : stop - begin]
                scores = scores_memory[: stop - start].copy_(some)
                known = (1 - smoothing) * scores[at, there]
                if smoothing:
                    known += smoothing * scores.mean(dim=1)[at]
                top = scores.amax(dim=1)
                torch.softmax(scores, dim=1, out=scores)
                log_sum = top - scores.amax(dim=1).log()  # the largest probability is never rounded to zero
                loss += (log_sum[at] - known).sum()
                if not (needs_hidden or needs_weight):
                    continue
                # The gradient of the logits: probabilities minus target distribution, summed over the row's targets.
                if smoothing:
                    scores.sub_(smoothing / len(weight))
                scores.mul_(scale * count[start:stop, None])
                scores.index_put_((at, there), scores.new_full((), (smoothing - 1) * scale), accumulate=True)
                some.copy_(scores)
            if hidden_gradient is not None:
                torch.mm(logits, narrow, out=hidden_gradient[begin : begin + len(part)])
            if weight_gradient is not None:
                for token in range(0, len(weight), tokens):
                    into = weight_gradient[token : token + tokens]
                    gradient = logits[:, token : token + tokens].T @ part
                    into.copy_(gradient) if begin == 0 else into.add_(gradient)
        ctx.save_for_backward(hidden_gradient, weight_gradient)
        ctx.shared = shared
        return loss * scale

    @staticmethod
    def backward(ctx: Any, upstream: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        hidden_gradient, weight_gradient = ctx.saved_tensors  # changed in place: there is one backward pass only
        # `upstream` is nearly always 1, and then 154 MB need no multiplication; asking a GPU would cost more than that.
        if upstream.device.type != "cpu" or upstream.item() != 1:
            hidden_gradient = None if hidden_gradient is None else hidden_gradient.mul_(upstream)
            weight_gradient = None if weight_gradient is None else weight_gradient.mul_(upstream)
        if ctx.shared is not None:
            ctx.shared.gradient = weight_gradient
        return hidden_gradient, weight_gradient, None, None, None, None, None, None
