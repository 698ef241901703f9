"""Stage 1 as one call: from a dataset to a cache of embeddings and tokens.

    from clipcap.precompute import PrecomputeSettings, precompute

    result = precompute("coco", "cache.h5", PrecomputeSettings(encoder="ViT-L-14"))
    print(result.images, "images,", len(result.failures), "skipped")

Knows nothing of command lines.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from clipcap.data.cache.fingerprint import UNKNOWN, Fingerprint
from clipcap.data.cache.index import Cache
from clipcap.data.command.progress import plural
from clipcap.data.errors import CacheError, SourceError, UsageError
from clipcap.data.pretrained.bundled import lasting_name
from clipcap.data.pretrained.device import choose_device
from clipcap.data.pretrained.new_tokenizer import is_new
from clipcap.data.pretrained.tokenizer import tokenizer_sha256
from clipcap.data.records import Source
from clipcap.data.version import program_version
from clipcap.precompute.combinations import check_combination
from clipcap.precompute.dataset import check_missing, describe, read_dataset
from clipcap.precompute.devices import encode_on_devices
from clipcap.precompute.encoders.clip import quick_gelu_twin
from clipcap.precompute.encoders.load import load_encoder
from clipcap.precompute.failures import Failure, log_failures
from clipcap.precompute.finished import has_all, is_finished
from clipcap.precompute.imported import import_embeddings, recorded_names
from clipcap.precompute.join import join_caches, open_caches
from clipcap.precompute.output import Output, check_is_local
from clipcap.precompute.parallel import choose_workers
from clipcap.precompute.part import WHOLE, Part
from clipcap.precompute.ray_engine import encode_with_ray, shared_folder
from clipcap.precompute.result import Interrupted, PrecomputeResult, result_of, result_of_part
from clipcap.precompute.retokenize import retokenize as retokenize_cache
from clipcap.precompute.run import encode_source
from clipcap.precompute.settings import DEFAULT_ENCODER, PrecomputeSettings
from clipcap.precompute.tokenizer import choose_tokenizer, keep_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)


def precompute(
    source: str | Path,
    output: str | Path,
    settings: PrecomputeSettings | None = None,
    *,
    overwrite: bool = False,
    retokenize: bool = False,
    repair: bool = False,
    part: Part = WHOLE,
    reuse: Sequence[str | Path] = (),
    join: Sequence[str | Path] = (),
    devices: int = 1,
    engine: str = "local",
) -> PrecomputeResult:
    """Encode each image of a dataset once, tokenise its captions, and write both to a cache.

    A dataset of existing embeddings (see the formats of `PrecomputeSettings.format`) is imported without an encoder.

    After an interruption, the same call continues after the finished shards. If the cache is finished already, it
    changes nothing. If the dataset has changed since, the cache follows: new and changed images are encoded, and all
    others are not. An image that cannot be read is skipped and recorded in the cache. Progress and warnings are
    logged below the logger `clipcap`.

        result = precompute("coco", "small.h5", PrecomputeSettings(limit=200, device="cpu"))
        for path, reason in result.failures:
            print(path, reason)

    Args:
        source: the folder of the dataset, or its file of captions or embeddings; with `join`, a cache.
        output: the index to write, `NAME.h5`. The shards are written beside it as `NAME-00000.h5`, ...
        settings: by default those of `PrecomputeSettings()`: ViT-B-32, with the tokenizer of GPT-2.
        overwrite: replace the cache at `output`, whatever it was made from.
        retokenize: give the finished cache at `output` the tokens of the `tokenizer` in the settings, and leave
            everything else as it is. No image is read.
        repair: read the whole cache first, and make the shards again whose checksum is wrong.
        part: make these shards alone, while other processes or machines, with the same dataset and settings, make the
            others in the same folder. Whoever ends last writes the index.
        reuse: other caches of the same encoder. What they have of the images is copied.
        join: caches of the same dataset by other encoders. `source` is then a cache too, and the output gets the
            embeddings of all of them. No image is read, and `settings` are not used.
        devices: how many GPUs to use, each by a process of its own, or how many processes on a CPU; with
            Ray, how many workers, by default one for each GPU, or else for each machine.
        engine: `local`, or `ray` for the Ray cluster of `RAY_ADDRESS`, whose machines share the folders of the dataset
            and of the output.

    Raises:
        SourceError: the dataset cannot be read, or more than half of its images cannot, or of 1,000 in a row; with
            `strict`, any image; or caches to `join` differ in an image, or have fewer than half of them in common.
        ModelError: the encoder or the tokenizer cannot be loaded.
        UsageError: the settings do not fit the dataset or each other; `output` is a URL, or holds another cache and
            `overwrite` is not set; another process writes to `output`; or a cache to `reuse` or to `join` does not fit.
        CacheError: a file in the way does not belong to this program; it is not replaced.
        ClipCapError: a file cannot be written.
        Interrupted: Ctrl-C while images were encoded; it is a KeyboardInterrupt.
    """
    settings = settings or PrecomputeSettings()
    check_combination(
        overwrite=overwrite, retokenize=retokenize, repair=repair, part=part, devices=devices, engine=engine,
        join=bool(join), reuse=bool(reuse), settings=settings,
    )  # fmt: skip
    check_is_local(output)
    if join:
        return _join([source, *join], Output(Path(output)), overwrite=overwrite, repair=repair)
    if engine == "ray":  # workers may have other working folders
        source, output = shared_folder(source), Path(output).resolve()
    dataset, drawn = read_dataset(source, settings)
    if dataset.embedding is not None and (part != WHOLE or devices > 1 or reuse or engine != "local"):
        name = "part" if part != WHOLE else "devices" if devices > 1 else "reuse" if reuse else "engine"
        raise UsageError(f"`{name}` is for images, and {dataset.root} has embeddings; leave `{name}` out")
    if retokenize:
        return _retokenize(dataset, Output(Path(output)), settings.tokenizer)
    for note in dataset.notes:
        logger.info(note)
    check_missing(dataset, settings.strict)
    target = Output(Path(output))
    target.check_writable()
    if not overwrite:
        target.check_not_joined()
    split_seed = settings.seed if drawn else None
    if repair:
        with target.lock():
            target.remove_broken()
    if dataset.embedding is None and not overwrite and is_finished(target, dataset, settings, split_seed):
        target.remove_stale_lock()
        return result_of(Cache.open(target.index), _check_finished(target, settings.strict), was_finished=True)
    if devices > 1 and engine == "local":
        return _precompute_on_devices(source, target, settings, devices, overwrite=overwrite, reuse=reuse)
    if dataset.embedding is None:
        caches = _open_caches(reuse, target)
        kept = None if overwrite or not is_new(settings.tokenizer) else target.kept_tokenizer(settings.tokenizer)
        plan = _plan_encoding(dataset, target, settings, split_seed, part, caches, kept)
        if engine == "ray":
            count = devices if devices > 1 else 0
            write = partial(encode_with_ray, dataset, target, plan.fingerprint, settings, reuse=plan.reuse, count=count)
            plan = replace(plan, write=write)
    else:
        plan = _plan_import(dataset, target, settings, split_seed)
    with target.lock(part):
        if overwrite:
            target.clear()
        target.check_recipe(plan.fingerprint, may_grow=dataset.embedding is None)
        finished = plan.is_finished()
        if is_new(settings.tokenizer) and part.number == 1:
            keep_tokenizer(plan.tokenizer, target.tokenizer)
        failures = _check_finished(target, settings.strict) if finished else plan.write()
        try:
            cache = Cache.open(target.index)
            result = result_of(cache, failures if part == WHOLE else target.failures(), was_finished=finished)
        except CacheError:
            if part == WHOLE:
                raise
            result = result_of_part(target, part, plan.fingerprint, failures)
    if not finished:
        log_failures(failures)
    return result


def _precompute_on_devices(
    source: str | Path,
    output: Output,
    settings: PrecomputeSettings,
    devices: int,
    *,
    overwrite: bool,
    reuse: Sequence[str | Path],
) -> PrecomputeResult:
    if overwrite:
        with output.lock():
            output.clear()
    try:
        encode_on_devices(source, output.index, settings, devices, {"reuse": reuse})
    except KeyboardInterrupt as interrupt:
        raise Interrupted(shards=len(output.shards())) from interrupt
    failures = output.failures()
    log_failures(failures)
    return result_of(Cache.open(output.index), failures, was_finished=False)


def _join(paths: Sequence[str | Path], output: Output, *, overwrite: bool, repair: bool) -> PrecomputeResult:
    caches = open_caches(paths, output)
    output.check_writable()
    with output.lock():
        if overwrite:
            output.clear()
        if repair:
            output.remove_broken()
        try:
            was_finished = join_caches(caches, output)
        except KeyboardInterrupt as interrupt:
            raise Interrupted(shards=len(output.shards())) from interrupt
        failures = _check_finished(output, strict=False) if was_finished else output.failures()
        return result_of(Cache.open(output.index), failures, was_finished=was_finished)


def _retokenize(source: Source, output: Output, tokenizer: str) -> PrecomputeResult:
    output.check_writable()
    output.check_not_joined()
    with output.lock():
        cache = retokenize_cache(source, output, tokenizer)
        return result_of(cache, output.failures(), was_finished=True)


@dataclass(frozen=True)
class _Plan:
    """The recipe of a cache, its tokenizer, whether it is finished, and what writes it and returns what failed.

    `reuse` are the caches whose rows are copied.
    """

    fingerprint: Fingerprint
    tokenizer: "PreTrainedTokenizerBase"
    is_finished: Callable[[], bool]
    write: Callable[[], list[Failure]]
    reuse: Sequence[Cache] = ()


def _plan_encoding(
    source: Source,
    output: Output,
    settings: PrecomputeSettings,
    split_seed: int | None,
    part: Part,
    reuse: Sequence[Cache],
    kept_tokenizer: Path | None,
) -> _Plan:
    """Load the models, and plan to encode the images."""
    name = settings.encoder or DEFAULT_ENCODER
    logger.info(f"{source.root}: {describe(source)}; loading {name}")
    device = choose_device(settings.device)
    features = settings.features_for(source.format)
    encoder = load_encoder(name, settings.pretrained, device=device, precision=settings.precision, features=features)
    twin = quick_gelu_twin(encoder)
    if twin is not None:
        logger.info(f"computing with GELU; if OpenAI trained {settings.pretrained}, give the `encoder` {twin}")
    tokenizer = choose_tokenizer(settings.tokenizer, source, kept_tokenizer)
    fingerprint = Fingerprint(
        encoder=encoder.name,
        pretrained=encoder.pretrained,
        weights_sha256=encoder.weights_sha256,
        quick_gelu=encoder.quick_gelu,
        features=features,
        width=encoder.shape[-1],
        preprocess=encoder.preprocess,
        normalized=False,
        tokenizer=lasting_name(settings.tokenizer),
        tokenizer_sha256=tokenizer_sha256(tokenizer),
        source_format=source.format,
        source_sha256=source.sha256(),
        split_seed=split_seed,
        precision=encoder.precision,
        batch_size=settings.batch_size or encoder.batch_size,
        shard_size=settings.shard_size_for(encoder.shape),
        version=program_version(),
        views=settings.views,
    )
    reuse = _choose_encoders(reuse, fingerprint)
    workers = choose_workers(settings.workers)

    def write() -> list[Failure]:
        try:
            return encode_source(
                source, output, encoder, tokenizer, fingerprint, workers=workers, strict=settings.strict, part=part,
                reuse=reuse, limit=settings.limit,
            )  # fmt: skip
        except KeyboardInterrupt as interrupt:
            raise Interrupted(shards=len(output.shards())) from interrupt

    return _Plan(fingerprint, tokenizer, partial(has_all, output, source), write, reuse)


def _open_caches(paths: Sequence[str | Path], output: Output) -> list[Cache]:
    """Open the caches that are reused.

    Raises:
        UsageError: one of them is the output, or a shard of it.
        CacheError: one cannot be opened.
    """
    for path in paths:
        if Path(path).resolve() in (file.resolve() for file in (output.index, *output.shards())):
            raise UsageError(f"`reuse` {path} is the output itself, whose rows are kept anyway; leave it out")
    return [Cache.open(Path(path)) for path in paths]


def _choose_encoders(caches: Sequence[Cache], fingerprint: Fingerprint) -> list[Cache]:
    """Return each cache with the embeddings that can be reused.

    Raises:
        UsageError: all those of a cache mean something else.
    """
    chosen: list[Cache] = []
    for cache in caches:
        each = list(cache.by_encoder().values())
        differences = [_reuse_differences(one.fingerprint, fingerprint) for one in each]
        if all(differences):
            raise UsageError(f"`reuse` {cache.path} has other embeddings ({'; '.join(differences[0])}); leave it out")
        chosen.append(each[differences.index([])])
    return chosen


def _reuse_differences(old: Fingerprint, new: Fingerprint) -> list[str]:
    views = [f"views: {old.views}, not {new.views}"] if old.views < new.views else []
    return old.reuse_differences(new) + views


def _plan_import(source: Source, output: Output, settings: PrecomputeSettings, split_seed: int | None) -> _Plan:
    """Load the tokenizer, and plan to write the embeddings that exist. Their recipe is known only in part."""
    assert source.embedding is not None
    if settings.views:
        raise UsageError(f"{source.root} has embeddings and no images to crop; leave `views` {settings.views} out")
    width = source.embedding.shape[-1]
    encoder, pretrained = recorded_names(settings.encoder, settings.pretrained)
    logger.info(f"{source.root}: {describe(source)}, rows of {width} numbers; encoder: {encoder}")
    if encoder == UNKNOWN:
        logger.info("name the encoder of these rows with `encoder` and `pretrained`, so that images can be captioned")
    tokenizer = choose_tokenizer(settings.tokenizer, source)
    fingerprint = Fingerprint.unchecked(
        encoder=encoder,
        pretrained=pretrained,
        features=settings.features_for(source.format),
        width=width,
        normalized=source.normalized,
        tokenizer=lasting_name(settings.tokenizer),
        tokenizer_sha256=tokenizer_sha256(tokenizer),
        source_format=source.format,
        source_sha256=source.sha256(),
        split_seed=split_seed,
        shard_size=settings.shard_size_for((width,)),
        version=program_version(),
    )
    write = partial(import_embeddings, source, output, tokenizer, fingerprint, strict=settings.strict)
    return _Plan(fingerprint, tokenizer, lambda: output.finished() is not None, write)


def _check_finished(output: Output, strict: bool) -> list[Failure]:
    """Say that the cache is finished, and return its failures.

    Raises:
        SourceError: it has failures, and `strict` allows none.
    """
    failures = output.failures()
    if failures and strict:
        path, reason = failures[0]
        fact = f"{output.index} is finished, but without {path}: {reason}"
        raise SourceError(f"{fact} (`strict` allows no failures); fix the image and give `overwrite`")
    without = f", without {plural(len(failures), 'image')} that could not be read" if failures else ""
    logger.info(f"{output.index} is finished already{without}; nothing to do (`overwrite` makes it again)")
    return failures


__all__ = ["Interrupted", "PrecomputeResult", "precompute"]
