"""The plain loss that the packed one is compared with, one padded caption a row, with small models and captions."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from transformers import GPT2Config, GPT2LMHeadModel

from clipcap.train.corpus.captions import Corpus
from clipcap.train.mappers import mapper_config
from clipcap.train.mappers.module import Mapper
from clipcap.train.model.captioning import ClipCapModel
from clipcap.train.packed.layout import PACK_CAPTIONS, Packing
from clipcap.train.packed.loss import PackedBatch

WIDTH, POSITIONS, VOCABULARY, PREFIX = 32, 64, 211, 5
LONGEST = POSITIONS - PREFIX
# Lengths of the captions of each image: ragged, 1 and the longest, many captions of one image, and none.
LENGTHS = [[1], [7, 12, 9, 1, 30], [LONGEST, 2], [], [5] * (2 * PACK_CAPTIONS + 3), [LONGEST], [1, 1], [3, 14, 15, 9]]

Batch = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


@dataclass(frozen=True)
class Rows:
    """Embeddings in memory, in their own dtype."""

    rows: torch.Tensor

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, images: np.ndarray) -> torch.Tensor:
        return self.rows[torch.from_numpy(images)]


def make_corpus(dtype: torch.dtype, shape: tuple[int, ...] = (24,)) -> Corpus:
    """Make captions, many of which begin like others of their image. Some are the beginning of another one."""
    generator = torch.Generator().manual_seed(1)
    length = np.array([n for lengths in LENGTHS for n in lengths])
    token = []
    for lengths in LENGTHS:
        beginning = torch.randint(VOCABULARY, (LONGEST,), generator=generator)
        for n in lengths:
            common = int(torch.randint(n + 1, (), generator=generator))
            token += [beginning[:common], torch.randint(VOCABULARY, (n - common,), generator=generator)]
    return Corpus(
        embedding=Rows(torch.randn(len(LENGTHS), *shape, generator=generator, dtype=dtype)),
        image=np.repeat(np.arange(len(LENGTHS)), [len(lengths) for lengths in LENGTHS]),
        first_token=np.cumsum(length) - length,
        length=length,
        token=torch.cat(token).numpy(),
        path=[],
        text=[],
        cut=0,
    )


def make_model(kind: str, dtype: torch.dtype, patches: int = 0, **options: Any) -> ClipCapModel:
    torch.manual_seed(0)
    mapper = mapper_config(
        kind=kind, embedding_width=24, lm_width=WIDTH, prefix_length=PREFIX, clip_length=3, layers=2, heads=4,
        patches=patches,
    )  # fmt: skip
    config = GPT2Config(
        n_embd=WIDTH, n_layer=3, n_head=4, n_positions=POSITIONS, vocab_size=VOCABULARY, bos_token_id=0, eos_token_id=1,
        **{"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0, **options},
    )  # fmt: skip
    model = ClipCapModel(Mapper(mapper), GPT2LMHeadModel(config)).to(dtype)
    with torch.no_grad():  # biases and norms start as zeros and ones, which could hide a mistake
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def plain_batch(corpus: Corpus, captions: Any) -> Batch:
    """Pad captions, given by their indices: embedding (B, d), tokens (B, T) padded at the right, and lengths (B)."""
    captions = np.asarray(captions)
    first, length = corpus.first_token[captions], corpus.length[captions]
    token = corpus.token.astype(np.int64)
    rows = [torch.from_numpy(token[a : a + n]) for a, n in zip(first.tolist(), length.tolist(), strict=True)]
    tokens = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    return corpus.embedding[corpus.image[captions]], tokens, torch.from_numpy(length)


def read_back(batch: Packing | PackedBatch, prefix_length: int) -> list[tuple[int, list[int]]]:
    """Read a packed batch: for each target, its pack, and the tokens that its row sees, followed by the target."""
    input_token, target, position, row_of_cell, cell_of_row, branch_end, predicting_row, target_row = (
        np.asarray(getattr(batch, name))
        for name in (
            *("input_token", "target", "position", "row_of_cell", "cell_of_row", "branch_end", "predicting_row"),
            "target_row",
        )
    )
    packs, cells = branch_end.shape
    found = []
    for row, token in zip(predicting_row[target_row], target, strict=True):
        pack, column = divmod(int(cell_of_row[row]), cells)
        seen = row_of_cell[pack * cells + np.flatnonzero((np.arange(cells) <= column) & (column < branch_end[pack]))]
        assert seen[:prefix_length].tolist() == [pack * prefix_length + i for i in range(prefix_length)]
        assert position[seen].tolist() == list(range(len(seen)))
        found.append((pack, [*input_token[seen[prefix_length:] - packs * prefix_length].tolist(), int(token)]))
    return found


def plain_loss(model: ClipCapModel, batch: Batch, label_smoothing: float = 0.0) -> torch.Tensor:
    """Sum the losses of all tokens, in the dtype of the model."""
    logits, targets = model.target_logits(*batch)
    return F.cross_entropy(logits, targets, reduction="sum", label_smoothing=label_smoothing)
