"""Joins caches of one dataset by several encoders into one cache. No image is read, and no encoder is loaded.

    a.h5    x.jpg  y.jpg  z.jpg           joined    x.jpg  z.jpg
            A      A      A                         A      A        images/embedding
    b.h5    z.jpg  x.jpg   (y failed)               B      B        encoders/1/embedding
            B      B

Images are in the order of the first cache, and have its captions, which are those of the others too. First all captions
are compared, so that caches which do not belong together are refused before a shard is written. Shards that are there
already, as they should be, stay.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from clipcap.data.cache.fingerprint import Fingerprint
from clipcap.data.cache.hdf5 import open_hdf5
from clipcap.data.cache.index import Cache, ShardEntry, describe_shard, write_index
from clipcap.data.command.progress import Progress
from clipcap.data.errors import CacheError, UsageError
from clipcap.data.pretrained.new_tokenizer import is_new
from clipcap.data.pretrained.tokenizer import load_tokenizer
from clipcap.precompute.common_images import find_common
from clipcap.precompute.output import Output
from clipcap.precompute.shards import store_tables
from clipcap.precompute.tokenizer import keep_tokenizer


def open_caches(paths: Sequence[str | Path], output: Output) -> list[Cache]:
    """Open the caches that are joined, and check that they go together.

    Raises:
        UsageError: one of them is the output, two have the same encoder, or they have other tokens.
        CacheError: one cannot be opened.
    """
    caches = [Cache.open(Path(path)) for path in paths]
    written = {file.resolve() for file in (output.index, *output.shards())}
    encoders: list[Cache] = []
    for cache in caches:
        if written & {file.resolve() for file in (cache.path, *(shard.path for shard in cache.shards))}:
            raise UsageError(f"{cache.path} is to be joined, and is the output itself; give another `output`")
        differences = caches[0].fingerprint.token_differences(cache.fingerprint)
        if differences:
            fact = f"{caches[0].path} and {cache.path} have other tokens ({differences[0]})"
            raise UsageError(f"{fact}; give one of them the tokenizer of the other with `retokenize`")
        for one in cache.by_encoder().values():
            same = next((old for old in encoders if not old.fingerprint.encoder_differences(one.fingerprint)), None)
            if same is not None:
                fact = f"{same.path} and {cache.path} have embeddings of the same encoder ({one.fingerprint.encoder})"
                raise UsageError(f"{fact}; put the images of both into one cache with `reuse`")
            encoders.append(one)
    return caches


def join_caches(caches: Sequence[Cache], output: Output) -> bool:
    """Write a cache that has the embeddings of all encoders of some caches.

    Args:
        caches: two or more, from `open_caches`.
        output: where the joined cache goes, locked.

    Returns:
        Whether it was there already.

    Raises:
        UsageError: the output holds another cache.
        SourceError: an image differs between the caches, or fewer than half of the images are in all of them.
        CacheError: a shard is damaged.
        ClipCapError: a shard cannot be written.
    """
    fingerprint, *further = fingerprints = _fingerprints(caches)
    output.check_recipe(*fingerprints, may_grow=True)
    images = find_common(caches)
    before = output.finished()
    if is_new(fingerprint.tokenizer):
        keep_tokenizer(load_tokenizer(caches[0].tokenizer), output.tokenizer)
    entries: list[ShardEntry] = []
    with Progress("joining", "images", len(images)) as progress:
        for number, tables in enumerate(images.shards(fingerprint.shard_size)):
            path = output.shard(number)
            entry = _existing(path, tables.content())
            entries.append(entry or store_tables(path, tables, fingerprint, number, further))
            progress.advance(tables.counts[0])
    contents = [entry.content for entry in entries]
    if before is not None and (before.fingerprints, [one.content for one in before.shards]) == (fingerprints, contents):
        return True
    write_index(output.index, fingerprint, entries, further)
    for number, path in output.numbered_shards():
        if number >= len(entries):
            path.unlink()
    return False


def _fingerprints(caches: Sequence[Cache]) -> tuple[Fingerprint, ...]:
    """Return the fingerprint of each encoder. Shards are as small as the smallest, so that one fits into memory."""
    found = [fingerprint for cache in caches for fingerprint in cache.fingerprints]
    size = max(1, min(fingerprint.shard_size for fingerprint in found))
    return tuple(replace(one, tokenizer=found[0].tokenizer, shard_size=size) for one in found)


def _existing(path: Path, content: str) -> ShardEntry | None:
    """Return the entry of a shard that has this content already."""
    try:
        with open_hdf5(path) as file:
            entry = describe_shard(path, file)
    except CacheError:
        return None
    return entry if entry.content == content else None
