"""Captioning as one call: caption images, folders, embeddings and caches with one or several checkpoints.

    from clipcap.caption import caption

    for result in caption(["holiday/"], "checkpoints/best"):
        print(result.input, result.captions[0] if result.captions else result.reason)

Knows nothing of command lines, formats and files of results.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from clipcap.caption.captioner import Captioner
from clipcap.caption.decoding.options import DecodeOptions
from clipcap.caption.decoding.registry import choose_strategy, infer_strategy
from clipcap.caption.inputs import Inputs
from clipcap.caption.settings import DEFAULT_MODEL, CaptionerSettings
from clipcap.data.command.progress import plural
from clipcap.data.errors import SourceError
from clipcap.data.settings import changed_values, stored_values
from clipcap.train.model.find import find_checkpoint


@dataclass(frozen=True, kw_only=True)
class Captioned:
    """What became of one input.

    Attributes:
        input: its name: the path of an image, its URL without secrets, the `images/path` of a cached row, the name of a
            row, or `rows.npy[3]` if the file has no names.
        captions: best first; as many as were asked for, or fewer if the model finds no more distinct ones. Empty if
            the input could not be read.
        model: the checkpoint, as it was given.
        number: of the input among all inputs, from 0.
        image: the file, if the input is an image in one.
        reason: why the input could not be read; else None.
    """

    input: str
    captions: list[str]
    model: Path
    number: int
    image: Path | None = None
    reason: str | None = None


def caption(
    inputs: str | Path | Sequence[str | Path] | Inputs,
    models: str | Path | Sequence[str | Path] = DEFAULT_MODEL,
    settings: CaptionerSettings | None = None,
    *,
    decode: str | None = None,
    options: DecodeOptions | None = None,
    split: str | None = None,
    start: int = 0,
) -> Iterator[Captioned]:
    """Caption inputs in the order given, with one model after the other.

    Paths, options and names are checked at once; models are loaded, and inputs are read and captioned, while the caller
    iterates. Embeddings and caches are captioned without the image encoder.

    Args:
        inputs: images, folders, patterns such as `*.jpg`, as text URLs of images and folders, files of embeddings
            (`.npy`, `.npz`, and the `.pkl` of ClipCap and CLIPxGPT) and caches.
        models: checkpoints of clipcap-train, or files of other systems, as `Captioner.from_checkpoint` opens them.
        settings: of the captioners. Among models of both kinds, `tokenizer`, `normalize` and `heads` are for the files
            of other systems.
        decode: `greedy`, `beam` or `sample`. Default: the strategy that changed options ask for, else greedy, or what
            the own code of a foreign checkpoint's system does.
        options: of decoding.
        split: of caches, the only split to caption. `inputs` that are an `Inputs` have their own.
        start: number of the input at which the first model begins, to continue an interrupted run. Batches are the same
            for every `start`, and so are the captions.

    Returns:
        An iterator over one result for each model and input. An image that cannot be read has a `reason` and no
        captions.

    Raises:
        SourceError: an input does not exist or does not fit the model, or none of the images can be read.
        UsageError: a setting or an option cannot be honoured.
        CheckpointError, ModelError: a model or its image encoder cannot be loaded.
        CacheError: a cache is damaged.
    """
    paths = [Path(model) for model in ([models] if isinstance(models, str | Path) else models)]
    foreign = [find_checkpoint(path).is_file() for path in paths]
    settings, options = settings or CaptionerSettings(), options or DecodeOptions()
    if not isinstance(inputs, Inputs):
        inputs = Inputs([inputs] if isinstance(inputs, str | Path) else inputs, split)
    decode = infer_strategy(changed_values(options), decode)
    if not any(foreign):  # else only the file knows what its system can do
        choose_strategy(decode, options)
    ours = replace(settings, tokenizer=None, normalize=False, heads=None) if any(foreign) else settings
    pairs = [(path, settings if other else ours) for path, other in zip(paths, foreign, strict=True)]
    return _caption_all(inputs, pairs, decode, options, start)


def describe_run(
    inputs: Inputs,
    models: Sequence[Path],
    settings: CaptionerSettings,
    decode: str | None,
    options: DecodeOptions,
) -> dict[str, Any]:
    """What decides the captions of a run, as JSON stores it, so that a second run can tell whether it is the same.

    Checkpoints and files of rows count as the same while their sizes and times do.

    Raises:
        CheckpointError: there is no checkpoint at one of the paths.
    """
    return {
        "inputs": inputs.identity(),
        "models": [_identity(model) for model in models],
        "decode": decode,
        **stored_values(options),
        **stored_values(settings),
    }


def _caption_all(
    inputs: Inputs,
    models: Sequence[tuple[Path, CaptionerSettings]],
    decode: str | None,
    options: DecodeOptions,
    start: int,
) -> Iterator[Captioned]:
    for model, settings in models:
        captioner = Captioner.from_checkpoint(model, settings)
        strategy = captioner.strategy(decode, options)
        number, captioned = 0, bool(start)
        for group in inputs.groups(captioner, start):
            if group.embedding is None:
                number += len(group.names)
                continue
            captions = iter(captioner.caption(group.embedding, strategy))
            for position, (name, reason) in enumerate(zip(group.names, group.reasons, strict=True)):
                result = Captioned(
                    input=name,
                    captions=next(captions) if reason is None else [],
                    model=model,
                    number=number,
                    image=group.images[position] if group.images else None,
                    reason=reason,
                )
                captioned = captioned or reason is None
                if number >= start:
                    yield result
                number += 1
        if not captioned:
            raise SourceError(f"none of {plural(number, 'image')} could be read; give other images")
        start = 0


def _identity(model: Path) -> list[Any]:
    found = find_checkpoint(model)
    files = [found] if found.is_file() else [found / "config.json", found / "model.safetensors"]
    status = [file.stat() for file in files if file.exists()]
    return [str(model), [[some.st_size, some.st_mtime_ns] for some in status]]
