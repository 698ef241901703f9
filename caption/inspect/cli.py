"""`clipcap-inspect CACHE|CHECKPOINT`: what a file or folder of ours is, and whether it is whole."""

import json
import logging
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from clipcap.data.cache.atomic import set_aside
from clipcap.data.command.app import Debug, Version, command, new_app, run_command
from clipcap.data.command.progress import Progress, plural
from clipcap.data.errors import CheckpointError, UsageError

logger = logging.getLogger(__name__)

app = new_app()
FAILURES_SHOWN = 20


@command(app, examples="clipcap-inspect cache.h5")
def inspect(
    path: Annotated[
        Path,
        typer.Argument(
            metavar="CACHE|CHECKPOINT",
            help="A cache.h5, a shard, a checkpoint's folder, or a .pt or .pkl of rmokady, jmisilo or Lahdhirim.",
        ),
    ],
    verify: Annotated[bool, typer.Option("--verify", help="Read everything and compute the sums again.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="All that is known, as one JSON object.")] = False,
    export: Annotated[
        tuple[str, Path] | None,
        typer.Option(metavar="rmokady FILE", help="Write a checkpoint as the tools of rmokady load it."),
    ] = None,
    debug: Debug = False,
    version: Version = False,
) -> None:
    """Say what a cache or a checkpoint is."""
    if not path.exists() and not set_aside(path).exists():
        raise UsageError(f"{path} does not exist; give a cache.h5 or a checkpoint's folder")
    if path.is_file() and path.parent.joinpath("config.json").is_file():
        raise UsageError(f"{path} is a part of a checkpoint; give its folder, {path.parent}")
    if path.joinpath("cache.h5").is_file():
        raise UsageError(f"{path} is a folder that holds a cache; give {path}/cache.h5")
    from clipcap.train.model.find import FOREIGN_SUFFIXES

    foreign = path.is_file() and path.suffix in FOREIGN_SUFFIXES
    if export is not None:
        if path.is_file() and not foreign:
            raise UsageError(f"--export is for checkpoints; {path} is none")
        print(export_checkpoint(path, *export))
        return
    if foreign:
        facts = describe_foreign(path)
    else:
        facts = describe_cache(path, verify) if path.is_file() else describe_checkpoint(path, verify)
    if as_json:
        print(json.dumps(facts, ensure_ascii=False, indent=1))
        return
    for name, value in facts.items():
        if name == "failures":
            _print_failures(value)
        else:
            print(f"{name.replace('_', ' ')}:{_plain(value)}")


def describe_cache(path: Path, verify: bool) -> dict[str, Any]:
    """Counts, splits, recipe and failures of a cache; with `verify`, after checking the sum of every shard.

    Raises:
        CacheError: it is not whole.
    """
    from clipcap.data.cache.index import Cache
    from clipcap.data.cache.shard import read_summary

    cache = Cache.open(path)
    if verify:
        with Progress("verifying", "shards", len(cache.shards)) as progress:
            for _ in cache.verify():
                progress.advance()
        logger.info(f"{plural(len(cache.shards), 'shard')} verified: every sum is right")
    splits: Counter[str] = Counter()
    failures: list[dict[str, str]] = []
    for entry in cache.shards:
        split_names, failed = read_summary(entry.path)
        splits.update(split_names)
        failures.extend({"path": picture, "reason": reason} for picture, reason in failed)
    return {
        "kind": "cache, format 1",
        "images": cache.images,
        "captions": cache.captions,
        "tokens": cache.tokens,
        "shards": len(cache.shards),
        "splits": dict(splits),
        "verified": verify,
        "fingerprint": asdict(cache.fingerprint),
        "failures": failures,
    }


def describe_checkpoint(path: Path, verify: bool) -> dict[str, Any]:
    """What a checkpoint holds; with `verify`, after loading it.

    Raises:
        CheckpointError: there is none, or it is broken.
    """
    from clipcap.train.model.checkpoint import load_checkpoint, read_config
    from clipcap.train.model.find import find_checkpoint

    folder = find_checkpoint(path)
    config = read_config(folder)
    for part in ("model.safetensors", "tokenizer"):
        if not (folder / part).exists():
            raise CheckpointError(f"{folder / part} is missing; copy the whole folder that clipcap-train wrote")
    if verify:
        load_checkpoint(folder)
        logger.info("the model was loaded: its weights are all there")
    return {"kind": "checkpoint, format 1", "folder": str(folder), "verified": verify, **asdict(config)}


def describe_foreign(path: Path) -> dict[str, Any]:
    """What a checkpoint of another system holds.

    Raises:
        CheckpointError: it is of none that is known here.
    """
    from clipcap.train.foreign import open_foreign

    found = open_foreign(path)
    return {
        "kind": f"checkpoint of {found.system}",
        "file": str(path),
        "mapper": asdict(found.mapper),
        "language_model": found.lm_config,
        "encoder_by_default": {"encoder": found.encoder, "pretrained": found.pretrained, "features": found.features},
    }


def export_checkpoint(path: Path, system: str, file: Path) -> Path:
    """Write a checkpoint, ours or foreign, as a file of another system.

    Args:
        path: of the checkpoint.
        system: `rmokady`.
        file: where to; must not be there.

    Raises:
        UsageError: another system, or the file is there.
        CheckpointError: there is no such checkpoint, or that system has no such mapper.
    """
    import io

    import torch

    from clipcap.data.cache.atomic import write_file
    from clipcap.train.foreign import open_foreign
    from clipcap.train.foreign.rmokady import export
    from clipcap.train.model.checkpoint import load_checkpoint
    from clipcap.train.model.find import find_checkpoint

    if system != "rmokady":
        raise UsageError(f"--export {system} is not known; use rmokady")
    if file.exists():
        raise UsageError(f"--export: {file} is there; give another name, or delete it first")
    found = find_checkpoint(path)
    if found.is_file():
        foreign = open_foreign(found)
        state, mapper = foreign.tensors, foreign.mapper
    else:
        model, _, config = load_checkpoint(found)
        state, mapper = model.state_dict(), config.mapper
    content = io.BytesIO()
    torch.save(export(state, mapper), content)
    write_file(file, content.getvalue())
    return file


def _plain(value: Any) -> str:
    """A dict as an indented block, anything else on the same line."""
    if isinstance(value, dict):
        return "".join(f"\n  {name}: {json.dumps(item, ensure_ascii=False)}" for name, item in value.items())
    if isinstance(value, bool):
        return " yes" if value else " no"
    return f" {value:,}" if isinstance(value, int) else f" {value}"


def _print_failures(failures: list[dict[str, str]]) -> None:
    print(f"failures: {len(failures):,}")
    for failure in failures[:FAILURES_SHOWN]:
        print(f"  {failure['path']}: {failure['reason']}")
    if len(failures) > FAILURES_SHOWN:
        print(f"  and {len(failures) - FAILURES_SHOWN:,} more: --json shows all")


def main() -> None:
    """Entry point of `clipcap-inspect`."""
    run_command(app, "clipcap-inspect")


if __name__ == "__main__":
    main()
