"""Attention of packed captions: from rows to cells, each cell looking at what it may see, and back.

P packs, S cells of a pack, R rows (see train/packed/layout.py); H heads, E the width of a head.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from clipcap.train.packed.dropout import draw_kept, keep


@dataclass(frozen=True, kw_only=True)
class Cells:
    """Where the heads of a batch's cells come from, and what they see; the same in every layer.

    Attributes:
        shape: P, H, S.
        visible: which cells each cell sees. Bool (P, 1, S, S); `by_hand` what to add to the scores, (P * H, S, S): 0
            where a cell is seen, minus infinity where not.
        projection: int64 (3 * P * H * S), the place in (R, 3, H) of each cell's query, key and value.
        cell_of_projection: int64 (R * 3 * H), the way back.
        output: int64 (R * H), the place in (P, H, S) of each row's heads.
        row_of_output: int64 (P * H * S), the way back.
    """

    shape: tuple[int, int, int]
    visible: torch.Tensor
    projection: torch.Tensor
    cell_of_projection: torch.Tensor
    output: torch.Tensor
    row_of_output: torch.Tensor


def by_hand(device: torch.device) -> bool:
    """Whether attention is ours: on a CPU torch's own takes four times as long backward where there is a mask."""
    return device.type == "cpu"


def lay_out(
    row_of_cell: torch.Tensor, cell_of_row: torch.Tensor, end: torch.Tensor, heads: int, dtype: torch.dtype
) -> Cells:
    """The cells of a batch.

    Args:
        row_of_cell, cell_of_row, end: as in `Packing`, on the device.
        heads: H.
        dtype: of the scores.
    """
    packs, cells = end.shape
    device = end.device
    part, head = torch.arange(3, device=device), torch.arange(heads, device=device)
    row = row_of_cell.view(packs, 1, cells)
    row_of_output = row * heads + head[:, None]  # (P, H, S)
    projection = row * 3 * heads + (part[:, None, None, None] * heads + head[:, None])  # (3, P, H, S)
    output = (cell_of_row // cells * heads)[:, None] * cells + head * cells + (cell_of_row % cells)[:, None]  # (R, H)
    cell_of_projection = part[:, None] * (packs * heads * cells) + output[:, None]  # (R, 3, H)
    visible = _visible(end)
    if by_hand(device):
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


def _visible(end: torch.Tensor) -> torch.Tensor:
    """Of each cell that reads, the cells of its pack whose branch it is on: (P, 1, S, S)."""
    cell = torch.arange(end.shape[1], device=end.device)
    return ((cell <= cell[:, None]) & (cell[:, None] < end[:, None, :]))[:, None]


def attend(projected: torch.Tensor, cells: Cells, scaling: float, part: float) -> torch.Tensor:
    """What each row's heads see, mixed: (R, H * E).

    Args:
        projected: queries, keys and values of the rows, (R, 3 * H * E).
        cells: of the batch.
        scaling: of the scores.
        part: of the weights that dropout drops.
    """
    packs, heads, count = cells.shape
    width = projected.shape[1] // (3 * heads)
    split = _Rearrange.apply(projected.view(-1, width), cells.projection, cells.cell_of_projection)
    if by_hand(projected.device):
        mixed = _Attention.apply(split.view(3, -1, count, width), cells.visible, scaling, part)
    else:
        queries, keys, values = split.view(3, packs, heads, count, width).unbind()
        mixed = F.scaled_dot_product_attention(
            queries, keys, values, attn_mask=cells.visible, dropout_p=part, scale=scaling
        )
    joined: torch.Tensor = _Rearrange.apply(mixed.view(-1, width), cells.output, cells.row_of_output)
    return joined.view(len(projected), -1)


class _Rearrange(torch.autograd.Function):
    """`x[there]` where `back` leads back: its gradient is a gather too, where autograd's would be a scatter that adds.

    Where `there` names a row more than once, all but the place that `back` leads to are empty cells, or filling: nobody
    sees them, so their gradients do not count. What `there` does not name are empty cells too: they get some row's
    gradient where it should be zero, but each sees only itself, and nothing gathers it from there.
    """

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, there: torch.Tensor, back: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(back)
        return x.index_select(0, there)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        (back,) = ctx.saved_tensors
        return gradient.index_select(0, back), None, None


class _Attention(torch.autograd.Function):
    """(3, P * H, S, E) to (P * H, S, E). Autograd over products and softmax would copy what is written where it belongs
    here, and keep what is cheaper to make again."""

    @staticmethod
    def forward(ctx: Any, cells: torch.Tensor, visible: torch.Tensor, scaling: float, part: float) -> torch.Tensor:
        queries, keys, values = cells
        scores = torch.baddbmm(visible, queries, keys.mT, alpha=scaling)
        weights = torch.softmax(scores, dim=-1, out=scores)
        kept, ctx.scale = draw_kept(weights, part) if part else (None, 1.0)
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
        of_weights = keep(torch.bmm(upstream, values.mT), kept)
        of_scores = torch._softmax_backward_data(of_weights, weights, -1, weights.dtype)
        _product(of_scores, keys, ctx.scale * ctx.scaling, out=gradient[0])
        _product(of_scores.mT, queries, ctx.scale * ctx.scaling, out=gradient[1])
        return gradient, None, None, None


def _product(one: torch.Tensor, other: torch.Tensor, factor: float, out: torch.Tensor | None = None) -> torch.Tensor:
    """The matrices' products, times a number: without a pass of its own."""
    return torch.baddbmm(one.new_zeros(1), one, other, beta=0, alpha=factor, out=out)
