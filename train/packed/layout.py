"""How captions lie in a batch: packed, those of one picture behind one shared prefix, without padding between rows.

P packs, K positions of the prefix, R rows, S cells of a pack, B captions, W words that are read, N targets.

A caption of L tokens is read as L - 1 words (its last token is predicted, never read) and predicted as L targets, the
first of them by the last position of the prefix. Captions of a pack that begin alike share those words as they share
the prefix: they are a tree, which lies in the order of a walk that goes down first, so that who sees a row are those
behind it up to the end of its branch.

All rows of a batch lie one behind the other, and every layer but attention works on them so: first K rows for each
pack's prefix, then the words, then up to 31 rows of filling, which make shapes few. For attention alone they are laid
out as P x S cells, a pack behind the other, padded at the right.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# Matrix units of CPUs take 32 numbers of a sum at a time, and every new shape costs their kernels a compilation.
ROW_MULTIPLE = 32
CELL_MULTIPLE = 16
# A picture with more captions than this in one batch becomes several packs: attention's cost grows with S squared.
PACK_CAPTIONS = 16

Numbers = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Packing:
    """Where everything lies; int64, on the CPU.

    Attributes:
        first: a caption of each pack (P), as an index of those that were given.
        word: the tokens that are read (W).
        target: the tokens that are predicted (N).
        position: of each row (R), as GPT-2 counts.
        row_of_cell: the row in each cell (P * S); cells that are empty have the last row, filling or not.
        cell_of_row: the cell of each row (R); rows of filling have the last cell, which is empty.
        end: of each cell (P, S), the cell of its pack behind the last that sees it; empty ones see only themselves.
        used: rows whose state predicts something: the last of each prefix, then all words; then, to a multiple of 32,
            the last row again and again, from which nothing is predicted.
        target_row: where in `used` each target (N) is predicted; ascending.
    """

    first: Numbers
    word: Numbers
    target: Numbers
    position: Numbers
    row_of_cell: Numbers
    cell_of_row: Numbers
    end: Numbers
    used: Numbers
    target_row: Numbers


def pack(image: Numbers, token: Numbers, prefix_length: int) -> Packing:
    """Lay out a batch.

    Args:
        image: the picture of each caption (B).
        token: its tokens, at least one, then -1 (B, the longest).
        prefix_length: K.
    """
    order = np.lexsort([*token.T[::-1], image])  # of a picture, captions that begin alike lie side by side
    image, token = image[order], token[order]
    words = (token >= 0).sum(axis=1) - 1
    number = np.arange(len(order))
    new = np.concatenate([[True], image[1:] != image[:-1]])
    within = number - np.maximum.accumulate(np.where(new, number, 0))  # place among the captions of its picture
    first = np.flatnonzero(within % PACK_CAPTIONS == 0)
    pack_of = np.cumsum(within % PACK_CAPTIONS == 0) - 1
    packs = len(first)

    # Words that each caption has from the one before it; its others are its own.
    alike = np.logical_and.accumulate(token[1:] == token[:-1], axis=1).sum(axis=1)
    shared = np.concatenate([[0], np.minimum(alike, np.minimum(words[1:], words[:-1]))])
    shared[first] = 0
    offset = np.arange(token.shape[1])
    own = (offset >= shared[:, None]) & (offset < words[:, None])
    word_caption, word_offset = np.nonzero(own)
    count = len(word_caption)
    begin = np.searchsorted(word_caption, np.arange(len(order) + 1))  # of each caption's own words
    # The word at each place of each caption, (B, longest): one that is not its own is that of the last caption before
    # it that has it. Places that are no word hold anything.
    word_of = np.zeros_like(token)
    word_of[own] = np.arange(count)
    word_of = np.maximum.accumulate(word_of, axis=0)
    # A word's branch ends where a caption begins that shares less than it.
    ends = np.where(offset >= shared[1:, None], begin[1:-1, None], count)
    ends = np.concatenate([ends, np.full((1, len(offset)), count)])
    ends = np.minimum.accumulate(ends[::-1], axis=0)[::-1]

    prefix_rows = packs * prefix_length
    rows = _filled(prefix_rows + count, ROW_MULTIPLE)
    position = np.zeros(rows, dtype=np.int64)
    position[:prefix_rows] = np.tile(np.arange(prefix_length), packs)
    position[prefix_rows : prefix_rows + count] = prefix_length + word_offset

    pack_begin = begin[[*first, len(order)]]  # of each pack's words
    full = prefix_length + np.diff(pack_begin)
    cells = _filled(int(full.max()) + 1, CELL_MULTIPLE)
    word_pack = pack_of[word_caption]
    into_pack = prefix_length - pack_begin[word_pack]  # from a word's number to its place in its pack
    prefix_cells = np.arange(packs)[:, None] * cells + np.arange(prefix_length)
    word_cells = word_pack * cells + np.arange(count) + into_pack
    cell_of_row = np.full(rows, packs * cells - 1)
    cell_of_row[:prefix_rows] = prefix_cells.ravel()
    cell_of_row[prefix_rows : prefix_rows + count] = word_cells
    row_of_cell = np.full(packs * cells, rows - 1)
    row_of_cell[prefix_cells.ravel()] = np.arange(prefix_rows)
    row_of_cell[word_cells] = prefix_rows + np.arange(count)
    end = np.tile(np.arange(cells) + 1, packs)
    end[prefix_cells] = full[:, None]
    end[word_cells] = ends[own] + into_pack

    used = np.full(_filled(packs + count, ROW_MULTIPLE), rows - 1)
    used[:packs] = np.arange(packs) * prefix_length + prefix_length - 1
    used[packs : packs + count] = prefix_rows + np.arange(count)
    target_caption, target_offset = np.nonzero(token >= 0)
    after = packs + word_of[target_caption, target_offset - 1]  # anything for a first token, which the prefix predicts
    target_row = np.where(target_offset == 0, pack_of[target_caption], after)
    by_row = np.argsort(target_row, kind="stable")
    return Packing(
        first=order[first],
        word=token[own],
        target=token[target_caption, target_offset][by_row],
        position=position,
        row_of_cell=row_of_cell,
        cell_of_row=cell_of_row,
        end=end.reshape(packs, cells),
        used=used,
        target_row=target_row[by_row],
    )


def _filled(count: int, multiple: int) -> int:
    return -(-count // multiple) * multiple
