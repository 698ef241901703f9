r"""The embeddings of one split of a cache: all in memory, or streamed from its shards in contiguous blocks.

    shards on disk --StoredEmbeddings--> ResidentEmbeddings   all rows, on the device
                                     \-> StreamedEmbeddings   a few blocks of rows, on the device; others are read ahead

A cache may hold *views* of its training images, random crops whose embeddings training takes in turn: `draw` decides
for an epoch which of the pictures of each image, the whole one and V views, is meant by its index.

Embeddings are float16 in memory, as in the shards, divided by one scale for the whole split, which is 1 in most caches.

Knows nothing of captions. Letters for shapes: n images, B images in a batch, d numbers in an embedding, t patches.
"""

import math
from collections import OrderedDict, deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from clipcap.data.cache.hdf5 import AGAIN
from clipcap.data.cache.scale import rescaled
from clipcap.data.cache.shard import read_embeddings, read_views
from clipcap.data.errors import DamagedCacheError
from clipcap.data.pretrained.device import to_device
from clipcap.train.corpus.sampler import POOL_BLOCKS

BLOCK_BYTES = 32 << 20  # bytes of embeddings in a block, which is read at once
BLOCKS = 2 * POOL_BLOCKS  # blocks in memory: those that are shuffled together, and the next ones

Numbers = NDArray[np.int64]


class Embeddings(Protocol):
    """The embeddings of n images, by index."""

    def __len__(self) -> int: ...

    def __getitem__(self, images: Numbers) -> torch.Tensor:
        """Get the embeddings of some images.

        Args:
            images: int64 (B), indices of images, in any order.

        Returns:
            float32 (B, d) or (B, t, d), on the device.

        Raises:
            CacheError: a shard cannot be read.
        """
        ...


