"""webdataset tars, and the folders of tars that img2dataset writes with `--output_format webdataset`.

A sample consists of the members of a tar with the same key, which is the name up to the first dot after the last slash:

    000000000.jpg    the image
    000000000.txt    its caption, or one caption a line
    000000000.json   {"caption": "..."}, which is used where there is no .txt; a list of captions is read as well

Only the headers and the captions are read. The images stay where they are: `TarStore` reads them from the tars.
"""

import re
import tarfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, NamedTuple

from clipcap.data.errors import SourceError, one_line, unreadable
from clipcap.data.files import open_file, parse_json
from clipcap.data.readers.base import Columns, Reader
from clipcap.data.readers.images import NO_CAPTIONS, SUFFIXES, path_split, walk_images
from clipcap.data.readers.walk import walk_files
from clipcap.data.records import Record, RecordsBuilder, Source
from clipcap.data.stores.tar import TarImage, TarStore, tar_members

_TARS = (".tar",)
_COMPRESSED_TARS = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")
_COMPRESSIONS = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}
_SHARD = re.compile(r"\d{3,}\.tar")
_OTHER_DATA = (*SUFFIXES, ".npy", ".npz", ".pkl", ".pickle")
_CAPTION_KEYS = ("caption", "captions", "text", "TEXT")
_MAX_CAPTIONS = 16 << 20  # bytes of one .txt or .json

_UNSAFE = "members whose name is absolute or contains `..`"
_SPECIAL = "members that are links, devices or other special files"
_REPEATED = "members whose key has a file of the same kind already"
_UNREADABLE = "files of captions that are not UTF-8, not JSON or too large"


class WebDatasetReader(Reader):
    """Reads a tar, or all tars below a folder."""

    expected_layout = "a .tar, or a folder of .tar files, with 000.jpg, 000.txt or 000.json (webdataset, img2dataset)"

    def matches(self, path: Path) -> bool:
        if not path.is_dir():
            return path.is_file() and path.name.lower().endswith(_TARS + _COMPRESSED_TARS)
        tars = list(walk_files(path, _TARS + _COMPRESSED_TARS))
        # Beside other data, only tars that are numbered are shards of images, and not somebody's backup.
        shards = bool(tars) and all(_SHARD.search(tar.name.lower()) for tar in tars)
        return shards or (bool(tars) and not any(True for _ in walk_files(path, _OTHER_DATA)))

    def read(self, path: Path, columns: Columns) -> Source:
        root = path if path.is_dir() else path.parent
        files = list(walk_files(path, _TARS + _COMPRESSED_TARS)) if path.is_dir() else [path]
        if not files:
            raise SourceError(f"{path} holds no .tar files")
        names = [file.relative_to(root).as_posix() for file in files]
        records = RecordsBuilder()
        left_out: Counter[str] = Counter()
        notes: list[str] = []
        store = TarStore.of(root, names, _images(files, names, records, left_out, notes))
        if not records:
            found = [*notes, *(f"{count:,} {what}" for what, count in left_out.items())]
            raise SourceError(
                f"{path} holds no images ({found[0] if found else 'no samples'}); make it again, or "
                "give another `format`"
            )
        notes += [f"{count:,} {what} were left out" for what, count in left_out.items()]
        if not records.caption_count():
            notes.append(NO_CAPTIONS)
        return Source(
            format="webdataset",
            root=root,
            records=records.build(),
            unlisted=[image.relative_to(root).as_posix() for image in (walk_images(path) if path.is_dir() else ())],
            notes=notes,
            store=store,
        )


def _images(
    files: list[Path], names: list[str], records: RecordsBuilder, left_out: Counter[str], notes: list[str]
) -> Iterator[TarImage]:
    """Yield the places of the images, add their records, count what was left out, and note damages."""
    for number, (file, name) in enumerate(zip(files, names, strict=True)):
        tar = _read_tar(file)
        left_out.update(tar.left_out)
        before = len(records)
        for sample in tar.samples.values():
            if sample.image is None:
                left_out["samples without an image"] += 1
                continue
            image = f"{name}/{sample.image.name}"
            captions = sample.captions.get("txt") or sample.captions.get("json") or ()
            records.append(Record(image, image, path_split(str(PurePosixPath(image).parent)), tuple(captions)))
            yield TarImage(image, number, sample.image.offset, sample.image.size)
        if tar.damage is not None:
            kept = len(records) - before
            notes.append(f"{name} is damaged after {kept:,} images, which were read: {tar.damage}")


