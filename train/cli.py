"""`clipcap-train CACHE`: the command line of stage 2."""

import logging
import math
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clipcap.data.command.app import Debug, Version, new_app, run_command
from clipcap.data.command.messages import log_to_file
from clipcap.data.command.options import Config, Preset, given, on_command_line
from clipcap.data.command.progress import plural
from clipcap.data.errors import UsageError
from clipcap.data.pretrained.bundled import lasting_name

if TYPE_CHECKING:
    import torch

    from clipcap.data.cache.index import Cache
    from clipcap.train.loop import Trainer

logger = logging.getLogger(__name__)

app = new_app()


@app.command(epilog="Ctrl-C saves; --resume goes on to the same weights as a run that was not stopped.")
def train(
    context: typer.Context,
    cache: Annotated[Path, typer.Argument(metavar="CACHE", help="The cache.h5 that clipcap-precompute wrote.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The run's folder: best/, last/, metrics.jsonl.")
    ] = Path("checkpoints"),
    preset: Preset = None,
    config: Config = None,
    mapper: Annotated[str, typer.Option(help="From embedding to prefix: mlp, transformer, encoder or linear.")] = "mlp",
    prefix_length: Annotated[int, typer.Option(min=1, help="Positions of the prefix.")] = 10,
    clip_length: Annotated[
        int, typer.Option(min=1, help="Positions that the embedding becomes in --mapper transformer.")
    ] = 10,
    layers: Annotated[int, typer.Option(min=1, help="Layers of --mapper transformer and encoder.")] = 8,
    heads: Annotated[int, typer.Option(min=1, help="Heads of --mapper encoder.")] = 16,
    mapper_dropout: Annotated[float, typer.Option(help="In --mapper encoder.")] = 0.0,
    tanh: Annotated[bool, typer.Option("--tanh/--no-tanh", help="Whether --mapper linear ends in a tanh.")] = True,
    lm: Annotated[
        str, typer.Option(help="GPT-2 of any size: a name, a folder that transformers saved, or demo.")
    ] = "gpt2",
    init: Annotated[
        Path | None,
        typer.Option(help="Begin with this checkpoint, ours or of rmokady, jmisilo or Lahdhirim, mapper and GPT-2."),
    ] = None,
    tune: Annotated[
        str,
        typer.Option(
            help="What of GPT-2 trains: all, none, first+last (blocks, embeddings, final norm), last:N (blocks, final "
            "norm) or from:N (all but the first N blocks)."
        ),
    ] = "all",
    dropout: Annotated[float | None, typer.Option(help="In GPT-2. Default: its own, 0.1.")] = None,
    subset: Annotated[float, typer.Option(help="Part of the training pictures to train on, chosen by --seed.")] = 1.0,
    max_caption_tokens: Annotated[
        int, typer.Option(min=0, help="Cut longer captions. Default: as many as GPT-2 has positions for.")
    ] = 0,
    epochs: Annotated[int, typer.Option(min=1, help="Passes over all captions.")] = 10,
    batch_size: Annotated[int, typer.Option(min=1, help="Captions in a step.")] = 40,
    sampling: Annotated[
        str,
        typer.Option(
            help="image: pictures in random order, each with its captions behind one prefix. caption: captions in "
            "random order: slower, and each teaches a little more."
        ),
    ] = "image",
    accumulate: Annotated[
        int,
        typer.Option(min=0, help="Parts that a step goes through memory in. Default: as few as memory allows."),
    ] = 0,
    stream: Annotated[
        bool | None,
        typer.Option(
            "--stream/--no-stream",
            help="Read embeddings in blocks as they are needed, not all at the start. Default: where they would "
            "take more than half of the memory that is free.",
        ),
    ] = None,
    lr: Annotated[float, typer.Option(help="Learning rate at its highest.")] = 2e-5,
    warmup: Annotated[
        float, typer.Option(min=0.0, help="Part of all steps in which the rate rises; from 1 on, the number of steps.")
    ] = 0.05,
    schedule: Annotated[
        str, typer.Option(help="How the rate falls after that: linear, cosine or constant.")
    ] = "linear",
    weight_decay: Annotated[float, typer.Option(min=0.0, help="Of matrices.")] = 0.0,
    label_smoothing: Annotated[float, typer.Option(help="Part of each target that is spread over all tokens.")] = 0.0,
    patience: Annotated[
        int, typer.Option(min=0, help="End after so many epochs without a better validation loss. 0: never.")
    ] = 0,
    log_to: Annotated[str | None, typer.Option(help="tensorboard or wandb, besides metrics.jsonl.")] = None,
    precision: Annotated[
        str, typer.Option(help="auto, fp32, bf16 or fp16. auto: bf16 where the device has it; a GPU without it fp16.")
    ] = "auto",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 or mps.")] = "auto",
    seed: Annotated[int, typer.Option(help="Of first weights, order and dropout.")] = 0,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in the folder.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the run in the folder.")] = False,
    debug: Debug = False,
    version: Version = False,
) -> None:
    """Train a mapper, and GPT-2 with it, from a cache."""
    from clipcap.data.cache.index import Cache
    from clipcap.train.run.folder import RunFolder, check_same
    from clipcap.train.settings import TrainSettings

    options: dict[str, Any] = {
        "mapper": mapper, "prefix_length": prefix_length, "clip_length": clip_length, "layers": layers, "heads": heads,
        "mapper_dropout": mapper_dropout, "tanh": tanh, "lm": lasting_name(lm), "tune": tune, "dropout": dropout,
        "subset": subset, "max_caption_tokens": max_caption_tokens, "epochs": epochs, "batch_size": batch_size,
        "sampling": sampling, "accumulate": accumulate, "stream": stream, "lr": lr,
        "warmup": warmup, "schedule": schedule, "weight_decay": weight_decay,
        "label_smoothing": label_smoothing, "patience": patience, "precision": precision, "seed": seed,
        "init": str(init.resolve()) if init is not None else "",
    }  # fmt: skip
    folder = RunFolder(output)
    folder.check(resume=resume, overwrite=overwrite)
    opened = Cache.open(cache)
    contents = [shard.content for shard in opened.shards]

    from clipcap.train.engine.allocator import keep_freed_memory

    keep_freed_memory()

    from clipcap.data.pretrained.device import choose_device
    from clipcap.train.engine.distributed import join_world

    world, where = join_world(choose_device(device))
    if not world.first:
        logging.getLogger("clipcap").setLevel(logging.ERROR)
    stored = folder.stored() if resume else None
    if stored is not None:  # a run goes on as it was started; what was not given again is as it was
        settings, stored_contents = stored
        again = {name: options[name] for name in options if given(context, name) and options[name] != "auto"}
        check_same(output, settings, replace(settings, **again))
        if stored_contents != contents:
            raise UsageError(
                f"{output} is a run on another cache; give the cache that it was started with, or another -o"
            )
    else:
        if init is not None:
            if init.resolve().is_relative_to(output.resolve()):
                raise UsageError(f"--init {init} is in {output}, which the run will write; give another -o")
            _take_mapper(context, options)
        options["precision"] = _precision(precision, where)
        settings = TrainSettings(**options)
        if stream is None:
            settings = replace(settings, stream=_does_not_fit(opened, where))
    settings = world.as_first(settings)  # what one process found out of its machine holds for all

    from clipcap.train.build import prepare_trainer
    from clipcap.train.run.trackers import TRACKERS, open_tracker

    if log_to is not None and log_to not in TRACKERS:
        raise UsageError(f"--log-to {log_to} is not known; use {', '.join(TRACKERS)}")

    beginning = settings.init or settings.lm
    logger.info(
        f"{cache}: {plural(opened.images, 'picture')}, {plural(opened.captions, 'caption')}; loading {beginning}"
    )
    trainer = prepare_trainer(settings, opened, folder, where, world)
    world.wait()  # nobody writes before all have looked
    if world.first:
        if stored is None or not folder.go_on():
            folder.start(settings, contents)
        context.with_resource(log_to_file(folder.log_file))
        trainer.tracker = open_tracker(log_to, output, vars(settings))
    world.wait()
    going_on = stored is not None and folder.last.exists()
    if going_on:
        trainer.resume()
        if trainer.finished:
            world.leave()
            logger.info(f"{output} is finished already: {plural(trainer.position.epoch, 'epoch')}; nothing to do")
            if world.first:
                print(folder.best)
            return
        logger.info(f"going on after step {trainer.position.step:,} of {trainer.total_steps:,}")
    elif resume:
        logger.info(f"{output} holds no checkpoint yet; starting from the beginning")
    _plan(trainer, where)
    finished = trainer.run()
    world.leave()
    if not finished:
        logger.info(f"saved to {folder.last}; go on with: clipcap-train {cache} -o {output} --resume")
        raise KeyboardInterrupt
    if world.first:
        print(folder.best)