@dataclass(frozen=True)
class StoredEmbeddings:
    """The embeddings of a split in their files.

    Attributes:
        shards: for each shard, its file and its rows that belong to this split, ascending.
        shape: of one picture's embedding: (d,) or (t, d).
        views: V, how many views each image of the split has.
        scale: the largest scale of the shards.
        encoder: the number of the encoder in the cache.
        finite: whether an embedding that is NaN or infinite is an error, as for training.
    """

    shards: list[tuple[Path, Numbers]]
    shape: tuple[int, ...]
    views: int = 0
    scale: float = 1.0
    encoder: int = 0
    finite: bool = False

    def __len__(self) -> int:
        return sum(len(rows) for _, rows in self.shards)

    def read(self, first: int, last: int) -> NDArray[np.float16]:
        """Read the embeddings of the images from `first` to before `last`.

        Returns:
            float16 (last - first, 1 + V, d) or (last - first, 1 + V, t, d): of each whole image, then of its views,
            divided by `scale`.

        Raises:
            CacheError: a shard cannot be read any more, or holds an embedding that must be finite and is not.
        """
        embedding = np.empty((last - first, 1 + self.views, *self.shape), dtype=np.float16)
        begin = 0  # index of the shard's first image
        for path, rows in self.shards:
            wanted = rows[max(0, first - begin) : max(0, last - begin)]
            if len(wanted):
                span, scale = read_embeddings(path, int(wanted[0]), int(wanted[-1]) + 1, self.encoder)
                if span.shape[1:] != self.shape or scale > self.scale:
                    differs = "shape" if span.shape[1:] != self.shape else "scale"
                    raise DamagedCacheError(f"{path} has embeddings of another {differs} than the cache; {AGAIN}")
                start = max(first, begin) - first
                embedding[start : start + len(wanted), 0] = rescaled(span[wanted - wanted[0]], scale, self.scale)
                if self.views:
                    view, first_view = read_views(path, int(wanted[0]), int(wanted[-1]) + 1, self.encoder)
                    rows_of_views = first_view[wanted - wanted[0], None] + np.arange(self.views)
                    if view.shape[1:] != self.shape or rows_of_views.max() >= len(view):
                        raise DamagedCacheError(f"{path} has other views than the cache; {AGAIN}")
                    embedding[start : start + len(wanted), 1:] = rescaled(view[rows_of_views], scale, self.scale)
                if self.finite:
                    _check_finite(path, embedding[start : start + len(wanted)], wanted)
            begin += len(rows)
        return embedding

    @property
    def block_images(self) -> int:
        """The number of images in a block. It decides the order of a streamed run, so it depends on `shape` alone."""
        return max(1, BLOCK_BYTES // (2 * math.prod(self.shape) * (1 + self.views)))


def _check_finite(path: Path, embedding: NDArray[np.float16], rows: Numbers) -> None:
    """Check embeddings where they are read, since a loss of NaN would be taken for a learning rate that is too high.

    Args:
        path: the shard, for the error.
        embedding: float16 (n, ...), contiguous.
        rows: int64 (n), their rows in the shard.

    Raises:
        DamagedCacheError: one is NaN or infinite.
    """
    exponent = embedding.view(np.uint16) & np.uint16(0x7C00)  # all ones in a NaN or an infinity; faster than isfinite
    bad = rows[(exponent == 0x7C00).reshape(len(rows), -1).any(axis=1)]
    if len(bad):
        fact = f"{path} has {len(bad):,} embeddings that are not finite (as row {bad[0]:,})"
        raise DamagedCacheError(f"{fact}; delete it and {AGAIN}")


class CachedEmbeddings:
    """The embeddings of a split of a cache, of which subclasses keep all or a part in memory.

    Args:
        stored: the embeddings in their files.
    """

    def __init__(self, stored: StoredEmbeddings) -> None:
        self._stored = stored
        self._pictures = 1 + stored.views  # of an image
        self._picture = np.zeros(len(stored), dtype=np.int64)  # the one that is meant; 0 is the whole image

    def __len__(self) -> int:
        return len(self._stored)

    def draw(self, seed: int, epoch: int) -> None:
        """Draw a picture of each image for an epoch: the whole image or one of its views.

        Args:
            seed, epoch: decide the draw.
        """
        self._picture = np.random.default_rng([seed, epoch]).integers(self._pictures, size=len(self))

    def _scaled(self, embedding: torch.Tensor) -> torch.Tensor:
        """Multiply embeddings, float32, by the scale, in place."""
        return embedding if self._stored.scale == 1 else embedding.mul_(self._stored.scale)


class ResidentEmbeddings(CachedEmbeddings):
    """All embeddings in memory, on the device. They are read at the first access.

    Args:
        stored: the embeddings in their files.
        device: device to keep them on.
    """

    def __init__(self, stored: StoredEmbeddings, device: torch.device) -> None:
        super().__init__(stored)
        self._device = device

    def __getitem__(self, images: Numbers) -> torch.Tensor:
        rows = images * self._pictures + self._picture[images]
        return self._scaled(self._embedding[to_device(torch.from_numpy(rows), self._device)].float())

    @cached_property
    def _embedding(self) -> torch.Tensor:
        return torch.from_numpy(self._stored.read(0, len(self._stored))).to(self._device).flatten(0, 1)


class StreamedEmbeddings(CachedEmbeddings):
    """A few blocks of embeddings in memory, on the device. Others are read at access, or ahead of it by a thread.

    Args:
        stored: the embeddings in their files.
        device: device to keep them on.
    """

    def __init__(self, stored: StoredEmbeddings, device: torch.device) -> None:
        super().__init__(stored)
        self.block_images = stored.block_images
        count = min(BLOCKS, math.ceil(len(stored) / self.block_images))
        rows = self.block_images * self._pictures
        self._memory = torch.empty((count, rows, *stored.shape), dtype=torch.float16, device=device)
        self._slot: OrderedDict[int, int] = OrderedDict()  # the slot of each block in memory, least recently used first
        self._reader = ThreadPoolExecutor(max_workers=1, thread_name_prefix="read-ahead")
        self._queue: deque[int] = deque()  # blocks to read ahead, in the order of their first access
        self._reading: dict[int, Future[NDArray[np.float16]]] = {}  # blocks that the thread reads or has read

    def __getitem__(self, images: Numbers) -> torch.Tensor:
        block = images // self.block_images
        embedding = torch.empty((len(images), *self._stored.shape), device=self._memory.device)
        for number in np.unique(block):
            members = np.flatnonzero(block == number)  # indices in `images`
            first = images[members] % self.block_images * self._pictures
            rows = to_device(torch.from_numpy(first + self._picture[images[members]]), embedding.device)
            members_on_device = to_device(torch.from_numpy(members), embedding.device)
            embedding[members_on_device] = self._memory[self._load(int(number))][rows].float()
        return self._scaled(embedding)

    def expect(self, images: Numbers) -> None:
        """Announce images in the order of their access, so that a thread reads their blocks ahead.

        Args:
            images: int64, indices of images. An earlier announcement no longer holds.
        """
        blocks, first_access = np.unique(images // self.block_images, return_index=True)
        self._reading = {}  # blocks read ahead for another order are dropped
        in_order = blocks[np.argsort(first_access)].tolist()
        self._queue = deque(block for block in in_order if block not in self._slot)
        self._read_ahead()

    def _load(self, block: int) -> int:
        """Return the slot of a block. If it is not in memory, it is read, in place of the least recently used one."""
        if block not in self._slot:
            reading = self._reading.pop(block, None)
            rows = reading.result() if reading is not None else self._read(block)
            full = len(self._slot) == len(self._memory)
            slot = self._slot.popitem(last=False)[1] if full else len(self._slot)
            pictures = torch.from_numpy(rows).flatten(0, 1)
            self._memory[slot, : len(pictures)].copy_(pictures)
            self._slot[block] = slot
            self._read_ahead()
        self._slot.move_to_end(block)
        return self._slot[block]

    def _read_ahead(self) -> None:
        while self._queue and len(self._reading) < POOL_BLOCKS:
            block = self._queue.popleft()
            if block not in self._slot and block not in self._reading:
                self._reading[block] = self._reader.submit(self._read, block)

    def _read(self, block: int) -> Any:
        first = block * self.block_images
        return self._stored.read(first, min(first + self.block_images, len(self._stored)))
