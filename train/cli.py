"""`clipcap-train CACHE`: the command line of stage 2."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clipcap.data.command import Debug, Version, new_app, run_command
from clipcap.data.embedded import lasting_name
from clipcap.data.errors import UsageError
from clipcap.data.progress import note, plural

if TYPE_CHECKING:
    import torch

    from clipcap.train.loop import Trainer

app = new_app()


@app.command(epilog="Ctrl-C saves; --resume goes on to the same weights as a run that was not stopped.")
def train(
    context: typer.Context,
    cache: Annotated[Path, typer.Argument(metavar="CACHE", help="The cache.h5 that clipcap-precompute wrote.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The run's folder: best/, last/, metrics.jsonl.")
    ] = Path("checkpoints"),
    mapper: Annotated[str, typer.Option(help="From embedding to prefix: mlp or transformer.")] = "mlp",
    prefix_length: Annotated[int, typer.Option(min=1, help="Positions of the prefix.")] = 10,
    clip_length: Annotated[
        int, typer.Option(min=1, help="Positions that the embedding becomes in --mapper transformer.")
    ] = 10,
    layers: Annotated[int, typer.Option(min=1, help="Layers of --mapper transformer.")] = 8,
    lm: Annotated[
        str, typer.Option(help="GPT-2 of any size: a name, a folder that transformers saved, or demo.")
    ] = "gpt2",
    tune: Annotated[str, typer.Option(help="What of the language model trains with the mapper: all or none.")] = "all",
    epochs: Annotated[int, typer.Option(min=1, help="Passes over all captions.")] = 10,
    batch_size: Annotated[int, typer.Option(min=1, help="Captions in a step.")] = 40,
    lr: Annotated[float, typer.Option(help="Learning rate at its highest.")] = 2e-5,
    warmup: Annotated[
        float, typer.Option(min=0.0, help="Part of all steps in which the rate rises; from 1 on, the number of steps.")
    ] = 0.05,
    precision: Annotated[str, typer.Option(help="auto, fp32 or bf16. auto: bf16 where the device has it.")] = "auto",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 or mps.")] = "auto",
    seed: Annotated[int, typer.Option(help="Of first weights, order and dropout.")] = 0,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in the folder.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the run in the folder.")] = False,
    debug: Debug = False,
    version: Version = False,
) -> None:
    """Train a mapper, and GPT-2 with it, from a cache."""
    from clipcap.data.cache import Cache
    from clipcap.train.run_folder import RunFolder, check_same
    from clipcap.train.settings import TrainSettings

    options: dict[str, Any] = {
        "mapper": mapper, "prefix_length": prefix_length, "clip_length": clip_length, "layers": layers,
        "lm": lasting_name(lm), "tune": tune, "epochs": epochs, "batch_size": batch_size, "lr": lr, "warmup": warmup,
        "precision": precision, "seed": seed,
    }  # fmt: skip
    folder = RunFolder(output)
    folder.check(resume=resume, overwrite=overwrite)
    opened = Cache.open(cache)
    contents = [shard.content for shard in opened.shards]

    from clipcap.data.device import choose_device

    where = choose_device(device)
    stored = folder.stored() if resume else None
    if stored is not None:  # a run goes on as it was started; what was not given again is as it was
        settings, stored_contents = stored
        given = {name: options[name] for name in options if _given(context, name) and options[name] != "auto"}
        check_same(output, settings, replace(settings, **given))
        if stored_contents != contents:
            raise UsageError(
                f"{output} is a run on another cache; give the cache that it was started with, or another -o"
            )
    else:
        settings = TrainSettings(**{**options, "precision": _precision(precision, where)})

    from clipcap.train.prepare import prepare_trainer

    note(f"{cache}: {plural(opened.images, 'picture')}, {plural(opened.captions, 'caption')}; loading {settings.lm}")
    trainer = prepare_trainer(settings, opened, folder, where)
    going_on = stored is not None and folder.go_on()
    if not going_on:
        folder.start(settings, contents)
    if going_on:
        trainer.resume()
        if trainer.position.epoch >= settings.epochs:
            note(f"{output} is finished already: {plural(settings.epochs, 'epoch')}; nothing to do")
            print(folder.best)
            return
        note(f"going on after step {trainer.position.step:,} of {trainer.total_steps:,}")
    elif resume:
        note(f"{output} holds no checkpoint yet; starting from the beginning")
    _plan(trainer, where)
    if not trainer.run():
        note(f"saved to {folder.last}; go on with: clipcap-train {cache} -o {output} --resume")
        raise KeyboardInterrupt
    print(folder.best)


def _plan(trainer: "Trainer", device: "torch.device") -> None:
    """Say what is about to happen."""
    settings = trainer.settings
    counts = {
        part: sum(p.numel() for name, p in trainer.parameters.items() if name.startswith(part))
        for part in ("clip_project", "gpt")
    }
    what = f"mapper {counts['clip_project'] / 1e6:.2f}M" + (
        f" + GPT-2 {counts['gpt'] / 1e6:.2f}M" if counts["gpt"] else ""
    )
    val = plural(len(trainer.val), "caption") if trainer.val is not None else "none"
    note(
        f"training {what} parameters on {plural(len(trainer.train), 'caption')} of "
        f"{plural(len(trainer.train.embedding), 'picture')} (validation: {val}); {settings.epochs} x "
        f"{plural(trainer.steps_per_epoch, 'step')} of {settings.batch_size}, warm-up {trainer.warmup_steps}, "
        f"{settings.precision} on {device}"
    )


def _precision(name: str, device: "torch.device") -> str:
    from clipcap.data.device import choose_precision, has_bf16

    if name == "auto" and has_bf16(device):
        return "bf16"
    return choose_precision(name, device, ("fp32", "bf16"))


def _given(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def main() -> None:
    """Entry point of `clipcap-train`."""
    run_command(app, "clipcap-train")


if __name__ == "__main__":
    main()
