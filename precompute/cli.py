"""`clipcap-precompute SOURCE`: the command line of stage 1."""

import logging
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clipcap.data.cache.fingerprint import UNKNOWN
from clipcap.data.command.app import Debug, Version, command, new_app, run_command
from clipcap.data.command.config import Config, Preset
from clipcap.data.command.options import on_command_line, was_given
from clipcap.data.command.progress import plural
from clipcap.data.errors import SourceError, UsageError
from clipcap.data.pretrained.bundled import EMBEDDED_ENCODERS
from clipcap.data.version import program_version
from clipcap.precompute.presets import PRESETS

if TYPE_CHECKING:
    from clipcap.data.cache.index import Cache
    from clipcap.data.readers import Columns
    from clipcap.data.records import Source
    from clipcap.precompute.output import Output

logger = logging.getLogger(__name__)

app = new_app()
SHARD_SIZE = 4096
SHARD_BYTES = 256 << 20  # of embeddings at most, unless asked for: a shard is made in memory


@command(app, examples="clipcap-precompute coco/", presets=lambda: PRESETS)
def precompute(
    context: typer.Context,
    source: Annotated[
        Path, typer.Argument(metavar="SOURCE", help="The folder that holds the dataset, or its file of captions.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="The cache; its shards are named after it.")] = Path(
        "cache.h5"
    ),
    preset: Preset = None,
    config: Config = None,
    format_name: Annotated[
        str | None,
        typer.Option(
            "--format",
            help="What SOURCE is: coco, karpathy, flickr8k, flickr30k, flat, table, sidecar, folder; or embeddings: "
            "clipcap-pickle, clipxgpt-pickle, clip-retrieval, arrays. By default it is found out.",
        ),
    ] = None,
    picture_column: Annotated[str | None, typer.Option(help="Of a table: the column that names pictures.")] = None,
    captions: Annotated[
        Path | None, typer.Option(metavar="SOURCE", help="Of embeddings without captions: a dataset that has them.")
    ] = None,
    caption_column: Annotated[str | None, typer.Option(help="Of a table: the column of captions.")] = None,
    encoder: Annotated[
        str, typer.Option(help="CLIP architecture by open_clip's name, a folder that open_clip saved, or demo.")
    ] = "ViT-B-32",
    pretrained: Annotated[
        str | None, typer.Option(help="Tag of its weights, or a file of weights. Default: openai, where there is one.")
    ] = None,
    features: Annotated[
        str, typer.Option(help="projected: what CLIP compares with texts; pooled: before its projection; or patches.")
    ] = "projected",
    tokenizer: Annotated[
        str, typer.Option(help="Tokenizer of the language model: a name, a folder, or demo.")
    ] = "gpt2",
    shard_size: Annotated[
        int | None, typer.Option(min=1, help="Pictures in a shard. Default: 4096, of patches as many as make 256 MB.")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Pictures in a forward pass.")] = 128,
    workers: Annotated[
        int | None, typer.Option(min=0, help="Processes that decode pictures. Default: one a core, at most 8.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 or mps.")] = "auto",
    precision: Annotated[
        str, typer.Option(help="auto, fp32, bf16 or fp16. auto: bf16 on a GPU that has it, else fp32.")
    ] = "auto",
    limit: Annotated[
        int | None, typer.Option(min=1, help="At most this many images, each split in proportion.")
    ] = None,
    val_fraction: Annotated[
        float, typer.Option(min=0.0, max=0.99, help="Part of the pictures to validate on, if SOURCE has no val split.")
    ] = 0.05,
    seed: Annotated[int, typer.Option(help="Seed of the drawn val split and of --limit.")] = 0,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what SOURCE is understood to be; write nothing.")
    ] = False,
    skip_missing: Annotated[
        bool, typer.Option("--skip-missing", help="Go on though more than half of the listed pictures do not exist.")
    ] = False,
    strict: Annotated[bool, typer.Option("--strict", help="End at the first picture that cannot be read.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a cache of another recipe.")] = False,
    debug: Debug = False,
    version: Version = False,
) -> None:
    """Encode every picture of a dataset once with a frozen CLIP, and write embeddings and tokens to a cache."""
    from clipcap.data.readers import Columns, read_source
    from clipcap.data.splits import draw_splits

    if (
        on_command_line(context, "encoder")
        and not on_command_line(context, "pretrained")
        and was_given(context, "pretrained")
    ):
        pretrained = None  # a preset's weights are for the preset's encoder
    columns = Columns(image=picture_column, caption=caption_column)
    found = read_source(source, format_name, columns if captions is None else None)
    if captions is not None:
        found = _with_captions(found, captions, columns)
    understood, drawn = draw_splits(found, val_fraction, seed)
    if skip_missing:
        limit = min(limit or len(understood.records), len(understood.records) - len(understood.missing))
    if limit is not None:
        understood = understood.limited(limit, seed)
    if dry_run:
        _describe(understood)
        return
    _check(understood, strict)
    for text in understood.notes:
        logger.info(text)

    from clipcap.precompute.output import Output

    place = Output(output)
    place.check_writable()
    if understood.embedding is not None:
        if understood.format == "clipxgpt-pickle" and not was_given(context, "features"):
            features = "pooled"  # as that system makes them
        name, weights = _named(encoder, pretrained) if was_given(context, "encoder") else (UNKNOWN, UNKNOWN)
        _import(
            understood, place, tokenizer, overwrite, shard_size,
            encoder=name, pretrained=weights, features=features, split_seed=seed if drawn else None,
        )  # fmt: skip
        return
    logger.info(f"{source}: {_summary(understood)}; loading {encoder}")

    from clipcap.data.cache.fingerprint import Fingerprint
    from clipcap.data.cache.index import Cache
    from clipcap.data.pretrained.bundled import lasting_name
    from clipcap.data.pretrained.device import choose_device, choose_precision
    from clipcap.data.pretrained.tokenizer import load_tokenizer, tokenizer_sha256
    from clipcap.precompute.encoder import load_encoder, quick_gelu_twin
    from clipcap.precompute.images import choose_workers
    from clipcap.precompute.run import encode_source

    where = choose_device(device)
    arithmetic = choose_precision(precision, where)
    tower = load_encoder(encoder, pretrained, device=where, precision=arithmetic, features=features)
    twin = quick_gelu_twin(tower)
    if twin is not None:
        logger.info(f"computing with GELU; if {pretrained} holds weights of OpenAI's, give --encoder {twin}")
    words = load_tokenizer(tokenizer)
    fingerprint = Fingerprint(
        encoder=tower.name,
        pretrained=tower.pretrained,
        weights_sha256=tower.weights_sha256,
        quick_gelu=tower.quick_gelu,
        features=features,
        width=tower.shape[-1],
        preprocess=tower.preprocess,
        normalized=False,
        tokenizer=lasting_name(tokenizer),
        tokenizer_sha256=tokenizer_sha256(words),
        source_format=understood.format,
        source_sha256=understood.sha256(),
        split_seed=seed if drawn else None,
        precision=arithmetic,
        batch_size=batch_size,
        shard_size=shard_size or _shard_size(tower.shape),
        version=program_version(),
    )
    if place.check(fingerprint, overwrite):
        _report_finished(output, strict)
    else:
        try:
            failures = encode_source(
                understood, place, tower, words, fingerprint, workers=choose_workers(workers), strict=strict
            )
        except KeyboardInterrupt:
            again = "run the same command without --overwrite" if overwrite else "run the same command again"
            logger.info(f"interrupted; {plural(len(place.shards()), 'shard')} kept: {again} to go on")
            raise
        _report_failures(failures, output)
    _print_result(Cache.open(output), " x ".join(map(str, tower.shape)))


def _print_result(cache: "Cache", width: str) -> None:
    print(
        f"{cache.path}: {plural(cache.images, 'picture')}, {plural(cache.captions, 'caption')}, "
        f"{plural(cache.tokens, 'token')}, {plural(len(cache.shards), 'shard')}, width {width}"
    )


def _with_captions(source: "Source", path: Path, columns: "Columns") -> "Source":
    from clipcap.data.readers import read_source
    from clipcap.data.readers.rows import add_captions

    if source.embedding is None:
        raise UsageError(f"--captions is for embeddings; {source.root} has pictures, which bring theirs")
    return add_captions(source, read_source(path, None, columns), path)


def _named(encoder: str, pretrained: str | None) -> tuple[str, str]:
    """An encoder that is not loaded here, and its weights, as they can be found later."""
    if encoder in EMBEDDED_ENCODERS or encoder.startswith("hf-hub:"):
        return encoder, encoder
    if Path(encoder).is_dir():
        return Path(encoder).name, str(Path(encoder).resolve())
    if pretrained is not None and Path(pretrained).exists():
        pretrained = str(Path(pretrained).resolve())
    return encoder.replace("/", "-"), pretrained or "openai"


def _import(
    source: "Source", place: "Output", tokenizer: str, overwrite: bool, shard_size: int | None, **known: Any
) -> None:
    """Write a cache of embeddings that exist. What made them is what a person says, or unknown."""
    from clipcap.data.cache.fingerprint import Fingerprint
    from clipcap.data.cache.index import Cache
    from clipcap.data.pretrained.bundled import lasting_name
    from clipcap.data.pretrained.tokenizer import load_tokenizer, tokenizer_sha256
    from clipcap.precompute.imported import write_embeddings

    assert source.embedding is not None
    width = source.embedding.shape[-1]
    logger.info(f"{source.root}: {_summary(source)}, rows of {width}; encoder: {known['encoder']}")
    if known["encoder"] == UNKNOWN:
        logger.info(
            "name what made these rows with --encoder (and --pretrained), so that new pictures can be captioned"
        )
    words = load_tokenizer(tokenizer)
    fingerprint = Fingerprint.unchecked(
        width=width,
        normalized=source.normalized,
        tokenizer=lasting_name(tokenizer),
        tokenizer_sha256=tokenizer_sha256(words),
        source_format=source.format,
        source_sha256=source.sha256(),
        shard_size=shard_size or _shard_size((width,)),
        version=program_version(),
        **known,
    )
    if place.check(fingerprint, overwrite):
        _report_finished(place.index, False)
    else:
        _report_failures(write_embeddings(source, place, words, fingerprint), place.index)
    _print_result(Cache.open(place.index), str(width))


def _shard_size(shape: tuple[int, ...]) -> int:
    """Pictures in a shard by default: a power of two."""
    import math

    fitting = SHARD_BYTES // (2 * math.prod(shape))
    return min(SHARD_SIZE, 1 << max(0, fitting.bit_length() - 1))


def _check(source: "Source", strict: bool) -> None:
    """The two rules about pictures that do not exist, before anything heavy is loaded."""
    listed, missing = len(source.records), len(source.missing)
    if not listed:
        raise SourceError(f"{source.root} lists no pictures; see clipcap-precompute --dry-run")
    if not missing:
        return
    fact = f"{missing:,} of {listed:,} listed pictures do not exist (as {source.missing[0]})"
    if strict:
        raise SourceError(f"{fact}; --strict allows none")
    if 2 * missing > listed:
        found = listed - missing
        way = f", or take the {found:,} that do with --skip-missing" if found else ""
        raise SourceError(f"{fact}: more than half, most likely they are not all unpacked; complete the folder{way}")
    logger.warning(fact)


def _summary(source: "Source") -> str:
    splits = ", ".join(f"{count:,} {split}" for split, count in source.counts().items())
    return (
        f"{source.format}, {plural(len(source.records), 'picture')} ({splits}), {plural(source.captions(), 'caption')}"
    )


def _describe(source: "Source") -> None:
    """What `--dry-run` prints on stdout."""
    print(_summary(source))
    for text in source.notes:
        print(text)
    print(f"listed but not there: {_some(source.missing)}")
    print(f"there but listed nowhere, left alone: {_some(source.unlisted)}")
    for record in source.records[:3]:
        print(f"{record.path} [{record.split}] {record.captions[0] if record.captions else '(no caption)'!r}")


def _some(paths: list[str]) -> str:
    return f"{plural(len(paths), 'picture')} (as {paths[0]})" if paths else "none"


def _report_failures(failures: list[tuple[str, str]], output: Path) -> None:
    if not failures:
        return
    for reason, count in Counter(reason for _, reason in failures).most_common(5):
        first = next(path for path, why in failures if why == reason)
        logger.warning(f"{plural(count, 'picture')} skipped: {reason} (as {first})")
    logger.info(f"{plural(len(failures), 'skipped picture')}, listed by: clipcap-inspect {output}")


def _report_finished(output: Path, strict: bool) -> None:
    from clipcap.data.cache.index import Cache
    from clipcap.data.cache.shard import read_summary

    failed = [failure for shard in Cache.open(output).shards for failure in read_summary(shard.path)[1]]
    if failed and strict:
        path, reason = failed[0]
        fact = f"{output} is finished, but without {path}: {reason}"
        raise SourceError(f"{fact} (--strict allows none); mend the picture and give --overwrite")
    without = f", without {plural(len(failed), 'picture')} that could not be read" if failed else ""
    logger.info(f"{output} is finished already and of this recipe{without}; nothing to do (--overwrite makes it again)")


def main() -> None:
    """Entry point of `clipcap-precompute`."""
    run_command(app, "clipcap-precompute")


if __name__ == "__main__":
    main()
