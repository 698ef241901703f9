"""The loss of the captioning model over packed captions, computed on real tokens only.

Knows nothing of caches, optimisers and how much memory a device has.

    embedding (P, d) -> mapper -> prefix rows   \
    token ids (I) -> wte -> input rows           rows (R, D) -> blocks -> predicting rows -> cross entropy -> loss
    padding                                     /

The weights are those of transformers' GPT2LMHeadModel. Its forward pass takes batches padded to a rectangle, so the
forward pass over rows is written out here. `ClipCapModel.token_losses` computes the same plainly, with a row for each
caption, and the tests compare every loss and gradient of this file with it.

Letters for shapes are those of layout.py, which draws rows and cells; H heads, D width of the language model.
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
    """A batch on its device: the embeddings of its packs, and a `Packing` as tensors.

    Attributes:
        embedding: float32 (P, d) or (P, t, d), one for each pack.
        input_token: int64 (I), the token ids that are read.
        target: int64 (N), the token ids that are predicted.
        position, row_of_cell, cell_of_row, branch_end, predicting_row: int64, as in `Packing`.
        target_row: int64 (N), as in `Packing`; on the CPU.
    """

    embedding: torch.Tensor
    input_token: torch.Tensor
    target: torch.Tensor
    position: torch.Tensor
    row_of_cell: torch.Tensor
    cell_of_row: torch.Tensor
    branch_end: torch.Tensor
    predicting_row: torch.Tensor
    target_row: torch.Tensor


class PackedLoss(nn.Module):
    """A module whose forward pass returns the loss of a model, which is what DistributedDataParallel needs.

    Args:
        model: mapper and language model. The module shares its parameters.
        label_smoothing: share of each target's probability that is spread over all tokens.
    """

    def __init__(self, model: ClipCapModel, label_smoothing: float = 0.0) -> None:
        super().__init__()
        self.model = model
        self.label_smoothing = label_smoothing

    def forward(self, batch: PackedBatch, scale: float = 1.0) -> torch.Tensor:
        """Sum the losses of all targets.

        Args:
            batch: on the model's device.
            scale: factor of the sum, so that a micro-batch gives its share of the mean over a batch.

        Returns:
            The sum in nats, times `scale`: one number, float32, or float64 if the model is.
        """
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
    """Run mapper and language model, up to the final norm.

    Args:
        model: mapper and language model.
        batch: on the model's device.
        shared: carries the gradient of the output layer to the token embedding of the same pass.

    Returns:
        The hidden states of the predicting rows: float (len(batch.predicting_row), D).
    """
    lm: Any = model.gpt.transformer
    # With one row for each image, converting the mapper's weights to bf16 costs a CPU more than using them in fp32.
    in_fp32 = model.clip_project.config.one_row and batch.embedding.device.type == "cpu"
    with torch.autocast(batch.embedding.device.type, enabled=False) if in_fp32 else nullcontext():
        prefix = model.clip_project(batch.embedding).flatten(0, 1)  # (P * K, D)
    inputs = embed(lm.wte.weight, batch.input_token, shared)  # (I, D)
    padding = inputs.new_zeros(len(batch.position) - len(prefix) - len(inputs), inputs.shape[1])
    rows = torch.cat([prefix.to(inputs.dtype), inputs, padding])  # (R, D)
    rows = dropout(rows + lm.wpe(batch.position), lm.drop.p, lm.training)
    dtype = products_dtype(rows.device) or rows.dtype
    cells = lay_out(batch.row_of_cell, batch.cell_of_row, batch.branch_end, lm.h[0].attn.num_heads, dtype)
    for block in lm.h:
        rows = rows + _attention(block.attn, block.ln_1(rows), cells)
        if block is lm.h[-1]:
            rows = rows[batch.predicting_row]  # after the last attention the other rows have no effect
        rows = rows + _feed_forward(block.mlp, block.ln_2(rows))
    hidden: torch.Tensor = lm.ln_f(rows)
    return hidden


def products_dtype(device: torch.device) -> torch.dtype | None:
    """The dtype of matrix products if autocast is on, else None."""
    return torch.get_autocast_dtype(device.type) if torch.is_autocast_enabled(device.type) else None


def _attention(attention: Any, rows: torch.Tensor, cells: Cells) -> torch.Tensor:
    p = attention.attn_dropout.p if attention.training else 0.0
    mixed = attend(attention.c_attn(rows), cells, attention.scaling, p)
    return dropout(attention.c_proj(mixed), attention.resid_dropout.p, attention.training)


def _feed_forward(mlp: Any, rows: torch.Tensor) -> torch.Tensor:
    hidden = mlp.c_fc(rows)
    # transformers computes "gelu_new" with eight operations, torch with one.
    hidden = F.gelu(hidden, approximate="tanh") if isinstance(mlp.act, NewGELUActivation) else mlp.act(hidden)
    return dropout(mlp.c_proj(hidden), mlp.dropout.p, mlp.training)