def _plan(trainer: "Trainer", device: "torch.device") -> None:
    """Say what is about to happen."""
    from clipcap.train.model.tuning import describe_trainable

    settings = trainer.settings
    together = f", in {trainer.world.size} processes" if trainer.world.size > 1 else ""
    val = plural(len(trainer.val), "caption") if trainer.val is not None else "none"
    logger.info(
        f"training {describe_trainable(trainer.model)}; on {plural(len(trainer.train), 'caption')} of "
        f"{plural(trainer.train.images, 'picture')} (validation: {val}); {settings.epochs} x "
        f"{plural(trainer.steps_per_epoch, 'step')} of {settings.batch_size}, warm-up {trainer.warmup_steps}, "
        f"{settings.precision} on {device}{together}"
    )


def _precision(name: str, device: "torch.device") -> str:
    from clipcap.data.pretrained.device import choose_precision, has_bf16

    if name == "auto" and has_bf16(device):
        return "bf16"
    if name == "auto" and device.type == "cuda":
        return "fp16"
    return choose_precision(name, device)


def _does_not_fit(cache: "Cache", device: "torch.device") -> bool:
    """Whether the embeddings are too many for the device's memory; said if so."""
    from clipcap.train.engine.memory import CACHE_PART, free_bytes

    size, free = 2 * cache.images * math.prod(cache.embedding_shape), free_bytes(device)
    if size <= CACHE_PART * free:
        return False
    logger.info(
        f"{cache.path} holds {size / 1e9:.1f} GB of embeddings, and {free / 1e9:.1f} GB are free: they are streamed"
    )
    return True


