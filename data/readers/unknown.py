"""Says why no reader recognises a path: what is there, the format that it resembles most, and what would fix it."""

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from clipcap.data.errors import UnknownSourceError, one_line
from clipcap.data.files import open_file, read_json
from clipcap.data.readers.base import Reader
from clipcap.data.readers.images import first_line, is_image
from clipcap.data.readers.walk import Walk

_SHOWN_KINDS = 6
_SHOWN_NAMES = 4
_MOST_CHILDREN = 100  # of a folder that are looked at

_ANY_IMAGES = ("sidecar", "folder")  # these also recognise the folder above
_TABLES = (".csv", ".tsv", ".jsonl", ".txt")
_AS_TABLE = "write the captions to a .csv with the columns image and caption"
_AS_ARRAYS = "save the embeddings as a .npy, or with the names of their images as a .npz"
_UNPACK = "unpack it, and give the folder"
_CONVERT = "convert the images to JPEG or PNG"
# The format that a file with this suffix is nearest to, and what would fix it.
_BY_SUFFIX = {
    **dict.fromkeys(
        (".xml", ".xlsx", ".xls", ".ods", ".yaml", ".yml", ".html", ".db", ".sqlite"), ("table", _AS_TABLE)
    ),
    **dict.fromkeys((".arrow", ".feather"), ("table", _AS_TABLE)),
    **dict.fromkeys((".zip", ".gz", ".tgz", ".7z", ".rar"), ("folder", _UNPACK)),
    **dict.fromkeys((".jfif", ".svg", ".psd", ".dng", ".cr2", ".nef"), ("folder", _CONVERT)),
    **dict.fromkeys((".pt", ".pth", ".safetensors", ".mat"), ("arrays", _AS_ARRAYS)),
}


class Nearest(NamedTuple):
    """The format that a path resembles most.

    Attributes:
        format: its name in `READERS`.
        fact: in what the path differs from it.
        fix: what would make it a dataset of that format.
    """

    format: str
    fact: str
    fix: str


def unknown_source(path: Path, readers: Mapping[str, Reader]) -> UnknownSourceError:
    """Return the error for an existing path that no reader recognises."""
    near = nearest_format(path, readers)
    fix = f"give the folder or the file of a dataset, or say with `format` which it is: {', '.join(readers)}"
    lines = (
        f"{path} is not a dataset of a known format; found {_describe(path)}",
        f"nearest format: {near.format}; {near.fact}" if near else "nearest format: none",
        f"to fix this, {near.fix if near else fix}",
    )
    return UnknownSourceError("\n".join(" ".join(line.split()) for line in lines))


def nearest_format(path: Path, readers: Mapping[str, Reader]) -> Nearest | None:
    """Return the format that a path resembles most, or None if there is nothing that resembles any.

    In this order: what a reader recognises inside the folder, JSON, tables, and files with a suffix that says what they
    are.

    Args:
        path: an existing file or folder.
        readers: by name.
    """
    if not path.is_dir():
        return _nearest_of_image(path) or _nearest_of_file(path)
    names = sorted(name for name in os.listdir(path) if not name.startswith("."))  # noqa: PTH208  # maybe millions
    children = [path / name for name in names[:_MOST_CHILDREN]]
    files = [child for child in children if not child.is_dir()]
    files.sort(key=lambda file: (file.suffix.lower() != ".json", file.suffix.lower() not in _TABLES))
    return _recognised(children, readers) or next(filter(None, map(_nearest_of_file, files)), None)


def _recognised(children: Sequence[Path], readers: Mapping[str, Reader]) -> Nearest | None:
    for name, reader in readers.items():
        if name in _ANY_IMAGES:
            continue
        recognised = [child for child in children if reader.matches(child)]
        if recognised:
            one = recognised[0]
            fact = (
                f"this is what {_some([child.name for child in recognised])} {'is' if len(recognised) == 1 else 'are'}"
            )
            return Nearest(name, fact, f"give {one}" if len(recognised) == 1 else f"give one of them, such as {one}")
    return None


