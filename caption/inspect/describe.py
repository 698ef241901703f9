"""What a cache or a checkpoint is: its facts as plain values, and whether it is whole.

Knows nothing of command lines.
"""

import logging
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clipcap.data.command.progress import Progress, plural
from clipcap.data.errors import CheckpointError, DamagedCacheError, UsageError

if TYPE_CHECKING:
    from clipcap.data.cache.index import Cache

logger = logging.getLogger(__name__)


def inspect(path: str | Path, *, verify: bool = False) -> dict[str, Any]:
    """Describe a cache, a shard, a checkpoint of ours, or a checkpoint file of another system.

    Args:
        path: `cache.h5`, a shard, the folder of a checkpoint or of a run, or a `.pt` or `.pkl` file.
        verify: read everything, and compare every stored checksum.

    Returns:
        Facts by name, as JSON can hold them. `kind` says what it is.

    Raises:
        UsageError: there is no such file, or it is a part of something else.
        CacheError: the cache is not whole.
        CheckpointError: the checkpoint is not whole, or is of no known system.
    """
    from clipcap.train.model.find import with_set_aside

    path = Path(path)
    if not any(place.exists() for place in with_set_aside(path)):
        raise UsageError(f"{path} does not exist; give a cache.h5 or the folder of a checkpoint")
    if path.is_file() and path.parent.joinpath("config.json").is_file():
        raise UsageError(f"{path} is a part of a checkpoint; give its folder, {path.parent}")
    if path.joinpath("cache.h5").is_file():
        raise UsageError(f"{path} is a folder that holds a cache; give {path}/cache.h5")
    if is_foreign(path):
        return _describe_foreign(path)
    return _describe_cache(path, verify) if path.is_file() else _describe_checkpoint(path, verify)


def is_foreign(path: Path) -> bool:
    """Whether a path is a checkpoint file of another system, by its suffix."""
    from clipcap.train.model.find import FOREIGN_SUFFIXES

    return path.is_file() and path.suffix in FOREIGN_SUFFIXES


def _describe_cache(path: Path, verify: bool) -> dict[str, Any]:
    from clipcap.data.cache.index import Cache
    from clipcap.data.cache.shard import read_summary

    if verify:
        _verify(path)
    cache = Cache.open(path)
    splits: Counter[str] = Counter()
    failures: list[dict[str, str]] = []
    for entry in cache.shards:
        split_names, failed = read_summary(entry.path)
        splits.update(split_names)
        failures.extend({"path": image, "reason": reason} for image, reason in failed)
    return {
        "kind": f"cache, format {cache.version}",
        "images": cache.images,
        "captions": cache.captions,
        "tokens": cache.tokens,
        "shards": len(cache.shards),
        "splits": dict(splits),
        "verified": verify,
        "fingerprint": asdict(cache.fingerprint),
        **_describe_encoders(cache),
        "failures": failures,
    }


def _describe_encoders(cache: "Cache") -> dict[str, Any]:
    """Return what the fingerprints of several encoders do not have in common, by the names of the encoders."""
    fingerprints = {name: asdict(one.fingerprint) for name, one in cache.by_encoder().items()}
    first, *others = fingerprints.values()
    differing = [field for field, value in first.items() if any(other[field] != value for other in others)]
    described = {name: {field: one[field] for field in differing} for name, one in fingerprints.items()}
    return {"encoders": described} if others else {}


def _verify(path: Path) -> None:
    """Read every shard of a cache.

    Raises:
        DamagedCacheError: shards are broken; all of them are named.
        CacheError: the index cannot be read.
    """
    from clipcap.data.cache.index import check_shards

    broken: list[str] = []
    count = 0
    with Progress("verifying", "shards", None) as progress:
        for shard, problem in check_shards(path):
            count += 1
            progress.advance()
            if problem is not None:
                logger.warning(problem)
                broken.append(shard.path.name)
    if broken:
        raise DamagedCacheError(
            f"{path}: {len(broken):,} of {plural(count, 'shard')} broken: {', '.join(broken)}; make them again with "
            "the clipcap-precompute command that made this cache, and its `repair`"
        )
    logger.info(f"{plural(count, 'shard')} verified: every checksum is right")


def _describe_checkpoint(path: Path, verify: bool) -> dict[str, Any]:
    from clipcap.train.model.checkpoint import FORMAT_VERSION, load_checkpoint, read_config
    from clipcap.train.model.find import find_checkpoint

    folder = find_checkpoint(path)
    config = read_config(folder)
    for part in ("model.safetensors", "tokenizer"):
        if not (folder / part).exists():
            raise CheckpointError(f"{folder / part} is missing; copy the whole folder that clipcap-train wrote")
    if verify:
        load_checkpoint(folder)
        logger.info("the model was loaded: all of its weights are there")
    return {"kind": f"checkpoint, format {FORMAT_VERSION}", "folder": str(folder), "verified": verify, **asdict(config)}


def _describe_foreign(path: Path) -> dict[str, Any]:
    from clipcap.train.foreign import open_foreign

    found = open_foreign(path)
    return {
        "kind": f"checkpoint of {found.system}",
        "file": str(path),
        "mapper": asdict(found.mapper),
        "language_model": found.lm_config,
        "encoder_by_default": {"encoder": found.encoder, "pretrained": found.pretrained, "features": found.features},
    }
