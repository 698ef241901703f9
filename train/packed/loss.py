"""The captioning model over packed captions: ClipCapModel's loss, computed on real tokens only.

The weights are those of transformers' GPT2LMHeadModel; what is written out here is its forward pass, because that one
takes batches padded to a rectangle. `ClipCapModel.token_losses` is the same, plainly, a caption a row; the tests hold
every loss and gradient of this file against it. Letters as in train/packed/layout.py; H heads, D width.
"""

from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from transformers.activations import NewGELUActivation

from clipcap.train.model.captioning import ClipCapModel
from clipcap.train.packed.attention import Cells, attend, lay_out
from clipcap.train.packed.cross_entropy import linear_cross_entropy
from clipcap.train.packed.dropout import dropout
from clipcap.train.packed.tied_embedding import SharedGradient, embed


@dataclass(frozen=True, kw_only=True)
class PackedBatch:
    """A batch on its device.

    Attributes:
        embedding: float32 (P, d) or (P, t, d), one for each pack.
        word: int64 (W), the tokens that are read.
        target: int64 (N), the tokens that are predicted.
        position, row_of_cell, cell_of_row, end, used: as in `Packing`.
        target_row: as in `Packing`, on the CPU.
    """

    embedding: torch.Tensor
    word: torch.Tensor
    target: torch.Tensor
    position: torch.Tensor
    row_of_cell: torch.Tensor
    cell_of_row: torch.Tensor
    end: torch.Tensor
    used: torch.Tensor
    target_row: torch.Tensor


class PackedLoss(nn.Module):
    """A model as a module whose forward is its loss, as DistributedDataParallel wants it.

    Args:
        model: stays the caller's.
        label_smoothing: as for `ClipCapModel.token_losses`.
    """

    def __init__(self, model: ClipCapModel, label_smoothing: float = 0.0) -> None:
        super().__init__()
        self.model = model
        self.label_smoothing = label_smoothing

    def forward(self, batch: PackedBatch, scale: float = 1.0) -> torch.Tensor:
        """The losses of all targets, summed and times `scale`: one number, float32 or float64."""
        shared = SharedGradient()
        hidden = hidden_states(self.model, batch, shared)
        return linear_cross_entropy(
            hidden.to(products_dtype(hidden.device) or hidden.dtype),
            self.model.gpt.lm_head.weight,
            batch.target_row,
            batch.target,
            scale=scale,
            label_smoothing=self.label_smoothing,
            shared=shared,
        )


def hidden_states(model: ClipCapModel, batch: PackedBatch, shared: SharedGradient) -> torch.Tensor:
    """The states that predict something, behind the final norm: float (len(batch.used), D).

    Args:
        model, batch: see there.
        shared: of the word embedding, for the output layer.
    """
    lm: Any = model.gpt.transformer
    # A CPU reads the weights of a mapper that has one row a picture faster than it converts them to bf16.
    wide = model.clip_project.config.one_row and batch.embedding.device.type == "cpu"
    with torch.autocast(batch.embedding.device.type, enabled=False) if wide else nullcontext():
        prefix = model.clip_project(batch.embedding).flatten(0, 1)  # (P * K, D)
    words = embed(lm.wte.weight, batch.word, shared)
    filling = words.new_zeros(len(batch.position) - len(prefix) - len(words), words.shape[1])
    rows = torch.cat([prefix.to(words.dtype), words, filling])
    rows = dropout(rows + lm.wpe(batch.position), lm.drop.p, lm.training)
    dtype = products_dtype(rows.device) or rows.dtype
    cells = lay_out(batch.row_of_cell, batch.cell_of_row, batch.end, lm.h[0].attn.num_heads, dtype)
    for block in lm.h:
        rows = rows + _attention(block.attn, block.ln_1(rows), cells)
        if block is lm.h[-1]:
            rows = rows[batch.used]  # behind the last attention nobody sees the others
        rows = rows + _feed_forward(block.mlp, block.ln_2(rows))
    hidden: torch.Tensor = lm.ln_f(rows)
    return hidden


def products_dtype(device: torch.device) -> torch.dtype | None:
    """The dtype of matrix products, where autocast is on; else None."""
    return torch.get_autocast_dtype(device.type) if torch.is_autocast_enabled(device.type) else None


def _attention(attention: Any, rows: torch.Tensor, cells: Cells) -> torch.Tensor:
    part = attention.attn_dropout.p if attention.training else 0.0
    mixed = attend(attention.c_attn(rows), cells, attention.scaling, part)
    return dropout(attention.c_proj(mixed), attention.resid_dropout.p, attention.training)


def _feed_forward(mlp: Any, rows: torch.Tensor) -> torch.Tensor:
    hidden = mlp.c_fc(rows)
    # "gelu_new" of transformers is written in eight operations; torch has it in one.
    hidden = F.gelu(hidden, approximate="tanh") if isinstance(mlp.act, NewGELUActivation) else mlp.act(hidden)
    return dropout(mlp.c_proj(hidden), mlp.dropout.p, mlp.training)