def _nearest_of_image(file: Path) -> Nearest | None:
    if not is_image(file.name):
        return None
    return Nearest("folder", f"{file.name} is one image", f"give its folder, {file.parent}")


def _nearest_of_file(file: Path) -> Nearest | None:
    suffix = file.suffix.lower()
    try:
        open_file(file).close()
    except OSError as error:
        is_known = suffix in (".json", *_TABLES, *_BY_SUFFIX)
        fact = f"{file.name} cannot be read ({error.strerror})"
        return Nearest("table", fact, f"replace {file} with a file that can be read") if is_known else None
    if suffix == ".json":
        return _nearest_of_json(file)
    if suffix in _TABLES:
        return _nearest_of_table(file)
    if suffix in _BY_SUFFIX:
        format, fix = _BY_SUFFIX[suffix]
        return Nearest(format, f"{file.name} is a {suffix}, which is not read", fix)
    return None


def _nearest_of_json(file: Path) -> Nearest:
    try:
        content: Any = read_json(file)
    except OSError as error:
        return Nearest("coco", f"{file.name} cannot be looked into ({error.strerror})", f"give {file} with `format`")
    except ValueError as error:
        return Nearest("coco", f"{file.name} is not JSON ({one_line(error)[:80]})", f"save {file} again")
    if isinstance(content, dict) and "images" in content:
        if "annotations" in content:
            fact = f'{file.name} has "images" and "annotations", but not the name of a file of COCO'
            return Nearest("coco", fact, f"give {file} with `format` coco")
        fact = f'{file.name} has "images" but no "annotations"'
        return Nearest("karpathy", fact, f'give {file} with `format` karpathy, if its images have "sentences"')
    if isinstance(content, dict):
        fact = f'{file.name} has no "images"; it has {_keys(content)}'
        return Nearest(
            "coco", fact, 'add "images" and "annotations", or write a list: [{"image": ..., "caption": ...}]'
        )
    entry = content[0] if isinstance(content, list) and content else None
    if isinstance(entry, dict) and not {"image", "image_id"}.isdisjoint(entry) and "caption" in entry:
        return Nearest("flat", f"the beginning of {file.name} shows no caption", f"give {file} with `format` flat")
    has = _keys(entry) if isinstance(entry, dict) else "none"
    fact = f'the entries of {file.name} need "image" and "caption"; they have {has}'
    return Nearest("flat", fact, "rename them, or write a .jsonl and give `image_column` and `caption_column`")


def _nearest_of_table(file: Path) -> Nearest | None:
    try:
        header = first_line(file)
    except OSError:
        return None
    is_text = file.suffix.lower() == ".txt"
    has_columns = any(delimiter in header for delimiter in "\t|;,{")
    if is_text and (not has_columns or " " in header):
        return None
    if has_columns:
        fact = f"{file.name} is read as one only if you say so"
        return Nearest("table", fact, f"give {file} with `format` table, `image_column` and `caption_column`")
    fact = f"the first line of {file.name} has one column: {header[:40]!r}"
    return Nearest("table", fact, "begin it with the names of its columns, such as image,caption")


def _keys(values: dict[str, Any]) -> str:
    return _some([f'"{name:.40}"' for name in values])


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN_NAMES:,} more" if len(names) > _SHOWN_NAMES else ""
    return (", ".join(names[:_SHOWN_NAMES]) or "nothing") + more


def _describe(path: Path) -> str:
    """Count the files by suffix, the most frequent first: `12 .jpg, 1 .xml`."""
    if not path.is_dir():
        return f"a {path.suffix or 'file without a suffix'} of {path.stat().st_size:,} bytes"
    counts = Counter(suffix or "without a suffix" for suffix in _suffixes(path))
    shown = ", ".join(f"{count:,} {suffix}" for suffix, count in counts.most_common(_SHOWN_KINDS))
    rest = counts.total() - sum(count for _, count in counts.most_common(_SHOWN_KINDS))
    return (shown or "no files") + (f", {rest:,} others" if rest else "")


def _suffixes(path: Path) -> Iterator[str]:
    for _, entries in Walk(path):
        yield from (Path(entry.name).suffix.lower() for entry in entries)
