r"""Captions images without a model, as a baseline: each takes a caption of the training image that is most like it.

    image --highest cosine of the cached embeddings--> nearest training image --> its first caption
                                                                              \-> the consensus of its captions

Of the captions of the nearest image, the consensus is the one that is most like the others: that with the highest mean
CIDEr-D against them. N images, d numbers in an embedding.

Source: Devlin et al. 2015, "Exploring Nearest Neighbor Approaches for Image Captioning" (arXiv:1505.04467). There the
consensus is taken over the captions of many near images, here over those of the nearest one.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from clipcap.caption.neighbours import Vectors, nearest, unit
from clipcap.data.cache.index import Cache
from clipcap.data.metrics.cider import ORDER, CiderReferences
from clipcap.data.metrics.tokenizer import tokenize_all
from clipcap.data.records import SPLITS
from clipcap.train.corpus.embeddings import StoredEmbeddings


@dataclass(frozen=True, kw_only=True)
class Nearest:
    """For each of the N images of a split, in the order of the cache, captions of the nearest training image.

    Attributes:
        ids: of the N images.
        neighbours: the ids of the training images.
        cosine: float32 (N,), of the two embeddings.
        captions: the first caption of the training image.
        consensus: of its captions, the one that is most like the others.
    """

    ids: list[str]
    neighbours: list[str]
    cosine: NDArray[np.float32]
    captions: list[str]
    consensus: list[str]


def nearest_captions(cache: Cache, split: str) -> Nearest | None:
    """Caption the images of a split with captions of their nearest training images.

    All training images that have captions are compared, by the cosine of the embeddings; patches of an image are
    averaged first. The first of several that are equally near is taken. An image is never its own neighbour, nor is
    another one with its id. A row of zeros has the cosine 0 with all others.

    Args:
        cache: a cache that has the images and the training images.
        split: `train`, `val` or `test`.

    Returns:
        The captions, or None if the split has no images, or an image has no other training image with captions.

    Raises:
        CacheError: a shard cannot be read.
    """
    images, training = _Images.read(cache, split, captioned=False), _Images.read(cache, "train", captioned=True)
    if not images.ids:
        return None
    numbers: dict[str, int] = {}
    found, cosine = nearest(images.vectors(numbers), training.vectors(numbers))
    if (found < 0).any():
        return None
    neighbours, place = np.unique(found, return_inverse=True)
    captions = [training.captions[image] for image in neighbours]
    chosen = consensus(captions)
    return Nearest(
        ids=images.ids,
        neighbours=[training.ids[image] for image in found],
        cosine=cosine,
        captions=[captions[i][0] for i in place],
        consensus=[captions[i][chosen[i]] for i in place],
    )


def consensus(captions: Sequence[Sequence[str]]) -> list[int]:
    """Find the caption of each image that is most like its others: the highest mean CIDEr-D against them.

    Document frequencies are those of the given images, as the metric takes them from the images that it scores.

    Args:
        captions: at least one caption for each image, as people wrote them.

    Returns:
        For each image, the index of the caption; the first of several that are equally good.
    """
    counts = np.array([len(some) for some in captions])
    tokens = iter(tokenize_all([caption for some in captions for caption in some]))
    tokenized = [[next(tokens) for _ in some] for some in captions]
    references = CiderReferences(tokenized)
    image = np.repeat(np.arange(len(captions)), counts)
    # The mean over all captions of the image, which includes the caption itself. That one is taken out.
    mean = references.score([caption for some in tokenized for caption in some], image)
    itself = 10 * np.count_nonzero(references.norms, axis=0) / ORDER
    total = mean * counts[image] - itself
    return [int(np.argmax(some > some.max() - 1e-9)) for some in np.split(total, np.cumsum(counts)[:-1])]


@dataclass(frozen=True, kw_only=True)
class _Images:
    """Images of one split: ids and captions in memory, and the embeddings in their files."""

    ids: list[str]
    captions: list[list[str]]
    stored: StoredEmbeddings

    @classmethod
    def read(cls, cache: Cache, split: str, *, captioned: bool) -> "_Images":
        """Read the images of a split; with `captioned` only those that have captions, and else no captions."""
        shards: list[tuple[Path, NDArray[np.int64]]] = []
        found: list[tuple[str, list[str]]] = []
        scale = 1.0
        for shard, tables in zip(cache.shards, cache.tables(embeddings=False), strict=True):
            rows = []
            for row in np.flatnonzero(tables.split == SPLITS.index(split)).tolist():
                first, last = tables.first_caption[row : row + 2]
                captions = [text for text in tables.text[first:last] if text.strip()] if captioned else []
                if captions or not captioned:
                    rows.append(row)
                    found.append((tables.id[row], captions))
            shards.append((shard.path, np.array(rows, dtype=np.int64)))
            scale = max(scale, tables.scale) if rows else scale
        return cls(
            ids=[name for name, _ in found],
            captions=[captions for _, captions in found],
            stored=StoredEmbeddings(shards, cache.embedding_shape, scale=scale, encoder=cache.encoder),
        )

    def vectors(self, numbers: dict[str, int]) -> Vectors:
        """Return the images for a search: their ids by number, to which new ones are added, and their directions."""
        identity = np.array([numbers.setdefault(name, len(numbers)) for name in self.ids], dtype=np.int64)
        return Vectors(identity=identity, read=self._directions)

    def _directions(self, first: int, last: int) -> NDArray[np.float32]:
        """Read the embeddings of images `first` to `last` - 1, scaled to length 1: float32 (last - first, d).

        Their one scale has no part in that, so they are not multiplied by it.
        """
        return unit(np.concatenate(list(self._pooled(first, last))))

    def _pooled(self, first: int, last: int) -> Iterator[NDArray[np.float32]]:
        for start in range(first, last, self.stored.block_images):
            rows = self.stored.read(start, min(last, start + self.stored.block_images))[:, 0].astype(np.float32)
            yield rows.mean(axis=1) if rows.ndim == 3 else rows
