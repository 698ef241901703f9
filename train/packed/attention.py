"""Attention of packed captions: rows are rearranged into cells, cells attend to what they may see, and back.

    rows (R, 3 * H * E) --gather--> cells (3, P * H, S, E) --attention--> (P * H, S, E) --gather--> rows (R, H * E)

A cell attends to itself and to the earlier cells of its pack on whose branch it is: the prefix, and its own caption up
to there. For pack 0 of the example in layout.py, that is

    cell           sees  p0 p1 a  dog runs sleeps
    2  a                 x  x  x
    3  dog               x  x  x  x
    4  runs              x  x  x  x   x
    5  sleeps            x  x  x  x        x

Knows nothing of the rest of the model. Letters for shapes: P packs, S cells of a pack, R rows (layout.py draws them); H
heads, E width of a head.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from clipcap.train.packed.dropout import draw_kept, keep


@dataclass(frozen=True, kw_only=True)
class Cells:
    """Gather indices between rows and cells, and what each cell sees. They are the same in every layer.

    Attributes:
        shape: (P, H, S).
        visible: which cells each cell sees: bool (P, 1, S, S). For manual attention, what is added to the scores
        instead:
            float (P * H, S, S), 0 where a cell is seen and minus infinity where it is not.
        projection: int64 (3 * P * H * S), the index in (R, 3, H) of each cell's query, key and value.
        cell_of_projection: int64 (R * 3 * H), the inverse of `projection`.
        output: int64 (R * H), the index in (P, H, S) of each row's heads.
        row_of_output: int64 (P * H * S), the inverse of `output`.
    """

    shape: tuple[int, int, int]
    visible: torch.Tensor
    projection: torch.Tensor
    cell_of_projection: torch.Tensor
    output: torch.Tensor
    row_of_output: torch.Tensor


def uses_manual_attention(device: torch.device) -> bool:
    """Whether attention is computed by this file: torch's own has a backward pass four times as slow on a CPU with a
    mask.
    """
    return device.type == "cpu"


def lay_out(
    row_of_cell: torch.Tensor, cell_of_row: torch.Tensor, branch_end: torch.Tensor, heads: int, dtype: torch.dtype
) -> Cells:
    """Compute the gather indices of a batch.

    Args:
        row_of_cell, cell_of_row, branch_end: int64, as in `Packing`, on the device.
        heads: H.
        dtype: of the attention scores.
    """
    packs, cells = branch_end.shape
    device = branch_end.device
    part, head = torch.arange(3, device=device), torch.arange(heads, device=device)
    row = row_of_cell.view(packs, 1, cells)
    row_of_output = row * heads + head[:, None]  # (P, H, S)
    projection = row * 3 * heads + (part[:, None, None, None] * heads + head[:, None])  # (3, P, H, S)
    output = (cell_of_row // cells * heads)[:, None] * cells + head * cells + (cell_of_row % cells)[:, None]  # (R, H)
    cell_of_projection = part[:, None] * (packs * heads * cells) + output[:, None]  # (R, 3, H)
    visible = _visible(branch_end)
    if uses_manual_attention(device):
        hidden = torch.zeros(visible.shape, dtype=dtype, device=device).masked_fill_(~visible, -torch.inf)
        visible = hidden.expand(-1, heads, -1, -1).flatten(0, 1)
    return Cells(
        shape=(packs, heads, cells),
        visible=visible,
        projection=projection.flatten(),
        cell_of_projection=cell_of_projection.flatten(),
        output=output.flatten(),
        row_of_output=row_of_output.flatten(),
    )


def _visible(branch_end: torch.Tensor) -> torch.Tensor:
    """Whether a cell (third axis) sees another one of its pack (last axis): bool (P, 1, S, S)."""
    cell = torch.arange(branch_end.shape[1], device=branch_end.device)
    return ((cell <= cell[:, None]) & (cell[:, None] < branch_end[:, None, :]))[:, None]


def attend(projected: torch.Tensor, cells: Cells, scaling: float, p: float) -> torch.Tensor:
    """Attention of all rows.

    Args:
        projected: float (R, 3 * H * E), queries, keys and values of the rows.
        cells: of the batch.
        scaling: factor of the scores.
        p: probability with which dropout zeroes an attention weight.

    Returns:
        float (R, H * E).
    """
    packs, heads, count = cells.shape
    width = projected.shape[1] // (3 * heads)
    split = _Rearrange.apply(projected.view(-1, width), cells.projection, cells.cell_of_projection)
    if uses_manual_attention(projected.device):
        mixed = _Attention.apply(split.view(3, -1, count, width), cells.visible, scaling, p)
    else:
        queries, keys, values = split.view(3, packs, heads, count, width).unbind()
        mixed = F.scaled_dot_product_attention(
            queries, keys, values, attn_mask=cells.visible, dropout_p=p, scale=scaling
        )
    joined: torch.Tensor = _Rearrange.apply(mixed.view(-1, width), cells.output, cells.row_of_output)
    return joined.view(len(projected), -1)


class _Rearrange(torch.autograd.Function):
    """`x[index]`, whose backward pass gathers with the inverse index, where autograd would scatter and add.

    The index is a permutation of real rows and cells. If it names a row more than once, the other places are empty
    cells or filling, whose gradients are zero or have no effect. Entries that it does not name are empty cells: they
    get some row's gradient instead of zero, but an empty cell sees only itself, and no row is gathered from it.
    """

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, index: torch.Tensor, inverse: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(inverse)
        return x.index_select(0, index)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        (inverse,) = ctx.saved_tensors
        return gradient.index_select(0, inverse), None, None


class _Attention(torch.autograd.Function):
    """Attention of cells, float (3, P * H, S, E) to (P * H, S, E), with its backward pass.

    Autograd would copy the gradients of queries, keys and values, which are written to their final place here, and
    would store the product of weights and dropout mask, which is cheaper to compute again.
    """

    @staticmethod
    def forward(ctx: Any, cells: torch.Tensor, visible: torch.Tensor, scaling: float, p: float) -> torch.Tensor:
        queries, keys, values = cells
        scores = torch.baddbmm(visible, queries, keys.mT, alpha=scaling)
        weights = torch.softmax(scores, dim=-1, out=scores)
        kept, ctx.scale = draw_kept(weights, p) if p else (None, 1.0)
        ctx.scaling = scaling
        ctx.save_for_backward(cells, weights, kept)
        return _product(keep(weights, kept), values, ctx.scale)

    @staticmethod
    def backward(ctx: Any, upstream: torch.Tensor) -> tuple[torch.Tensor, None, None, None]:
        cells, weights, kept = ctx.saved_tensors
        queries, keys, values = cells
        gradient = torch.empty_like(cells)
        upstream = upstream.contiguous()
        _product(keep(weights, kept).mT, upstream, ctx.scale, out=gradient[2])
        weights_gradient = keep(torch.bmm(upstream, values.mT), kept)
        scores_gradient = torch._softmax_backward_data(weights_gradient, weights, -1, weights.dtype)
        _product(scores_gradient, keys, ctx.scale * ctx.scaling, out=gradient[0])
        _product(scores_gradient.mT, queries, ctx.scale * ctx.scaling, out=gradient[1])
        return gradient, None, None, None


def _product(one: torch.Tensor, other: torch.Tensor, factor: float, out: torch.Tensor | None = None) -> torch.Tensor:
    """Batched matrix products times a factor, in one pass over memory."""
    return torch.baddbmm(one.new_zeros(1), one, other, beta=0, alpha=factor, out=out)
