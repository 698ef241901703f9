"""The way of images through the encoder, in which loading and encoding overlap.

On a CPU both want the same cores. Each of W threads loads a batch and encodes it, with its share of the cores, so that
none waits for another, and no core does two things at once:

    thread 1    load batch 1 | encode batch 1 | load batch 3 | encode batch 3
    thread 2    load batch 2 | encode batch 2 | load batch 4 | encode batch 4

On a GPU the threads only load, in pieces of a batch, ahead of the GPU. A batch is queued on the GPU before the result
of the last one is waited for:

    threads     load pieces of batches 1, 2, 3 ...
    main        queue batch 1 | queue batch 2, take result 1 | queue batch 3, take result 2
    GPU                        encode batch 1               | encode batch 2

They are threads, not processes: decoders, resizing and the encoder release Python's lock, nothing needs shared memory,
and no worker can die alone.
"""

import logging
import time
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray

from clipcap.data.cache.scale import magnitudes, scale_of, storable, to_float16
from clipcap.data.command.progress import plural
from clipcap.precompute.encoders.base import Encoder
from clipcap.precompute.loading import Item, Loaded, Loader
from clipcap.precompute.parallel import available_cores, map_in_order
from clipcap.precompute.stamp import Stamp

logger = logging.getLogger(__name__)

PIECE = 16  # images that a thread loads at a time for a GPU
# The beginning of a failure's reason in shards; a later run does not try such images again. Earlier versions wrote "its
# embedding is not finite in float16", also of images that can be stored now that shards have a scale: those are tried.
NOT_FINITE = "its embedding is not finite, or beyond 4.3e9, as computed in"

Rows = NDArray[np.float16]


@dataclass(frozen=True, kw_only=True)
class Embedded:
    """A batch that went through the encoder.

    Attributes:
        rows: float16 (m, d) or (m, t, d), of the images that did not fail, each with the rows of its views after it;
            divided by `scale`.
        scale: the least one with which float16 holds the rows.
        outcomes: for each image its stamp, or why it has no row.
        loading, encoding: seconds; on a GPU, those in which images and the GPU were waited for.
    """

    rows: Rows
    scale: float
    outcomes: list[Stamp | str]
    loading: float
    encoding: float


