"""The dataset as stage 1 reads it: with captions, splits and limit applied, and how many of its images exist."""

import logging
from dataclasses import replace
from pathlib import Path

from clipcap.data.command.progress import plural
from clipcap.data.errors import SourceError, UsageError
from clipcap.data.readers import Columns, read_source
from clipcap.data.readers.rows import add_captions
from clipcap.data.records import Records, Source
from clipcap.data.splits import draw_splits
from clipcap.precompute.settings import PrecomputeSettings

logger = logging.getLogger(__name__)


def understand(source: str | Path, settings: PrecomputeSettings | None = None) -> Source:
    """Read a dataset as `precompute` would, with splits, captions and limit applied; open no image, write nothing.

    Args:
        source: as for `precompute`: a path, or a URL as text.
        settings: as for `precompute`.

    Raises:
        SourceError: the dataset cannot be read.
        UsageError: the settings do not fit the dataset.
    """
    return read_dataset(source, settings or PrecomputeSettings())[0]


def describe(source: Source) -> str:
    """Return a dataset's format and counts on one line."""
    images, captions = plural(len(source.records), "image"), plural(source.captions(), "caption")
    splits = ", ".join(f"{count:,} {split}" for split, count in source.counts().items())
    return f"{source.format}, {images} ({splits}), {captions}"


def read_dataset(path: str | Path, settings: PrecomputeSettings) -> tuple[Source, bool]:
    """Read a dataset; return it with all splits set, and whether a val split was drawn.

    Args:
        path: as the `source` of `precompute`.
        settings: as for `precompute`.

    Raises:
        SourceError, UsageError: as `understand`.
    """
    columns = Columns(image=settings.image_column, caption=settings.caption_column)
    source = read_source(
        path,
        settings.format,
        columns if settings.captions is None else None,
        allow_outside=settings.allow_outside,
    )
    if settings.captions is not None:
        if source.embedding is None:
            raise UsageError(f"`captions` is for existing embeddings; {source.root} has images: leave `captions` out")
        captions = Path(settings.captions)
        source = add_captions(source, read_source(captions, None, columns), captions)
    source, drawn = draw_splits(source, settings.val_fraction, settings.seed)
    if settings.skip_missing:
        source = _without_missing(source)
    if settings.limit is not None:
        source = source.limited(settings.limit, settings.seed)
    return source, drawn


def check_missing(source: Source, strict: bool) -> None:
    """Refuse a dataset too many of whose images do not exist, before a model is loaded.

    Raises:
        SourceError: more than half of the images do not exist; with `strict`, one does not; or there are none.
    """
    listed, missing = len(source.records), len(source.missing)
    if not listed:
        raise SourceError(f"{source.root} lists no images that exist; give the folder that holds them")
    if not missing:
        return
    fact = f"{missing:,} of {listed:,} listed images do not exist (such as {source.missing[0]})"
    outside = len(source.outside)
    allow = f", or read the {outside:,} that are named outside it with `allow_outside`" if outside else ""
    if strict:
        raise SourceError(f"{fact}, and `strict` allows no failures; complete the folder{allow}, or leave `strict` out")
    if 2 * missing > listed:
        rest = f", or use the {listed - missing:,} that exist with `skip_missing`" if missing < listed else ""
        raise SourceError(f"{fact}, which is more than half; complete the folder{allow}{rest}")
    logger.warning(fact)


def _without_missing(source: Source) -> Source:
    """Leave out the records whose image does not exist."""
    if not source.missing:
        return source
    missing = set(source.missing)
    note = f"{len(missing):,} listed images do not exist and were left out"
    records = Records.of(source.records)
    kept = records.take(number for number, path in enumerate(records.paths()) if path not in missing)
    return replace(source, records=kept, missing=[], notes=[*source.notes, note])
