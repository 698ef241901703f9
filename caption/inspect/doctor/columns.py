"""Makes columns of numbers of the images and of their captions, which can be compared without a scale.

The columns of images are the principal components of their embeddings, those of captions the principal components of
their words. n images, p and q columns.
"""

import numpy as np
from numpy.typing import NDArray

from clipcap.caption.inspect.doctor.alignment import Columns, components, whitened
from clipcap.caption.inspect.doctor.content import BLOCK, CacheContent
from clipcap.caption.neighbours import unit
from clipcap.data.spaced import spaced

PCA_ROWS = 10_000  # rows that the principal components are computed from; more do not change the first 32
WORDS = 1000  # tokens that captions are compared by: those that tell most about an image
RARE = 3  # images that must have a token; what is rarer relates an image to too few others


def image_columns(content: CacheContent, used: NDArray[np.bool_], count: int) -> Columns:
    """Return the principal components of the embeddings, whitened: float32 (n, count); rows not used are 0."""
    rows = np.flatnonzero(used)
    mean, directions = components(content.directions(spaced(rows, PCA_ROWS)), min(count, content.embedding.shape[1]))
    columns = np.zeros((len(content), directions.shape[1]), dtype=np.float32)
    for start in range(0, len(rows), BLOCK):
        block = rows[start : start + BLOCK]
        columns[block] = (content.directions(block) - mean) @ directions
    return whitened(columns, used)


def caption_columns(content: CacheContent, used: NDArray[np.bool_], count: int) -> Columns:
    """Return the principal components of the captions' tokens, whitened: float32 (n, count); rows not used are 0."""
    words = _Words(content, used)
    rows = np.flatnonzero(used)
    count = min(count, len(words))
    mean, directions = components(words.rows(spaced(rows, PCA_ROWS)), count)
    columns = np.zeros((len(content), count), dtype=np.float32)
    for start in range(0, len(rows), BLOCK):
        block = rows[start : start + BLOCK]
        columns[block] = (words.rows(block) - mean) @ directions
    return whitened(columns, used)


class _Words:
    """Which of the telling tokens the captions of each image have, weighted by how few images have them (tf-idf).

    Args:
        content: the cache.
        used: bool (n), the images that count.
    """

    def __init__(self, content: CacheContent, used: NDArray[np.bool_]) -> None:
        image = np.repeat(content.image_of_caption, content.tokens)
        kinds = int(content.token.max(initial=0)) + 1
        pairs = np.unique(image * kinds + content.token)  # each token of an image once, in the order of the images
        image, token = pairs // kinds, pairs % kinds
        image, token = image[used[image]], token[used[image]]
        having = np.bincount(token, minlength=kinds)
        images = int(used.sum())
        telling = (having >= RARE) & (having <= images / 2)
        weight = np.where(telling, np.log(images / np.maximum(having, 1)), 0).astype(np.float32)
        chosen = np.argsort(-having * weight**2, kind="stable")[:WORDS]
        chosen = chosen[telling[chosen]]
        column = np.full(kinds, -1)
        column[chosen] = np.arange(len(chosen))
        kept = column[token] >= 0
        self._first = np.searchsorted(image[kept], np.arange(len(content) + 1))
        self._column, self._weight = column[token[kept]], weight[token[kept]]
        self._count = len(chosen)

    def __len__(self) -> int:
        return self._count

    def rows(self, images: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return the weights of the tokens of images (b), each row scaled to length 1: float32 (b, words)."""
        result = np.zeros((len(images), self._count), dtype=np.float32)
        for number, image in enumerate(images):
            own = slice(self._first[image], self._first[image + 1])
            result[number, self._column[own]] = self._weight[own]
        return unit(result)