def embed(
    batches: Iterable[list[Item]], loader: Loader, encoder: Encoder, workers: int
) -> Generator[Embedded, None, None]:
    """Load and encode batches, in order.

    Args:
        batches: read a few ahead, as they are needed.
        loader: loads the images.
        encoder: encodes them.
        workers: number of threads; 0 does everything in the caller's thread.
    """
    before = torch.get_num_threads()
    try:
        if encoder.device.type == "cpu":
            cores = max(1, available_cores() // max(1, workers))
            threads = plural(max(1, workers), "thread")
            logger.info(f"{threads} to load and encode, with {plural(cores, 'core')} each, in {encoder.precision}")
            begin = partial(torch.set_num_threads, cores)
            yield from map_in_order(partial(_load_and_encode, loader, encoder), batches, workers, begin=begin)
        else:
            logger.info(f"{plural(workers, 'thread')} to load images for {encoder.device}, in {encoder.precision}")
            yield from load_ahead(batches, loader, encoder, workers)
    finally:
        torch.set_num_threads(before)  # a library of torch's has one number for all threads


def _load_and_encode(loader: Loader, encoder: Encoder, batch: list[Item]) -> Embedded:
    start = time.perf_counter()
    loaded = loader(batch)
    middle = time.perf_counter()
    embedding = [_start(encoder, part).float() for part in _parts(loaded, len(batch))]
    rows, scale, outcomes = _finite_rows(embedding, loaded.outcomes, batch, encoder)
    encoding = time.perf_counter() - middle
    return Embedded(rows=rows, scale=scale, outcomes=outcomes, loading=middle - start, encoding=encoding)


def load_ahead(batches: Iterable[list[Item]], loader: Loader, encoder: Encoder, workers: int) -> Iterator[Embedded]:
    """Load in threads and encode in this one, as is best on a GPU."""
    taken: list[list[Item]] = []
    # Resizing may start threads of its own, of which each of these gets one.
    loaded = map_in_order(loader, _pieces(batches, taken), workers, begin=partial(torch.set_num_threads, 1))
    last: tuple[list[Item], Loaded, list[_OnItsWay], float] | None = None
    while True:
        start = time.perf_counter()
        batch = _next_batch(loaded, taken)
        loading = time.perf_counter() - start
        queued = None
        if batch is not None:
            items, images = batch
            queued = (items, images, [_OnItsWay(_start(encoder, part)) for part in _parts(images, len(items))], loading)
        if last is not None:
            items, images, started, waited = last
            start = time.perf_counter()
            embedding = [part.wait() for part in started]
            encoding = time.perf_counter() - start
            rows, scale, outcomes = _finite_rows(embedding, images.outcomes, items, encoder)
            yield Embedded(rows=rows, scale=scale, outcomes=outcomes, loading=waited, encoding=encoding)
        if queued is None:
            return
        last = queued


class _OnItsWay:
    """Embeddings that a GPU copies to the CPU as soon as they are there, before it begins the next batch.

    Args:
        rows: on any device.
    """

    def __init__(self, rows: torch.Tensor) -> None:
        self._rows = rows.float().to("cpu", non_blocking=rows.is_cuda)
        self._ready = torch.cuda.current_stream(rows.device).record_event() if rows.is_cuda else None

    def wait(self) -> torch.Tensor:
        """Return them: float32, on the CPU."""
        if self._ready is not None:
            self._ready.synchronize()
        return self._rows


def _pieces(batches: Iterable[list[Item]], taken: list[list[Item]]) -> Iterator[list[Item]]:
    """Cut batches into pieces; a batch is put into `taken` when its first piece is."""
    for batch in batches:
        taken.append(batch)
        yield from (batch[start : start + PIECE] for start in range(0, len(batch), PIECE))


def _next_batch(pieces: Iterator[Loaded], taken: list[list[Item]]) -> tuple[list[Item], Loaded] | None:
    """Put the pieces of the next batch together; return None after the last one."""
    first = next(pieces, None)
    if first is None:
        return None
    batch = taken.pop(0)
    parts = [first]
    while sum(len(part.outcomes) for part in parts) < len(batch):
        parts.append(next(pieces))
    return batch, Loaded(torch.cat([part.pixels for part in parts]), [one for part in parts for one in part.outcomes])


def _parts(loaded: Loaded, images: int) -> Sequence[torch.Tensor]:
    """Cut a batch, which has more pictures than images where there are views."""
    return loaded.pixels.split(images) if len(loaded.pixels) else []


def _start(encoder: Encoder, pixels: torch.Tensor) -> torch.Tensor:
    """Queue a batch on the device; if the device's memory does not suffice, in halves."""
    try:
        return encoder.start(pixels)
    except torch.OutOfMemoryError:
        if len(pixels) == 1:
            raise
    half = len(pixels) // 2
    logger.warning(f"a batch of {len(pixels)} images does not fit into memory; using {half} (see `batch_size`)")
    return torch.cat([_start(encoder, pixels[:half]), _start(encoder, pixels[half:])])


def _finite_rows(
    embedding: Sequence[torch.Tensor], outcomes: Sequence[Stamp | str], batch: Sequence[Item], encoder: Encoder
) -> tuple[Rows, float, list[Stamp | str]]:
    """Convert embeddings to float16 with a scale. An image one of whose embeddings is not finite, fails.

    Args:
        embedding: float32 (m, d) or (m, t, d), in parts, as `Loaded.pixels`.
        outcomes: for each of the B images in the batch, its stamp or why it could not be read.
        batch: the B images.
        encoder: made the embeddings.

    Returns:
        float16 (m', d) or (m', t, d), their scale, and for each of the B images its stamp, or why it has no row.
    """
    if not embedding:
        return np.empty((0, *encoder.shape), dtype=np.float16), 1.0, list(outcomes)
    parts = [part.numpy() for part in embedding]
    magnitude = np.concatenate([magnitudes(part) for part in parts])
    pictures = [1 + item.views for item, one in zip(batch, outcomes, strict=True) if isinstance(one, Stamp)]
    image_is_finite = np.logical_and.reduceat(storable(magnitude), np.cumsum([0, *pictures[:-1]]))
    next_is_finite = iter(image_is_finite.tolist())
    checked = [one if isinstance(one, str) or next(next_is_finite) else _not_finite(encoder) for one in outcomes]
    kept = np.repeat(image_is_finite, pictures)
    scale = scale_of(magnitude[kept])
    return np.concatenate([to_float16(part, scale) for part in parts])[kept], scale, checked


def _not_finite(encoder: Encoder) -> str:
    limit = ", whose largest number is 65,504; bf16 and fp32 hold larger ones" if encoder.precision == "fp16" else ""
    return f"{NOT_FINITE} {encoder.precision}{limit}"
