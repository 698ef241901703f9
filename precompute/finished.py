"""Whether a cache is finished, as far as can be told before a model is loaded."""

from pathlib import Path

from clipcap.data.pretrained.bundled import lasting_name
from clipcap.data.pretrained.new_tokenizer import is_new
from clipcap.data.pretrained.tokenizer import load_tokenizer, tokenizer_sha256
from clipcap.data.records import Source
from clipcap.precompute.encoders.load import encoder_names
from clipcap.precompute.output import Output
from clipcap.precompute.settings import DEFAULT_ENCODER, PrecomputeSettings
from clipcap.precompute.survey import Survey


def is_finished(output: Output, source: Source, settings: PrecomputeSettings, split_seed: int | None) -> bool:
    """Return whether the output is complete, and what these settings make of a source of images.

    Settings that the machine chooses by itself, such as `precision` auto, may have any value in the cache. False may
    also mean that only the models can tell, as where a file of weights is newer than the cache.

    Raises:
        UsageError, ModelError: as `load_encoder` and `load_tokenizer`, of a name that is not known.
    """
    cache = output.finished()
    if cache is None:
        return False
    recipe = cache.fingerprint
    wanted = {
        "views": settings.views,
        "features": settings.features_for(source.format),
        "precision": None if settings.precision == "auto" else settings.precision,
        "batch_size": settings.batch_size,
        "shard_size": settings.shard_size,
    }
    if any(value is not None and getattr(recipe, name) != value for name, value in wanted.items()):
        return False
    if recipe.split_seed != split_seed:
        return False
    encoder, pretrained = encoder_names(settings.encoder or DEFAULT_ENCODER, settings.pretrained)
    if recipe.encoder != encoder or pretrained not in (None, recipe.pretrained) or not recipe.checked:
        return False
    if pretrained is None and Path(recipe.pretrained).is_absolute():
        return False  # weights of a file, and timm's own are asked for
    if _newest(Path(recipe.pretrained)) > output.index.stat().st_mtime:
        return False
    if recipe.tokenizer != lasting_name(settings.tokenizer):
        return False
    if is_new(settings.tokenizer):
        same_tokens = output.kept_tokenizer(settings.tokenizer) is not None
    else:
        same_tokens = recipe.tokenizer_sha256 == tokenizer_sha256(load_tokenizer(settings.tokenizer))
    return same_tokens and has_all(output, source)


def has_all(output: Output, source: Source) -> bool:
    """Return whether the output is complete and has what the source has, and nothing else."""
    cache = output.finished()
    if cache is None or cache.fingerprint.source_sha256 != source.sha256():
        return False
    survey = Survey(source, cache.fingerprint.views)
    survey.add_output(output, cache.fingerprint)
    return survey.is_complete


def _newest(path: Path) -> float:
    """Return when a file, or the newest file of a folder, was changed or put there; 0 for a tag of weights."""
    files = path.iterdir() if path.is_dir() else [path] if path.is_file() else []
    return max((max(status.st_mtime, status.st_ctime) for status in (file.stat() for file in files)), default=0.0)
