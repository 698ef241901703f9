"""Masked attention over packed captions: gathers rows into cells, attends, and gathers the result back into rows.

    rows (R, 3 * H * E) --gather--> cells (3, P * H, S, E) --attention--> (P * H, S, E) --gather--> rows (R, H * E)

A cell attends to itself, to the prefix of its pack, and to the earlier tokens of its caption. For pack 0 of the example
in layout.py, that is

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
        visible: bool (P, 1, S, S), whether a cell (third axis) sees another one (last axis). For manual attention,
            float (P * H, S, S) to add to the scores: 0 where a cell is seen, minus infinity where it is not.
        projection_of_cell: int64 (3 * P * H * S), the index in (R, 3, H) of each cell's query, key and value.
        cell_of_projection: int64 (R * 3 * H), the inverse of `projection_of_cell`.
        cell_of_output: int64 (R * H), the index in (P, H, S) of each row's heads.
        output_of_cell: int64 (P * H * S), the inverse of `cell_of_output`.
    """

    shape: tuple[int, int, int]
    visible: torch.Tensor
    projection_of_cell: torch.Tensor
    cell_of_projection: torch.Tensor
    cell_of_output: torch.Tensor
    output_of_cell: torch.Tensor


def uses_manual_attention(device: torch.device) -> bool:
    """Whether this file computes attention itself. On a CPU, torch's backward pass with a mask is 4 times slower."""
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
    kind = torch.arange(3, device=device)  # query, key, value
    head = torch.arange(heads, device=device)
    row = row_of_cell.view(packs, 1, cells)
    pack_of_row, column_of_row = cell_of_row // cells, cell_of_row % cells
    output_of_cell = row * heads + head[:, None]  # (P, H, S)
    projection_of_cell = row * 3 * heads + (kind[:, None, None, None] * heads + head[:, None])  # (3, P, H, S)
    cell_of_output = (pack_of_row[:, None] * heads + head) * cells + column_of_row[:, None]  # (R, H)
    cell_of_projection = kind[:, None] * (packs * heads * cells) + cell_of_output[:, None]  # (R, 3, H)
    visible = _visible(branch_end)
    if uses_manual_attention(device):
        added = torch.zeros(visible.shape, dtype=dtype, device=device).masked_fill_(~visible, -torch.inf)
        visible = added.expand(-1, heads, -1, -1).flatten(0, 1)
    return Cells(
        shape=(packs, heads, cells),
        visible=visible,
        projection_of_cell=projection_of_cell.flatten(),
        cell_of_projection=cell_of_projection.flatten(),
        cell_of_output=cell_of_output.flatten(),
        output_of_cell=output_of_cell.flatten(),
    )


def _visible(branch_end: torch.Tensor) -> torch.Tensor:
    """Whether a cell (third axis) sees another one of its pack (last axis): bool (P, 1, S, S)."""
    cell = torch.arange(branch_end.shape[1], device=branch_end.device)
    return ((cell <= cell[:, None]) & (cell[:, None] < branch_end[:, None, :]))[:, None]


def attend(projected: torch.Tensor, cells: Cells, scaling: float, p: float) -> torch.Tensor:
    """Compute the attention of all rows.

    Args:
        projected: float (R, 3 * H * E), queries, keys and values of the rows.
        cells: what `lay_out` returns for the batch.
        scaling: factor of the scores.
        p: probability with which dropout zeroes an attention weight.

    Returns:
        float (R, H * E), the outputs of all heads, which the output projection takes.
    """
    packs, heads, count = cells.shape
    width = projected.shape[1] // (3 * heads)
    by_cell = _Rearrange.apply(projected.view(-1, width), cells.projection_of_cell, cells.cell_of_projection)
    if uses_manual_attention(projected.device):
        output = _Attention.apply(by_cell.view(3, -1, count, width), cells.visible, scaling, p)
    else:
        queries, keys, values = by_cell.view(3, packs, heads, count, width).unbind()
        output = F.scaled_dot_product_attention(
            queries, keys, values, attn_mask=cells.visible, dropout_p=p, scale=scaling
        )
    by_row: torch.Tensor = _Rearrange.apply(output.view(-1, width), cells.cell_of_output, cells.output_of_cell)
    return by_row.view(len(projected), -1)


class _Rearrange(torch.autograd.Function):
    """`x[index]`, whose backward pass gathers with the inverse index, where autograd would scatter and add.

    Between real rows and real cells the index is a permutation. Empty cells and padding break this, without effect:

    * All empty cells hold the last row, so its index occurs more than once. Its gradient is that of its own cell alone,
      without those of the empty cells.
    * Most empty cells belong to no row, so their indices do not occur. They get the gradient of the last row instead of
      zero. But an empty cell sees only itself, and no real row is gathered from it.
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

    The gradients of queries, keys and values are written into one array, where autograd would copy them. The product of
    weights and dropout mask is computed again in the backward pass, which costs less than storing it as autograd would.
    """

    @staticmethod
    def forward(ctx: Any, projected: torch.Tensor, visible: torch.Tensor, scaling: float, p: float) -> torch.Tensor:
        queries, keys, values = projected
        scores = torch.baddbmm(visible, queries, keys.mT, alpha=scaling)
        weights = torch.softmax(scores, dim=-1, out=scores)
        kept, ctx.scale = draw_kept(weights, p) if p else (None, 1.0)
        ctx.scaling = scaling
        ctx.save_for_backward(projected, weights, kept)
        return _product(keep(weights, kept), values, ctx.scale)

    @staticmethod
    def backward(ctx: Any, upstream: torch.Tensor) -> tuple[torch.Tensor, None, None, None]:
        projected, weights, kept = ctx.saved_tensors
        queries, keys, values = projected
        gradient = torch.empty_like(projected)
        upstream = upstream.contiguous()
        _product(keep(weights, kept).mT, upstream, ctx.scale, out=gradient[2])
        weights_gradient = keep(torch.bmm(upstream, values.mT), kept)
        scores_gradient = torch._softmax_backward_data(weights_gradient, weights, -1, weights.dtype)
        _product(scores_gradient, keys, ctx.scale * ctx.scaling, out=gradient[0])
        _product(scores_gradient.mT, queries, ctx.scale * ctx.scaling, out=gradient[1])
        return gradient, None, None, None


def _product(left: torch.Tensor, right: torch.Tensor, factor: float, out: torch.Tensor | None = None) -> torch.Tensor:
    """Multiply batches of matrices, and the products by a factor, in one pass over memory."""
    return torch.baddbmm(left.new_zeros(1), left, right, beta=0, alpha=factor, out=out)