def _take_mapper(context: typer.Context, options: dict[str, Any]) -> None:
    """Let the sizes be those of the checkpoint that the run begins with.

    Raises:
        UsageError: one of them was given, and is another; or a language model was.
        CheckpointError: there is no such checkpoint.
    """
    from clipcap.train.foreign import open_foreign
    from clipcap.train.mappers import knobs
    from clipcap.train.model.checkpoint import read_config
    from clipcap.train.run.folder import find_checkpoint

    path = find_checkpoint(Path(options["init"]))
    mapper = open_foreign(path).mapper if path.is_file() else read_config(path).mapper
    if on_command_line(context, "lm"):
        raise UsageError(f"--init {path} brings its own language model; leave --lm out")
    own = {("mapper_dropout" if p.name == "dropout" else p.name): getattr(mapper, p.name) for p in knobs(mapper.kind)}
    sizes = {"mapper": mapper.kind, "prefix_length": mapper.prefix_length, **own}
    for name, size in sizes.items():
        if on_command_line(context, name) and options[name] != size:
            option = f"--{name.replace('_', '-')}"
            raise UsageError(f"--init {path} has {option} {size}, not {options[name]}; leave {option} out")
    options.update(sizes, lm="")


def main() -> None:
    """Entry point of `clipcap-train`."""
    run_command(app, "clipcap-train")


if __name__ == "__main__":
    main()
