"""Gives a finished cache the tokens of another tokenizer. Its embeddings stay, and no image is needed."""

import logging
from dataclasses import replace
from typing import TYPE_CHECKING

from clipcap.data.cache.fingerprint import Fingerprint
from clipcap.data.cache.hdf5 import open_hdf5
from clipcap.data.cache.index import Cache, ShardEntry, describe_shard, read_fingerprint, read_index, write_index
from clipcap.data.cache.shard import read_shard
from clipcap.data.command.progress import Progress
from clipcap.data.errors import CacheError, UsageError
from clipcap.data.pretrained.bundled import lasting_name
from clipcap.data.pretrained.new_tokenizer import is_new
from clipcap.data.pretrained.tokenizer import tokenizer_sha256
from clipcap.data.records import Source
from clipcap.precompute.output import Output
from clipcap.precompute.shards import store_tables, with_tokens
from clipcap.precompute.tokenizer import choose_tokenizer, keep_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)


def retokenize(source: Source, output: Output, name: str) -> Cache:
    """Tokenise the captions of a finished cache again, one shard after the other.

    The cache becomes the one that stage 1 would have made with this tokenizer. After a crash, the same call continues:
    shards that have the new tokens stay, and the index is written last.

    Args:
        source: the dataset that the cache was made from, with splits.
        output: the cache, whose lock the caller holds.
        name: of the tokenizer, as `choose_tokenizer` takes it.

    Raises:
        UsageError: the cache was made from another dataset.
        CacheError: there is no finished cache, or a shard is missing or damaged.
        ModelError, SourceError: the tokenizer cannot be loaded or trained.
        ClipCapError: a file cannot be written.
    """
    old, shards = read_index(output.index)
    if source.sha256() != old.source_sha256:
        raise UsageError(f"{output.index} was made from other images or captions than {source.root}; give that dataset")
    tokenizer = choose_tokenizer(name, source)
    new = replace(old, tokenizer=lasting_name(name), tokenizer_sha256=tokenizer_sha256(tokenizer))
    if is_new(name):
        keep_tokenizer(tokenizer, output.tokenizer)
    entries: list[ShardEntry] = []
    with Progress("tokenising", "shards", len(shards)) as progress:
        for number, listed in enumerate(shards):
            entries.append(_convert(listed, tokenizer, new, number))
            progress.advance()
    write_index(output.index, new, entries)
    return Cache.open(output.index)


def _convert(listed: ShardEntry, tokenizer: "PreTrainedTokenizerBase", new: Fingerprint, number: int) -> ShardEntry:
    """Give one shard its new tokens, unless an interrupted call did so already."""
    with open_hdf5(listed.path) as file:
        found = describe_shard(listed.path, file)
        if not read_fingerprint(listed.path, file).recipe_differences(new):
            return found
    tables = read_shard(listed.path)
    content = tables.content()
    if content != listed.content:  # else damaged rows would get a new hash
        raise CacheError(
            f"{listed.path} is not the shard that the index lists (hash {content[:12]}, not {listed.content[:12]}); "
            "make the cache again"
        )
    return store_tables(listed.path, with_tokens(tables, tokenizer), new, number)
