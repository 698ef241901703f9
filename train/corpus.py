"""The captions of a cache in memory, on the device, and batches of them: gathers, no worker processes, no files.

n pictures, m captions, B captions in a batch, T tokens of its longest, d numbers in an embedding, t patches.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from clipcap.data.cache import Cache
from clipcap.data.records import SPLITS
from clipcap.data.tokenizer import encode_captions

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Batches are sorted by length within so many at a time: little padding, and still a fresh mixture every epoch.
POOL = 50


class Batch(NamedTuple):
    """B captions: embedding float32 (B, d) or (B, t, d), tokens int64 (B, T) padded at the right, lengths int64 (B)."""

    embedding: torch.Tensor
    tokens: torch.Tensor
    lengths: torch.Tensor


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """All captions of one split.

    Attributes:
        embedding: float16 (n, d), or (n, t, d).
        image: int64 (m), the picture of each caption.
        first_token: int64 (m).
        length: int64 (m), tokens of each caption that are trained on.
        token: int64, the tokens of all captions.
        path: the pictures' paths.
        text: the captions' texts.
        cut: captions that are longer than the model has positions for, and were cut.
    """

    embedding: torch.Tensor
    image: torch.Tensor
    first_token: torch.Tensor
    length: torch.Tensor
    token: torch.Tensor
    path: list[str]
    text: list[str]
    cut: int

    def __len__(self) -> int:
        return len(self.image)

    @property
    def images(self) -> int:
        """Pictures that have captions here."""
        return len(self.image.unique())

    def subset(self, part: float, seed: int) -> "Corpus":
        """The captions of so many of the pictures, chosen by the seed; at least of one."""
        images = self.image.unique().cpu()
        count = max(1, round(part * len(images)))
        chosen = images[torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))[:count]]
        kept = torch.isin(self.image, chosen.to(self.image.device)).nonzero()[:, 0]
        columns = {name: getattr(self, name)[kept] for name in ("image", "first_token", "length")}
        return replace(self, **columns, text=[self.text[i] for i in kept.tolist()])

    def to(self, device: torch.device) -> "Corpus":
        """The same with its tensors on a device."""
        tensors = {name: value.to(device) for name, value in vars(self).items() if isinstance(value, torch.Tensor)}
        return Corpus(**{**vars(self), **tensors})

    def batch(self, captions: torch.Tensor) -> Batch:
        """Assemble the captions of these numbers, int64 (B), on the device where the corpus is."""
        captions = captions.to(self.image.device)
        lengths = self.length[captions]
        columns = torch.arange(int(lengths.max()), device=lengths.device)
        # A position behind a caption's end reads its last token again: valid, and never looked at.
        offsets = torch.minimum(columns, lengths[:, None] - 1)  # (B, T)
        tokens = self.token[self.first_token[captions][:, None] + offsets]
        return Batch(self.embedding[self.image[captions]].float(), tokens, lengths)


def load_corpora(
    cache: Cache, max_tokens: int, retokenize: "PreTrainedTokenizerBase | None" = None
) -> dict[str, Corpus]:
    """Read a cache into memory, a corpus a split; splits without captions are left out.

    Args:
        cache: an opened cache.
        max_tokens: captions are cut to so many tokens (then without their end-of-text: the caption does not end there).
        retokenize: make the tokens anew from the texts with this tokenizer.

    Raises:
        CacheError: a shard cannot be read.
    """
    parts: dict[str, list[Corpus]] = {split: [] for split in SPLITS}
    for tables in cache.tables():
        captions = np.diff(tables.first_caption)
        if retokenize is None:
            token, first_token = tables.token.astype(np.int64), tables.first_token
        else:
            encoded = encode_captions(retokenize, tables.text)
            token = np.array([t for caption in encoded for t in caption], dtype=np.int64)
            first_token = np.cumsum([0, *map(len, encoded)], dtype=np.int64)
        split_of_caption = np.repeat(tables.split, captions)
        for number, split in enumerate(SPLITS):
            rows = np.flatnonzero(tables.split == number)
            chosen = np.flatnonzero(split_of_caption == number)
            length = np.diff(first_token)[chosen]
            pieces = [token[first_token[c] : first_token[c + 1]] for c in chosen]
            part = Corpus(
                embedding=torch.from_numpy(tables.embedding[rows]),
                image=torch.from_numpy(np.repeat(np.arange(len(rows)), captions[rows])),
                first_token=torch.from_numpy(np.cumsum(length) - length),
                length=torch.from_numpy(np.minimum(length, max_tokens)),
                token=torch.from_numpy(np.concatenate([np.empty(0, dtype=np.int64), *pieces])),
                path=[tables.path[row] for row in rows],
                text=[tables.text[c] for c in chosen],
                cut=int((length > max_tokens).sum()),
            )
            parts[split].append(part)
    corpora = {split: _join(some) for split, some in parts.items() if some}
    return {split: corpus for split, corpus in corpora.items() if len(corpus)}


def _join(parts: list[Corpus]) -> Corpus:
    images = np.cumsum([0, *(len(part.embedding) for part in parts)])
    tokens = np.cumsum([0, *(len(part.token) for part in parts)])
    return Corpus(
        embedding=torch.cat([part.embedding for part in parts]),
        image=torch.cat([part.image + int(images[i]) for i, part in enumerate(parts)]),
        first_token=torch.cat([part.first_token + int(tokens[i]) for i, part in enumerate(parts)]),
        length=torch.cat([part.length for part in parts]),
        token=torch.cat([part.token for part in parts]),
        path=[path for part in parts for path in part.path],
        text=[text for part in parts for text in part.text],
        cut=sum(part.cut for part in parts),
    )


def epoch_batches(length: torch.Tensor, batch_size: int, seed: int, epoch: int) -> list[torch.Tensor]:
    """All captions once, in batches, in an order that `seed` and `epoch` alone decide.

    Args:
        length: int64 (m), tokens of each caption.
        batch_size: captions in a batch; the last may have fewer.
        seed, epoch: of the order.

    Returns:
        The captions' numbers, int64 (B) each.
    """
    generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
    order = torch.randperm(len(length), generator=generator)
    batches: list[torch.Tensor] = []
    for pool in order.split(POOL * batch_size):
        by_length = pool[torch.argsort(length[pool].cpu(), stable=True)]
        batches.extend(by_length.split(batch_size))
    return [batches[int(i)] for i in torch.randperm(len(batches), generator=generator)]


def in_order(corpus: Corpus, images: torch.Tensor, batch_size: int) -> Iterator[torch.Tensor]:
    """The numbers of all captions of some pictures, int64 (images), in batches, shortest captions first."""
    chosen = torch.isin(corpus.image, images.to(corpus.image.device)).nonzero()[:, 0]
    yield from chosen[torch.argsort(corpus.length[chosen], stable=True)].split(batch_size)
