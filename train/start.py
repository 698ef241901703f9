"""Stage 2 as one call: train a mapper, and GPT-2 with it, from a cache into the folder of a run.

    from clipcap.train import TrainSettings, train

    result = train("cache.h5", "checkpoints", TrainSettings(epochs=3))
    result.best  # the best checkpoint, by the validation loss

Knows nothing of command lines.
"""

import logging
import math
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from clipcap.data.cache.index import Cache
from clipcap.data.command.messages import log_to_file
from clipcap.data.command.progress import plural
from clipcap.data.errors import UsageError
from clipcap.data.pretrained.bundled import lasting_name
from clipcap.data.pretrained.device import choose_device, choose_precision
from clipcap.train.build import build_trainer
from clipcap.train.engine.allocator import keep_freed_memory
from clipcap.train.engine.distributed import World, join_world
from clipcap.train.engine.memory import CACHE_PART, free_bytes
from clipcap.train.foreign import open_foreign
from clipcap.train.loop import Trainer
from clipcap.train.mappers import knobs
from clipcap.train.model.checkpoint import read_config
from clipcap.train.model.find import find_checkpoint
from clipcap.train.model.tuning import describe_trainable
from clipcap.train.run.folder import RunFolder, check_same
from clipcap.train.run.trackers import check_tracker, open_tracker
from clipcap.train.settings import TrainSettings, flat_name

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class TrainResult:
    """How a run ended.

    Attributes:
        best: the checkpoint with the lowest validation loss, or with the highest score of `metric`.
        last: the newest checkpoint, from which an interrupted run resumes.
        epochs: epochs that are done.
        finished: whether all of them are; False after an interrupt.
        is_first: whether this process writes and reports, among those that torchrun started.
    """

    best: Path
    last: Path
    epochs: int
    finished: bool
    is_first: bool


def train(
    cache: str | Path,
    folder: str | Path,
    settings: TrainSettings | None = None,
    *,
    resume: bool = False,
    overwrite: bool = False,
) -> TrainResult:
    """Train on a cache. The first Ctrl-C or SIGTERM ends the run after the step and saves; `resume` continues it.

    Under torchrun every process calls this, and trains on its share of each batch.

    Args:
        cache: the index that stage 1 wrote.
        folder: of the run: `best/`, `last/`, `metrics.jsonl`, `curves.png`, `train.log`.
        settings: of the run. By default those of `TrainSettings()`; with `resume`, those that the run was started with.
        resume: continue the run in the folder, if there is one, to the weights of a run that was not stopped.
        overwrite: replace the run in the folder.

    Raises:
        UsageError: the settings do not fit each other, the cache or the run in the folder, or the folder holds a run
            and neither `resume` nor `overwrite` is set.
        CacheError: the cache is damaged, or has nothing to train on.
        CheckpointError: the checkpoint to start or resume from cannot be read.
        ModelError: the language model or its tokenizer cannot be loaded.
        ClipCapError: the loss diverged, memory ran out, or a file cannot be written. Earlier checkpoints stay.
    """
    run, path = RunFolder(Path(folder)), Path(cache)
    run.check(resume=resume, overwrite=overwrite)
    opened = Cache.open(path)
    contents = [shard.content for shard in opened.shards]
    keep_freed_memory()
    check_tracker((settings or TrainSettings()).log_to)
    world, device = join_world(choose_device((settings or TrainSettings()).device))
    with ExitStack() as stack:
        if not world.first:
            stack.enter_context(_silence())
        else:
            stack.enter_context(run.lock())
            run.check(resume=resume, overwrite=overwrite)  # again, now that no other process can change the folder
        stored = world.broadcast(run.stored() if resume and world.first else None)
        if stored is None:
            settings = settings or TrainSettings()
            opened = _choose_encoder(opened, settings.encoder)
            settings = _resolve(settings, run, opened, device)
        else:
            started, started_contents = stored
            settings = _continue(started, settings or started, run)
            if started_contents != contents:
                fact = f"{run.path} holds a run on another cache than {path}"
                raise UsageError(f"{fact}; give the cache that it was started with, or another `output`")
            opened = _choose_encoder(opened, settings.encoder)
        settings = world.broadcast(settings)  # what the first process found out about its machine holds for all
        logger.info(
            f"{path}: {plural(opened.images, 'image')}, {plural(opened.captions, 'caption')}; "
            f"loading {settings.init or settings.lm}"
        )
        trainer = build_trainer(settings, opened, run, device, world)
        world.wait()  # no process writes before all have read
        if world.first:
            if stored is None or not run.last.exists():
                run.start(settings, contents)
            stack.enter_context(log_to_file(run.log_file))
            tracker = trainer.reporter.tracker = open_tracker(settings.log_to, run.path, settings.flat())
            if tracker is not None:
                stack.callback(tracker.close)
        world.wait()
        if stored is not None and run.last.exists():
            trainer.resume()
            if not trainer.finished:
                logger.info(f"resuming after step {trainer.state.step:,} of {trainer.total_steps:,}")
        elif resume:
            logger.info(f"{run.path} holds no checkpoint yet; starting from the beginning")
        if trainer.finished:
            logger.info(f"{run.path} is finished: {plural(trainer.state.epoch, 'epoch')}; nothing to do")
            finished = True
        else:
            _announce(trainer, device)
            finished = trainer.run()
        world.leave()
    return TrainResult(
        best=run.best, last=run.last, epochs=trainer.state.epoch, finished=finished, is_first=world.first
    )


