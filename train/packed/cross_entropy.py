"""Cross entropy over a large vocabulary, a chunk of rows at a time, with its gradient in the same pass.

    for each chunk of rows     logits = hidden @ weight.T          (chunk, V), in the dtype of the products
        for a few of its rows  loss += cross entropy(logits)       float32
                               logits = gradient of the logits     in place
        gradient of hidden     = logits @ weight
        gradient of weight    += logits.T @ hidden

The logits of all rows are never in memory together. Chunks, and a gradient that is computed while the logits are there,
are the idea of Liger Kernel (arXiv:2410.10989). Knows nothing of packs: it gets rows, and the targets that each
predicts.

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
    """Computes loss and gradients in `forward`. `backward` hands the gradients on, and may run once only."""

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
        chunk_rows, softmax_rows, chunk_tokens = _chunk_sizes(hidden, weight)
        row_of_target = row.numpy()
        # How many targets each row predicts: several for the last row of a prefix and for input tokens that captions
        # share, none for padding.
        count = to_device(torch.from_numpy(np.bincount(row_of_target, minlength=len(hidden))), hidden.device).to(wide)
        row = to_device(row, hidden.device)
        loss = torch.zeros((), device=hidden.device, dtype=wide)
        hidden_gradient = torch.empty_like(hidden) if needs_hidden else None
        weight_gradient = torch.empty_like(weight) if needs_weight else None
        logits_memory = _logits_memory(hidden, chunk_rows, len(weight))
        scores_memory = torch.empty(softmax_rows, len(weight), device=hidden.device, dtype=wide)
        for begin in range(0, len(hidden), chunk_rows):
            chunk = hidden[begin : begin + chunk_rows]
            logits = logits_memory[: len(chunk)]
            for token in range(0, len(weight), chunk_tokens):
                tokens = slice(token, token + chunk_tokens)
                torch.mm(chunk, narrow[tokens].T, out=logits[:, tokens])
            for start in range(begin, begin + len(chunk), softmax_rows):
                stop = min(start + softmax_rows, begin + len(chunk))
                first, last = np.searchsorted(row_of_target, [start, stop])
                loss += _sum_losses(
                    logits[start - begin : stop - begin],
                    scores_memory[: stop - start],
                    row[first:last] - start,
                    target[first:last],
                    count[start:stop, None],
                    scale,
                    smoothing,
                    gradient=needs_hidden or needs_weight,
                )
            if hidden_gradient is not None:
                torch.mm(logits, narrow, out=hidden_gradient[begin : begin + len(chunk)])
            if weight_gradient is not None:
                for token in range(0, len(weight), chunk_tokens):
                    tokens = slice(token, token + chunk_tokens)
                    product = logits[:, tokens].T @ chunk
                    weight_gradient[tokens].copy_(product) if begin == 0 else weight_gradient[tokens].add_(product)
        ctx.save_for_backward(hidden_gradient, weight_gradient)
        ctx.shared = shared
        return loss * scale

    @staticmethod
    def backward(ctx: Any, upstream: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        hidden_gradient, weight_gradient = ctx.saved_tensors  # may be changed in place: `backward` runs once
        # `upstream` is nearly always 1, and then 154 MB need no multiplication; asking a GPU would cost more than that.
        if upstream.device.type != "cpu" or upstream.item() != 1:
            hidden_gradient = None if hidden_gradient is None else hidden_gradient.mul_(upstream)
            weight_gradient = None if weight_gradient is None else weight_gradient.mul_(upstream)
        if ctx.shared is not None:
            ctx.shared.gradient = weight_gradient
        return hidden_gradient, weight_gradient, None, None, None, None, None, None


def _chunk_sizes(hidden: torch.Tensor, weight: torch.Tensor) -> tuple[int, int, int]:
    """Rows of logits, rows of scores, and tokens of the vocabulary that are computed at a time."""
    on_cpu = hidden.device.type == "cpu"
    most = CHUNK_ROWS["cpu" if on_cpu else "cuda"]
    rows = math.ceil(len(hidden) / math.ceil(len(hidden) / most))  # chunks of the same size
    return (rows, min(SOFTMAX_ROWS, rows), VOCABULARY_CHUNK) if on_cpu else (rows, rows, len(weight))


def _logits_memory(hidden: torch.Tensor, rows: int, vocabulary: int) -> torch.Tensor:
    """Memory for logits (rows, V), in the dtype of `hidden`."""
    # Rows that begin at multiples of 64 numbers are written a third faster than rows of 50,257 numbers.
    padded = hidden.new_empty(rows, -(-vocabulary // 64) * 64)
    # oneDNN's products in bf16 read the columns after a row too, where memory may hold a NaN.
    padded[:, vocabulary:] = 0
    return padded[:, :vocabulary]


def _sum_losses(
    logits: torch.Tensor,
    scores: torch.Tensor,
    row: torch.Tensor,
    target: torch.Tensor,
    count: torch.Tensor,
    scale: float,
    smoothing: float,
    *,
    gradient: bool,
) -> torch.Tensor:
    """Sum the losses of a few rows of logits, and replace the logits by their gradient.

    Args:
        logits: float (rows, V).
        scores: float32 or float64 (rows, V), memory to compute in.
        row: int64 (targets), the row of `logits` that predicts each target.
        target: int64 (targets), token ids.
        count: float32 or float64 (rows, 1), how many targets each row predicts.
        scale: factor of the gradient, but not of the sum.
        smoothing: share of the target's probability that is spread over all tokens.
        gradient: whether to replace the logits by their gradient. Otherwise they stay as they are.

    Returns:
        The sum in nats, one number.
    """
    scores.copy_(logits)
    expected = (1 - smoothing) * scores[row, target]  # score of each target under the smoothed distribution
    if smoothing:
        expected += smoothing * scores.mean(dim=1)[row]
    top = scores.amax(dim=1)
    torch.softmax(scores, dim=1, out=scores)
    log_sum = top - scores.amax(dim=1).log()  # the largest probability is never rounded to zero
    loss = (log_sum[row] - expected).sum()
    if gradient:
        # The gradient of the logits: probabilities minus target distribution, summed over the row's targets.
        if smoothing:
            scores.sub_(smoothing / scores.shape[1])
        scores.mul_(scale * count)
        scores.index_put_((row, target), scores.new_full((), (smoothing - 1) * scale), accumulate=True)
        logits.copy_(scores)
    return loss
