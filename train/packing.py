"""How captions lie in a batch: packed, those of one picture behind one shared prefix, without padding between rows.

P packs, K positions of the prefix, R rows, S cells of a pack, W words that are read, N targets.

A caption of L tokens is read as L - 1 words (its last token is predicted, never read) and predicted as L targets, the
first of them by the last position of the prefix. All rows of a batch lie one behind the other, and every layer but
attention works on them so: first K rows for each pack's prefix, then the words, then one to 32 rows of filling, which
make shapes few. For attention alone they are laid out as P x S cells, a pack behind the other, padded at the right.
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
        caption: the captions in the order in which they lie here, as indices of those that were given.
        first: the first caption of each pack (P), as an index of `caption`.
        word_caption, word_offset: the caption of each word that is read (W), and its place in it.
        position: of each row (R), as GPT-2 counts.
        row_of_cell: the row in each cell (P * S); cells that are empty have the last row, which is filling.
        cell_of_row: the cell of each row (R); rows of filling have the last cell, which is empty.
        segment: of each cell (P, S): -1 for the prefix, a number for each caption of the pack, -2 where it is empty.
        used: rows whose state predicts something: the last of each prefix, then all words, then filling to a multiple
            of 32.
        target_row: where in `used` each target (N) is predicted: first tokens, then what follows each word.
    """

    caption: Numbers
    first: Numbers
    word_caption: Numbers
    word_offset: Numbers
    position: Numbers
    row_of_cell: Numbers
    cell_of_row: Numbers
    segment: Numbers
    used: Numbers
    target_row: Numbers

    @property
    def real_rows(self) -> int:
        """Rows that are not filling."""
        return len(self.first) * int((self.segment[0] == -1).sum()) + len(self.word_caption)


def pack(image: Numbers, length: Numbers, prefix_length: int) -> Packing:
    """Lay out a batch.

    Args:
        image: the picture of each caption (B).
        length: its tokens (B), at least 1.
        prefix_length: K.
    """
    caption = np.argsort(image, kind="stable")
    image, words = image[caption], length[caption] - 1
    number = np.arange(len(caption))
    new = np.concatenate([[True], image[1:] != image[:-1]])
    within = number - np.maximum.accumulate(np.where(new, number, 0))  # place among the captions of its picture
    first = np.flatnonzero(within % PACK_CAPTIONS == 0)
    pack_of = np.cumsum(within % PACK_CAPTIONS == 0) - 1
    packs = len(first)

    begin = np.cumsum(words) - words  # of each caption among all words
    word_caption = np.repeat(number, words)
    word_offset = np.arange(len(word_caption)) - begin[word_caption]
    prefix_rows = packs * prefix_length
    rows = _filled(prefix_rows + len(word_caption) + 1, ROW_MULTIPLE)
    position = np.zeros(rows, dtype=np.int64)
    position[:prefix_rows] = np.tile(np.arange(prefix_length), packs)
    position[prefix_rows : prefix_rows + len(word_caption)] = prefix_length + word_offset

    column = prefix_length + begin - begin[first][pack_of]  # of each caption's first word in its pack
    cells = _filled(int((column + words).max()) + 1, CELL_MULTIPLE)
    prefix_cells = np.arange(packs)[:, None] * cells + np.arange(prefix_length)
    word_cells = (pack_of * cells + column)[word_caption] + word_offset
    cell_of_row = np.full(rows, packs * cells - 1)
    cell_of_row[:prefix_rows] = prefix_cells.ravel()
    cell_of_row[prefix_rows : prefix_rows + len(word_caption)] = word_cells
    row_of_cell = np.full(packs * cells, rows - 1)
    row_of_cell[prefix_cells.ravel()] = np.arange(prefix_rows)
    row_of_cell[word_cells] = prefix_rows + np.arange(len(word_caption))
    segment = np.full(packs * cells, -2)
    segment[prefix_cells.ravel()] = -1
    segment[word_cells] = word_caption

    used = np.full(_filled(packs + len(word_caption), ROW_MULTIPLE), rows - 1)
    used[:packs] = np.arange(packs) * prefix_length + prefix_length - 1
    used[packs : packs + len(word_caption)] = prefix_rows + np.arange(len(word_caption))
    return Packing(
        caption=caption,
        first=first,
        word_caption=word_caption,
        word_offset=word_offset,
        position=position,
        row_of_cell=row_of_cell,
        cell_of_row=cell_of_row,
        segment=segment.reshape(packs, cells),
        used=used,
        target_row=np.concatenate([pack_of, packs + np.arange(len(word_caption))]),
    )


def _filled(count: int, multiple: int) -> int:
    return -(-count // multiple) * multiple
