"""The plain way that the packed engine is held against: one caption a row, padded to a rectangle, in no hurry."""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from clipcap.train.corpus import Corpus
from clipcap.train.model import ClipCapModel

Batch = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def plain_batch(corpus: Corpus, captions: Any) -> Batch:
    """Embedding (B, d), tokens (B, T) padded at the right, and lengths (B) of the captions of these numbers."""
    captions = np.asarray(captions)
    first, length = corpus.first_token[captions], corpus.length[captions]
    rows = [corpus.token[a : a + n] for a, n in zip(first.tolist(), length.tolist(), strict=True)]
    tokens = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    return corpus.embedding[corpus.image[captions]], tokens, torch.from_numpy(length)


def plain_loss(model: ClipCapModel, batch: Batch, label_smoothing: float = 0.0) -> torch.Tensor:
    """The losses of all tokens, summed, in the model's own dtype."""
    logits, targets = model.target_logits(*batch)
    return F.cross_entropy(logits, targets, reduction="sum", label_smoothing=label_smoothing)
