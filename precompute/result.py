"""What stage 1 returns, and what it raises when it is interrupted."""

from dataclasses import dataclass
from pathlib import Path

from clipcap.data.cache.fingerprint import Fingerprint
from clipcap.data.cache.index import Cache
from clipcap.precompute.failures import Failure
from clipcap.precompute.output import Output
from clipcap.precompute.part import Part


@dataclass(frozen=True, kw_only=True)
class PrecomputeResult:
    """What stage 1 made, or found finished.

    Attributes:
        path: the index of the cache, which stage 2 takes.
        images, captions, tokens: how many the cache holds; tokens include the end-of-text token of each caption.
        shards: the number of files beside the index.
        embedding_shape: of one image: (d,), or (t, d) for patches.
        failures: the images that are not in the cache, each with its `path` and `reason`.
        was_finished: whether the cache was finished before this call, which then changed nothing.
        is_complete: whether all shards are there. False after a `part` that others have still to complete; all figures
            are then those of the part.
    """

    path: Path
    images: int
    captions: int
    tokens: int
    shards: int
    embedding_shape: tuple[int, ...]
    failures: list[Failure]
    was_finished: bool
    is_complete: bool = True


class Interrupted(KeyboardInterrupt):
    """Ctrl-C arrived while images were encoded. Finished shards stay; the same call without `overwrite` uses them.

    Attributes:
        shards: the number of finished shards.
    """

    def __init__(self, shards: int) -> None:
        super().__init__(shards)
        self.shards = shards


def result_of(cache: Cache, failures: list[Failure], *, was_finished: bool) -> PrecomputeResult:
    """Return the result of a cache that is whole."""
    return PrecomputeResult(
        path=cache.path,
        images=cache.images,
        captions=cache.captions,
        tokens=cache.tokens,
        shards=len(cache.shards),
        embedding_shape=cache.embedding_shape,
        failures=failures,
        was_finished=was_finished,
    )


def result_of_part(output: Output, part: Part, fingerprint: Fingerprint, failures: list[Failure]) -> PrecomputeResult:
    """Return the result of a part, while others are still to be made."""
    shards = [Cache.open(path) for number, path in output.numbered_shards() if part.has(number)]
    return PrecomputeResult(
        path=output.index,
        images=sum(shard.images for shard in shards),
        captions=sum(shard.captions for shard in shards),
        tokens=sum(shard.tokens for shard in shards),
        shards=len(shards),
        embedding_shape=shards[0].embedding_shape if shards else (fingerprint.width,),
        failures=failures,
        was_finished=False,
        is_complete=False,
    )