class _Image(NamedTuple):
    """The image of a sample: the name of the member, and where its content lies in the tar."""

    name: str
    offset: int
    size: int


@dataclass(slots=True)
class _Sample:
    """The members with one key: the image, and the captions of its .txt and its .json."""

    image: _Image | None = None
    captions: dict[str, list[str]] = field(default_factory=dict)


@dataclass(slots=True)
class _Tar:
    """What one tar holds.

    Attributes:
        samples: by their keys, in the order of the tar.
        left_out: how many members were left out, by the reason.
        damage: why the tar could not be read to its end, or None.
    """

    samples: dict[str, _Sample] = field(default_factory=dict)
    left_out: Counter[str] = field(default_factory=Counter)
    damage: str | None = None


def _read_tar(path: Path) -> _Tar:
    """Read the headers and captions of a tar.

    Raises:
        SourceError: it is compressed, no regular file, or cannot be opened.
    """
    tar = _Tar()
    try:
        file = open_file(path)
    except OSError as error:
        raise unreadable(path, error, "give a folder of tars, or move it out of the folder") from error
    with file:
        head = file.read(8)
        compression = next((name for magic, name in _COMPRESSIONS.items() if head.startswith(magic)), None)
        if compression is not None:
            raise SourceError(
                f"{path} is compressed with {compression}, so its images have no positions; decompress it to a .tar"
            )
        file.seek(0)
        try:
            for member in tar_members(file):
                _add_member(tar, member, file)
        except (tarfile.TarError, OSError, ValueError, ArithmeticError, LookupError, RecursionError) as error:
            tar.damage = one_line(error)[:120]
    return tar


def _add_member(tar: _Tar, member: tarfile.TarInfo, file: BinaryIO) -> None:
    name = PurePosixPath(member.name)
    key, _, kind = name.name.partition(".")
    if member.isdir() or not key or not kind:  # a hidden file, or one without a suffix
        return
    if name.is_absolute() or ".." in name.parts:
        tar.left_out[_UNSAFE] += 1
        return
    if not member.isreg() or member.issparse():
        tar.left_out[_SPECIAL] += 1
        return
    sample = tar.samples.setdefault(str(name.parent / key), _Sample())
    kind = kind.lower()
    if f".{kind}" in SUFFIXES:
        if sample.image is not None:
            tar.left_out[_REPEATED] += 1
        else:
            sample.image = _Image(str(name), member.offset_data, member.size)
    elif kind in ("txt", "json"):
        if kind in sample.captions:
            tar.left_out[_REPEATED] += 1
        else:
            sample.captions[kind] = _captions(tar, member, file, kind)


def _captions(tar: _Tar, member: tarfile.TarInfo, file: BinaryIO, kind: str) -> list[str]:
    """Return the captions in a .txt or .json; none if it cannot be read, which is counted."""
    if member.size > _MAX_CAPTIONS:
        tar.left_out[_UNREADABLE] += 1
        return []
    file.seek(member.offset_data)
    try:
        text = file.read(member.size).decode("utf-8-sig")
        found = _json_captions(parse_json(text)) if kind == "json" else _lines(text)
    except ValueError:
        tar.left_out[_UNREADABLE] += 1
        return []
    return [caption for caption in found if caption.strip()]


def _json_captions(content: Any) -> list[str]:
    """Return the captions under the first of the known keys that has any."""
    for key in _CAPTION_KEYS if isinstance(content, dict) else ():
        value = content.get(key)
        found = [text for text in (value if isinstance(value, list) else [value]) if isinstance(text, str)]
        if any(text.strip() for text in found):
            return found
    return []


def _lines(text: str) -> list[str]:
    return text.replace("\r", "\n").split("\n")  # blank lines are dropped, so that \r\n is one end