def new_settings(given: Mapping[str, Any], explicit: Mapping[str, Any] | None = None) -> TrainSettings:
    """Settings of a new run from flat values, as a command or a file gives them.

    Args:
        given: values by name, the mapper's knobs among them under their flat names.
        explicit: those of them that are refused, rather than left out, where they do not fit the mapper or the
            checkpoint to start from; by default all.

    Raises:
        UsageError: a value is not allowed or does not fit.
        CheckpointError: the checkpoint to start from cannot be read.
    """
    explicit = given if explicit is None else explicit
    values = dict(given)
    if values.get("init"):
        values.update(_settings_of(Path(values["init"]), explicit))
    settings = TrainSettings.from_flat(values)
    for name in explicit:
        if name not in TrainSettings.__dataclass_fields__ and name not in settings.flat():
            own = [flat_name(parameter.name) for parameter in knobs(settings.mapper)]
            raise UsageError(
                f"`mapper` {settings.mapper} has no `{name}`; it has {', '.join(own) or 'no settings of its own'}"
            )
    return settings


def resumed_settings(folder: str | Path, given: Mapping[str, Any]) -> TrainSettings | None:
    """Settings with which to resume the run in a folder: its own, with the given flat values in their place.

    `train` refuses values that differ from the run's own.

    Returns:
        None where the folder holds no run yet.
    """
    stored = RunFolder(Path(folder)).stored()
    if stored is None:
        return None
    again = {name: value for name, value in given.items() if value != "auto" or name == "device"}
    return TrainSettings.from_flat({**stored[0].flat(), **again})


def _silence() -> Any:
    """While inside, let only errors be logged: the first process speaks for this one."""
    stack = ExitStack()
    package = logging.getLogger("clipcap")
    stack.callback(package.setLevel, package.level)
    package.setLevel(logging.ERROR)
    return stack


def _choose_encoder(cache: Cache, name: str) -> Cache:
    """The cache with the embeddings of the encoder that the settings name, or of the first."""
    if name:
        return cache.with_encoder(name)
    first, *others = cache.by_encoder()
    if others:
        logger.info(f"training on the embeddings of {first}; `encoder` chooses {' or '.join(others)}")
    return cache


def _resolve(settings: TrainSettings, run: RunFolder, cache: Cache, device: torch.device) -> TrainSettings:
    """Replace what depends on this machine and folder (auto, relative paths) by what the run will store."""
    if settings.init:
        init = Path(settings.init).resolve()
        if init.is_relative_to(run.path.resolve()):
            raise UsageError(f"`init` {settings.init} is in {run.path}, which the run writes; give another `output`")
        values = {**settings.flat(), **settings.changed(), **_settings_of(init, settings.changed())}
        settings = TrainSettings.from_flat({**values, "init": str(init)})
    else:
        settings = replace(settings, lm=lasting_name(settings.lm))
    settings = replace(settings, precision=choose_precision(settings.precision, device, training=True))
    return settings if settings.stream is not None else replace(settings, stream=_must_stream(cache, device))


def _continue(started: TrainSettings, wanted: TrainSettings, run: RunFolder) -> TrainSettings:
    """The settings of the run that is resumed, after a check that `wanted` agrees with them."""
    precision = started.precision if wanted.precision == "auto" else wanted.precision
    init = str(Path(wanted.init).resolve()) if wanted.init else ""
    stream = started.stream if wanted.stream is None else wanted.stream
    lm = lasting_name(wanted.lm)
    wanted = replace(wanted, precision=precision, lm=lm, init=init, stream=stream)
    check_same(run.path, started, wanted)
    return wanted


def _settings_of(init: Path, given: Mapping[str, Any]) -> dict[str, Any]:
    """The flat settings that a checkpoint brings with it: its mapper, and its own language model.

    Raises:
        UsageError: one of them is given, and differs.
        CheckpointError: there is no such checkpoint.
    """
    path = find_checkpoint(init)
    if given.get("lm"):
        raise UsageError(f"`init` {init} brings its own language model; leave `lm` out")
    mapper = open_foreign(path).mapper if path.is_file() else read_config(path).mapper
    own = {flat_name(parameter.name): getattr(mapper, parameter.name) for parameter in knobs(mapper.kind)}
    values = {"mapper": mapper.kind, "prefix_length": mapper.prefix_length, **own}
    for name, value in values.items():
        if name in given and given[name] != value:
            raise UsageError(f"`init` {init} has `{name}` {value}, not {given[name]}; leave `{name}` out")
    return {**values, "lm": ""}


def _must_stream(cache: Cache, device: torch.device) -> bool:
    """Whether the embeddings are too large for the device's memory, which is logged if so."""
    pictures = cache.images * (1 + cache.fingerprint.views)  # at most
    size, free = 2 * pictures * math.prod(cache.embedding_shape), free_bytes(device)
    if size <= CACHE_PART * free:
        return False
    needed, there = f"{size / 1e9:.1f} GB of embeddings", f"{free / 1e9:.1f} GB of memory are free"
    logger.info(f"{cache.path} holds {needed}, and {there}: they are streamed")
    return True


def _announce(trainer: Trainer, device: torch.device) -> None:
    """Log what is about to be trained."""
    settings, world = trainer.settings, trainer.world
    together = f", in {world.size} processes" if world.size > 1 else ""
    val = plural(len(trainer.val), "caption") if trainer.val is not None else "none"
    logger.info(
        f"training {describe_trainable(trainer.model)}; on {plural(len(trainer.train), 'caption')} of "
        f"{plural(trainer.train.images, 'image')} (validation: {val}); {settings.epochs} x "
        f"{plural(trainer.steps_per_epoch, 'step')} of {settings.batch_size}, warm-up {trainer.warmup_steps}, "
        f"{settings.precision} on {device}{together}"
    )


__all__ = ["TrainResult", "World", "new_settings", "resumed_settings", "train"]
