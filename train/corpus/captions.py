"""The captions of a cache in memory, and batches of them: gathers, no worker processes.

n pictures, m captions, K positions of the prefix. What decides how a batch is laid out is on the CPU, what the model
takes on the device.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from clipcap.data.cache.index import Cache
from clipcap.data.pretrained.device import to_device
from clipcap.data.pretrained.tokenizer import encode_captions
from clipcap.data.records import SPLITS
from clipcap.train.corpus.embeddings import Embeddings, ResidentEmbeddings, StoredEmbeddings, StreamedEmbeddings
from clipcap.train.packed.layout import pack
from clipcap.train.packed.loss import PackedBatch

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Numbers = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """All captions of one split.

    Attributes:
        embedding: of its n pictures.
        image: int64 (m), the picture of each caption, ascending.
        first_token: int64 (m).
        length: int64 (m), tokens of each caption that are trained on.
        token: int64, the tokens of all captions.
        path: the pictures' paths.
        text: the captions' texts.
        cut: captions that are longer than the model has positions for, and were cut.
    """

    embedding: Embeddings
    image: Numbers
    first_token: Numbers
    length: Numbers
    token: Numbers
    path: list[str]
    text: list[str]
    cut: int

    def __len__(self) -> int:
        return len(self.image)

    @property
    def images(self) -> int:
        """Pictures that have captions here."""
        return len(np.unique(self.image))

    def subset(self, part: float, seed: int) -> "Corpus":
        """The captions of so many of the pictures, chosen by the seed; at least of one."""
        images = np.unique(self.image)
        count = max(1, round(part * len(images)))
        kept = np.flatnonzero(np.isin(self.image, np.random.default_rng(seed).permutation(images)[:count]))
        columns = {name: getattr(self, name)[kept] for name in ("image", "first_token", "length")}
        return replace(self, **columns, text=[self.text[i] for i in kept])

    def packed(self, captions: Numbers, prefix_length: int) -> PackedBatch:
        """The captions of these numbers as a batch, those of one picture behind one prefix of K positions."""
        length = self.length[captions, None]
        place = np.arange(length.max())
        token = self.token[self.first_token[captions, None] + np.minimum(place, length - 1)]
        packing = pack(self.image[captions], np.where(place < length, token, -1), prefix_length)
        embedding = self.embedding[self.image[captions[packing.first]]]
        # One copy to the device for all.
        names = ("word", "target", "position", "row_of_cell", "cell_of_row", "end", "used")
        parts = {name: getattr(packing, name).ravel() for name in names}
        joined = torch.from_numpy(np.concatenate(list(parts.values())))
        pieces = to_device(joined, embedding.device).split([len(part) for part in parts.values()])
        columns = dict(zip(parts, pieces, strict=True))
        columns["end"] = columns["end"].view(packing.end.shape)
        return PackedBatch(embedding=embedding, target_row=torch.from_numpy(packing.target_row), **columns)


def load_corpora(
    cache: Cache,
    max_tokens: int,
    retokenize: "PreTrainedTokenizerBase | None" = None,
    *,
    device: torch.device | None = None,
    stream: bool = False,
) -> dict[str, Corpus]:
    """Read a cache, a corpus a split; splits without captions are left out.

    Args:
        cache: an opened cache.
        max_tokens: captions are cut to so many tokens (then without their end-of-text: the caption does not end there).
        retokenize: make the tokens anew from the texts with this tokenizer.
        device: where batches will be; the CPU by default.
        stream: keep only a few blocks of the embeddings in memory.

    Raises:
        CacheError: a shard cannot be read.
    """
    device = device or torch.device("cpu")
    parts: dict[str, list[_Part]] = {split: [] for split in SPLITS}
    for shard, tables in zip(cache.shards, cache.tables(embeddings=False), strict=True):
        captions = np.diff(tables.first_caption)
        if retokenize is None:
            token, first_token = tables.token.astype(np.int64), tables.first_token
        else:
            encoded = encode_captions(retokenize, tables.text)
            token = np.array([t for caption in encoded for t in caption], dtype=np.int64)
            first_token = np.cumsum([0, *map(len, encoded)], dtype=np.int64)
        split_of_caption = np.repeat(tables.split, captions)
        split_of_token = np.repeat(split_of_caption, np.diff(first_token))
        for number, split in enumerate(SPLITS):
            rows = np.flatnonzero(tables.split == number)
            chosen = np.flatnonzero(split_of_caption == number)
            part = _Part(
                shard=(shard.path, rows),
                captions=captions[rows],
                length=np.diff(first_token)[chosen],
                token=token[split_of_token == number],
                path=[tables.path[row] for row in rows],
                text=[tables.text[c] for c in chosen],
            )
            parts[split].append(part)
    kept = {split: some for split, some in parts.items() if any(len(part.length) for part in some)}
    return {split: _join(some, cache.embedding_shape, max_tokens, device, stream) for split, some in kept.items()}


@dataclass(frozen=True, kw_only=True)
class _Part:
    """What one shard has of a split: rows of pictures, captions of each, tokens of each caption, and the tokens."""

    shard: tuple[Path, Numbers]
    captions: Numbers
    length: Numbers
    token: Numbers
    path: list[str]
    text: list[str]


def _join(parts: list[_Part], shape: tuple[int, ...], max_tokens: int, device: torch.device, stream: bool) -> Corpus:
    captions, length, token = (
        np.concatenate([getattr(part, name) for part in parts]) for name in ("captions", "length", "token")
    )
    stored = StoredEmbeddings([part.shard for part in parts], shape)
    return Corpus(
        embedding=StreamedEmbeddings(stored, device) if stream else ResidentEmbeddings(stored, device),
        image=np.repeat(np.arange(len(captions)), captions),
        first_token=np.cumsum(length) - length,
        length=np.minimum(length, max_tokens),
        token=token,
        path=[path for part in parts for path in part.path],
        text=[text for part in parts for text in part.text],
        cut=int((length > max_tokens).sum()),
    )


def in_order(corpus: Corpus, images: Numbers, batch_size: int) -> list[Numbers]:
    """The numbers of all captions of some pictures, picture after picture, in batches."""
    chosen = np.flatnonzero(np.isin(corpus.image, images))
    return [chosen[start : start + batch_size] for start in range(0, len(chosen), batch_size)]
