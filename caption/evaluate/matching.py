"""Finds the reference of each predicted image: by id, by path, or by file name.

Programs name the same image in many ways. All names of a file are understood in one way: the one that finds most
images, and the first of several that find as many. A name that several images share counts for none of them.

    id            391895
    path          val2014/COCO_val2014_000000391895.jpg
    end of path   coco/val2014/COCO_val2014_000000391895.jpg
    file name     COCO_val2014_000000391895.jpg
    its stem      COCO_val2014_000000391895
    its number    391895, 000000391895.jpg
"""

import logging
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from clipcap.caption.evaluate.references import Reference, References
from clipcap.data.command.progress import plural
from clipcap.data.errors import SourceError, UsageError
from clipcap.data.readers.images import SUFFIXES
from clipcap.data.records import SPLITS

logger = logging.getLogger(__name__)

SHOWN = 5  # ids in a message
_NUMBERED = re.compile(r"(?:COCO_[a-z]+[0-9]{4}_)?0*([0-9]+)")


@dataclass(frozen=True, kw_only=True)
class Match:
    """Predictions and references that belong together.

    Attributes:
        captions: the predicted caption by the place of its image among the references.
        unknown: predicted images without a reference, as the predictions name them.
        missing: places of the references without a prediction.
    """

    captions: dict[int, str]
    unknown: list[str]
    missing: list[int]


def match(captions: Mapping[str, str], images: Sequence[Reference]) -> Match:
    """Find the reference of each predicted image.

    Args:
        captions: by the id or name of the image.
        images: with their references.

    Raises:
        SourceError: two predictions are of one image.
    """
    found = max((_find(captions, images, keys) for keys in _WAYS), key=len)
    owner: dict[int, str] = {}
    for name, place in found.items():
        if place in owner:
            fact = f"{owner[place]} and {name} both name image {images[place].id} of the references"
            raise SourceError(f"{fact}; leave one of them out")
        owner[place] = name
    return Match(
        captions={place: captions[name] for place, name in sorted(owner.items())},
        unknown=[name for name in captions if name not in found],
        missing=[place for place in range(len(images)) if place not in owner],
    )


def choose_split(captions: Iterable[str], references: References, split: str | None) -> str | None:
    """Choose the split whose references count: the one that was asked for, or that most predictions lie in.

    Args:
        captions: ids or names of the predicted images.
        references: of all splits.
        split: that was asked for.

    Returns:
        The split; None where the references have no splits.

    Raises:
        UsageError: the references have no such split.
    """
    present = references.splits()
    if split is not None:
        if split not in SPLITS:
            raise UsageError(f"`split` {split} is not known; use {', '.join(SPLITS)}")
        if split not in present:
            has = f"it has {', '.join(present)}" if present else "its images have no splits; leave `split` out"
            raise UsageError(f"{references.path} has no references of `split` {split}; {has}")
        return split
    if len(present) < 2:
        return present[0] if present and all(image.split for image in references.images) else None
    found = match(dict.fromkeys(captions, ""), references.images).captions
    counts = {name: sum(references.images[place].split == name for place in found) for name in present}
    chosen = max(present, key=counts.__getitem__)
    if not counts[chosen]:  # the error that follows says more
        return chosen
    others = ", ".join(f"{counts[name]:,} in {name}" for name in present if name != chosen)
    logger.info(f"split {chosen}, which has {counts[chosen]:,} of the captioned images ({others}); `split` chooses")
    return chosen


def split_to_caption(references: References, split: str | None) -> str | None:
    """Choose the split of a cache to caption: the one that was asked for, else test, else val.

    Raises:
        UsageError: there is no such split.
    """
    if split is not None:
        return choose_split([], references, split)
    present = references.splits()
    chosen = next((name for name in ("test", "val") if name in present), None)
    if chosen is None:
        raise UsageError(
            f"{references.path} has no captions of test or val images, only of {', '.join(present)}; name the `split`"
        )
    logger.info(f"captioning the split {chosen} of {references.path}; `split` chooses another")
    return chosen


def check_matched(name: str, predicted: int, references: References, found: Match, images: Sequence[Reference]) -> None:
    """Say what has no partner.

    Args:
        name: of the captioner.
        predicted: number of its captions.
        references: where the references come from.
        found: what belongs together.
        images: the references that were matched.

    Raises:
        SourceError: more than half of the predictions, or of the references, have no partner.
    """
    missing = [images[place].id for place in found.missing]
    or_split = ", or `split`" if references.splits() else ""
    for ids, total, fact in (
        (
            found.unknown,
            predicted,
            f"of {plural(predicted, 'caption')} in {name} have no reference in {references.path}",
        ),
        (missing, len(images), f"of {plural(len(images), 'image')} in {references.path} have no caption in {name}"),
    ):
        if not ids:
            continue
        shown = ", ".join(ids[:SHOWN]) + (", ..." if len(ids) > SHOWN else "")
        if 2 * len(ids) > total:
            example = f"; the references have images such as {images[0].id}" if ids is found.unknown else ""
            raise SourceError(
                f"{len(ids):,} {fact}: {shown}{example}; give captions and references of the same images{or_split}"
            )
        logger.warning(f"{len(ids):,} {fact}: {shown}")


Keys = Callable[[str, str], list[str]]


def _find(names: Iterable[str], images: Sequence[Reference], keys: Keys) -> dict[str, int]:
    """Find the place of the image that each name stands for, if names are understood in one way."""
    places: dict[str, int | None] = {}
    for place, image in enumerate(images):
        for key in set(keys(image.id, image.path)):
            places[key] = None if key in places else place
    found = {}
    for name in names:
        first = next((one for one in map(places.get, keys(name, name)) if one is not None), None)
        if first is not None:
            found[name] = first
    return found


# Each function gives the keys of an image from its id and its path, the more specific first; a prediction has one name,
# which may be either.


def _whole(identifier: str, path: str) -> list[str]:
    return [identifier]


def _whole_path(identifier: str, path: str) -> list[str]:
    return [_plain(path)]


def _ends(identifier: str, path: str) -> list[str]:
    parts = _plain(path).split("/")
    return ["/".join(parts[start:]) for start in range(len(parts) - 1)]


def _file_name(identifier: str, path: str) -> list[str]:
    return [_plain(path).rsplit("/", 1)[-1]]


def _stem(identifier: str, path: str) -> list[str]:
    name = PurePosixPath(_file_name(identifier, path)[0])
    return [name.stem if name.suffix.lower() in SUFFIXES else str(name)]


def _number(identifier: str, path: str) -> list[str]:
    found = _NUMBERED.fullmatch(_stem(identifier, path)[0])
    return [found[1]] if found is not None else []


_WAYS: tuple[Keys, ...] = (_whole, _whole_path, _ends, _file_name, _stem, _number)


def _plain(path: str) -> str:
    return path.replace("\\", "/").removeprefix("./")
