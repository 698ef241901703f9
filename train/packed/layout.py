r"""The layout of a packed batch: the captions of an image share one prefix, with almost no padding.

Knows nothing of models: it computes index arrays from token ids.

Letters for shapes: B captions, P packs, K positions of the prefix, R rows, S cells of a pack, I input tokens, N
targets.

A *pack* is an image with its captions (or a part of them, if they are many). A caption of L tokens has L targets and
L - 1 input tokens: the last position of the prefix predicts the first token, and the last token is predicted but never
read. Captions of a pack that begin with the same tokens share these input tokens, as they share the prefix, so that
a pack is a tree. With K = 2 and three captions, two of one image and one of another (`.` is end-of-text):

    a dog runs.       pack 0:  p0 p1 a dog --- runs        pack 1:  p2 p3 two cats
    a dog sleeps.                          \-- sleeps
    two cats.

*Rows* are what every layer but attention works on: first the prefixes of all packs, then all input tokens, each tree
depth first, then padding up to a multiple of 32, which keeps the number of different shapes small:

    row               0  1  2  3  4  5    6    7       8    9     10 ... 31
    holds             p0 p1 p2 p3 a  dog  runs sleeps  two  cats  padding
    position          0  1  0  1  2  3    4    4       2    3     0 ...
    predicts             a     two dog runs,   .  .    cats .     nothing
                         a                sleeps

Row 1 predicts `a` for two captions; row 5, `dog`, predicts `runs` and `sleeps`.

*Cells* are the rows as attention sees them: P x S, one pack after the other, padded at the right. Here S is 16:

    cell of pack 0    0  1  2  3    4    5       6 ... 15         cell of pack 1    0  1  2   3     4 ... 15
    holds             p0 p1 a  dog  runs sleeps  empty            holds             p2 p3 two cats  empty
    branch_end        6  6  6  6    5    6       7 ... 16         branch_end        4  4  4   4     5 ... 16

A cell is seen by itself and by the cells after it up to its `branch_end`: `runs` (cell 4, branch_end 5) by itself
alone, `dog` (cell 3, branch_end 6) by `runs` and `sleeps` too. Empty cells see only themselves.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# Matrix units of CPUs add 32 products at a time, and their kernels are compiled anew for every shape.
ROW_MULTIPLE = 32
CELL_MULTIPLE = 16
# An image with more captions than this in a batch becomes several packs, because attention costs S squared.
PACK_CAPTIONS = 16

Numbers = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Packing:
    """The layout of a batch: index arrays, int64, on the CPU. The module's docstring draws them.

    Attributes:
        first_caption: (P), a caption of each pack, as an index into the captions of the batch.
        input_token: (I), the token ids that are read, in the order of their rows.
        target: (N), the token ids that are predicted.
        position: (R), the position of each row, as GPT-2 counts.
        row_of_cell: (P * S), the row in each cell. Empty cells have the last row.
        cell_of_row: (R), the cell of each row. Padding has the last cell, which is empty.
        branch_end: (P, S), the cell after the last one that sees this cell.
        predicting_row: the rows that predict something: the last of each prefix, then all input tokens. The last row of
            the batch, repeated, fills up to a multiple of 32; these repeats predict nothing.
        target_row: (N), ascending, the index in `predicting_row` of the row that predicts each target.
    """

    first_caption: Numbers
    input_token: Numbers
    target: Numbers
    position: Numbers
    row_of_cell: Numbers
    cell_of_row: Numbers
    branch_end: Numbers
    predicting_row: Numbers
    target_row: Numbers


def pack(image: Numbers, token: Numbers, prefix_length: int) -> Packing:
    """Lay out a batch.

    Args:
        image: int64 (B), the image of each caption, in any order.
        token: int64 (B, longest), the token ids of each caption, at least one, then -1.
        prefix_length: K.

    Returns:
        The layout, in which captions are sorted by image, then by their tokens.
    """
    # Captions of an image with a common beginning become neighbours.
    order = np.lexsort([*token.T[::-1], image])
    image, token = image[order], token[order]

    # Packs: a new one begins with each image, and within an image after every PACK_CAPTIONS captions.
    caption = np.arange(len(order))
    new_image = np.concatenate([[True], image[1:] != image[:-1]])
    index_in_image = caption - np.maximum.accumulate(np.where(new_image, caption, 0))
    new_pack = index_in_image % PACK_CAPTIONS == 0
    first = np.flatnonzero(new_pack)
    pack_of = np.cumsum(new_pack) - 1
    packs = len(first)

    # The tree of each pack: a caption shares input tokens with the caption before it, and owns the rest.
    input_length = (token >= 0).sum(axis=1) - 1
    common = np.logical_and.accumulate(token[1:] == token[:-1], axis=1).sum(axis=1)
    shared = np.concatenate([[0], np.minimum(common, np.minimum(input_length[1:], input_length[:-1]))])
    shared[first] = 0
    offset = np.arange(token.shape[1])
    own = (offset >= shared[:, None]) & (offset < input_length[:, None])  # (B, longest)
    input_caption, input_offset = np.nonzero(own)
    inputs = len(input_caption)
    own_begin = np.searchsorted(input_caption, np.arange(len(order) + 1))  # where each caption's own input tokens begin
    # The index of the input token at each offset of each caption, (B, longest). A shared one is that of the last
    # caption before it that owns it. Offsets without an input token hold any number.
    input_of = np.zeros_like(token)
    input_of[own] = np.arange(inputs)
    input_of = np.maximum.accumulate(input_of, axis=0)
    # The branch of an input token ends at the first later caption that does not share it, (B, longest).
    input_end = np.where(offset >= shared[1:, None], own_begin[1:-1, None], inputs)
    input_end = np.concatenate([input_end, np.full((1, len(offset)), inputs)])
    input_end = np.minimum.accumulate(input_end[::-1], axis=0)[::-1]

    # Rows: the prefixes of all packs, all input tokens, padding.
    prefix_rows = packs * prefix_length
    rows = _filled(prefix_rows + inputs, ROW_MULTIPLE)
    position = np.zeros(rows, dtype=np.int64)
    position[:prefix_rows] = np.tile(np.arange(prefix_length), packs)
    position[prefix_rows : prefix_rows + inputs] = prefix_length + input_offset

    # Cells: the rows of each pack, with at least one empty cell after them.
    pack_begin = own_begin[[*first, len(order)]]  # where each pack's input tokens begin
    pack_cells = prefix_length + np.diff(pack_begin)  # cells of each pack that are not empty
    cells = _filled(int(pack_cells.max()) + 1, CELL_MULTIPLE)
    input_pack = pack_of[input_caption]
    into_pack = prefix_length - pack_begin[input_pack]  # from an input token's index to its cell within the pack
    prefix_cells = np.arange(packs)[:, None] * cells + np.arange(prefix_length)
    input_cells = input_pack * cells + np.arange(inputs) + into_pack
    cell_of_row = np.full(rows, packs * cells - 1)
    cell_of_row[:prefix_rows] = prefix_cells.ravel()
    cell_of_row[prefix_rows : prefix_rows + inputs] = input_cells
    row_of_cell = np.full(packs * cells, rows - 1)
    row_of_cell[prefix_cells.ravel()] = np.arange(prefix_rows)
    row_of_cell[input_cells] = prefix_rows + np.arange(inputs)
    branch_end = np.tile(np.arange(cells) + 1, packs)
    branch_end[prefix_cells] = pack_cells[:, None]
    branch_end[input_cells] = input_end[own] + into_pack

    # Predictions: the last row of the prefix predicts a first token, the input token before it any other one.
    predicting_row = np.full(_filled(packs + inputs, ROW_MULTIPLE), rows - 1)
    predicting_row[:packs] = np.arange(packs) * prefix_length + prefix_length - 1
    predicting_row[packs : packs + inputs] = prefix_rows + np.arange(inputs)
    target_caption, target_offset = np.nonzero(token >= 0)
    after_input = packs + input_of[target_caption, target_offset - 1]  # any number for a first token
    target_row = np.where(target_offset == 0, pack_of[target_caption], after_input)
    by_row = np.argsort(target_row, kind="stable")
    return Packing(
        first_caption=order[first],
        input_token=token[own],
        target=token[target_caption, target_offset][by_row],
        position=position,
        row_of_cell=row_of_cell,
        cell_of_row=cell_of_row,
        branch_end=branch_end.reshape(packs, cells),
        predicting_row=predicting_row,
        target_row=target_row[by_row],
    )


def _filled(count: int, multiple: int) -> int:
    """The least multiple that is at least `count`."""
    return -(-count // multiple) * multiple
