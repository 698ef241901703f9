"""Computes CLIPScore from a cache: from its embeddings of the images, and the text tower of the CLIP that made them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipcap.caption.evaluate.scorer import ScoredImages
from clipcap.caption.settings import CaptionerSettings
from clipcap.data.cache.index import Cache
from clipcap.data.errors import ModelError
from clipcap.data.metrics import Score
from clipcap.data.metrics.clipscore import PREFIX, clipscore
from clipcap.data.pretrained.device import choose_device
from clipcap.precompute.encoders.clip_text import TextTower, load_text_tower


class ClipScorer:
    """Scores captions of the images of a cache. Embeddings and references are read and encoded once.

    Args:
        cache: the cache.
        settings: `device`, `precision` (auto is fp32 here, whose figures are the same everywhere) and `pretrained`.

    Raises:
        CacheError: the cache cannot be opened.
        ModelError: none of its encoders has a text tower that can be loaded.
    """

    def __init__(self, cache: Path, settings: CaptionerSettings) -> None:
        self._cache, self._tower = _load_tower(Cache.open(cache), settings)
        self._images: ScoredImages | None = None
        self._embedding: NDArray[np.float32] | None = None  # (N, d)
        self._references: list[NDArray[np.float32]] = []  # (r, d) of each image

    def __call__(self, captions: Sequence[str], images: ScoredImages) -> dict[str, Score]:
        if self._images is not images:
            self._images, self._embedding = images, _read_embeddings(self._cache, images.ids)
            ends = np.cumsum([len(some) for some in images.references])
            references = self._encode([text for some in images.references for text in some])
            self._references = np.split(references, ends[:-1])
        assert self._embedding is not None
        return clipscore(self._embedding, self._encode(captions), self._references)

    def _encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Encode texts with the prefix that their metric demands: float32 (n, d)."""
        encoded: NDArray[Any] = self._tower.encode([PREFIX + text for text in texts]).numpy()
        return encoded


def _load_tower(cache: Cache, settings: CaptionerSettings) -> tuple[Cache, TextTower]:
    """Return a cache with the embeddings of its first encoder that has a text tower, and this text tower."""
    precision = "fp32" if settings.precision == "auto" else settings.precision
    device = choose_device(settings.device)
    errors: list[ModelError] = []
    for one in cache.by_encoder().values():
        try:
            return one, load_text_tower(one.fingerprint, settings.pretrained, device=device, precision=precision)
        except ModelError as error:
            errors.append(error)
    raise errors[0]


def _read_embeddings(cache: Cache, ids: Sequence[str]) -> NDArray[np.float32]:
    """Read the embeddings of images, float32 (N, d), one shard in memory at a time."""
    places = {identifier: place for place, identifier in enumerate(ids)}
    embedding = np.full((len(ids), *cache.embedding_shape), np.nan, np.float32)
    for tables in cache.tables():
        for row, identifier in enumerate(tables.id):
            if identifier in places:
                embedding[places[identifier]] = tables.values(slice(row, row + 1))[0]
    return embedding
