"""Changes the structure of HDF5 files: links, places of rows, dtypes, ranks, offsets and attributes."""

import json
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from typing import Any

import h5py
import numpy as np

from fuzz.mutators import INTEGERS, TEXTS, change_value

_DTYPES = ("<i4", "<i8", ">i8", "<u8", "<f2", "<f8", "|u1", "|S5", "<c8", "bool", [("a", "<i8"), ("b", "<f4")])


def change_hdf5(data: bytes, random: Random, others: Sequence[bytes]) -> bytes:
    """Change one dataset, group or attribute of a file.

    Raises:
        ValueError: an earlier change broke the file.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "changed.h5")  # h5py crashes on some damaged files in memory that it may write to
        path.write_bytes(data)
        try:
            with h5py.File(path, "r+") as file:
                random.choice(_CHANGES)(file, random)
        except Exception as error:  # h5py raises errors of many classes
            raise ValueError("not HDF5 that can be changed") from error
        return path.read_bytes()


def _datasets(file: h5py.File) -> list[str]:
    names: list[str] = []

    def add(name: str, item: h5py.Group | h5py.Dataset) -> None:
        # HDF5 itself crashes on some rows in other files, which an earlier change may have made.
        if isinstance(item, h5py.Dataset) and not item.external and not item.is_virtual:
            names.append(name)

    file.visititems(add)
    return sorted(names)


def _replaced(file: h5py.File, name: str, **options: Any) -> None:
    attributes = dict(file[name].attrs)
    del file[name]
    dataset = file.create_dataset(name, **options)
    for key, value in attributes.items():
        dataset.attrs[key] = value


def change_link(file: h5py.File, random: Random) -> None:
    """Make a table, or a group, a link to something else."""
    names = [*_datasets(file), *file]
    name, other = random.choice(names), random.choice(names)
    link = random.choice((
        h5py.SoftLink("/" + other), h5py.SoftLink("/" + name), h5py.SoftLink("/"), h5py.SoftLink("/gone"),
        h5py.ExternalLink("other.h5", "/" + name), h5py.ExternalLink("cache-00001.h5", "/" + name),
        h5py.ExternalLink("fifo", "/" + name), h5py.ExternalLink("/dev/zero", "/"), file["/"], file[other],
    ))  # fmt: skip
    del file[name]
    file[name] = link


def change_storage(file: h5py.File, random: Random) -> None:
    """Let a table have its rows in another file, in no file, or in chunks that are not there."""
    name = random.choice(_datasets(file))
    shape, dtype = file[name].shape, file[name].dtype
    action = random.randrange(5)
    if action == 0:
        attributes = dict(file[name].attrs)
        layout = h5py.VirtualLayout(shape, dtype)
        layout[...] = h5py.VirtualSource(random.choice(("gone.h5", "cache-00001.h5", ".")), name, shape)
        del file[name]
        file.create_virtual_dataset(name, layout).attrs.update(attributes)
    elif action == 1 and dtype.kind in "iuf":
        path = random.choice(("/dev/zero", "cache-00001.h5", "gone.bin", "fifo"))
        _replaced(file, name, shape=shape, dtype=dtype, external=[(path, 0, h5py.h5f.UNLIMITED)])
    elif action == 2:
        _replaced(file, name, shape=shape, dtype=dtype, chunks=tuple(max(1, n) for n in shape))
    elif action == 3:
        huge = tuple(random.choice((1 << 20, 1 << 33, 1 << 40, n)) for n in shape)
        _replaced(file, name, shape=huge, dtype=dtype, chunks=tuple(max(1, min(n, 64)) for n in huge))
    else:
        _replaced(file, name, data=h5py.Empty(dtype))


def change_dtype(file: h5py.File, random: Random) -> None:
    """Give a table another dtype or rank."""
    name = random.choice(_datasets(file))
    shape = list(file[name].shape)
    if random.random() < 0.4:
        shape = random.choice(([], [0, *shape], [*shape, 1], [*shape, 3], shape[:-1], [1, *shape], [*shape, 0]))
    dtype: Any = file[name].dtype
    if random.random() < 0.7:
        special = (
            h5py.string_dtype("ascii"),
            h5py.string_dtype(),
            h5py.vlen_dtype("<i4"),
            h5py.ref_dtype,
            h5py.enum_dtype({"a": 0}),
        )
        dtype = random.choice((*_DTYPES, *special))
    _replaced(file, name, shape=tuple(shape), dtype=dtype)


def change_length(file: h5py.File, random: Random) -> None:
    """Give a table more rows, fewer, or none."""
    name = random.choice(_datasets(file))
    rows = file[name][:]
    chosen = random.choice(
        (
            rows[:0],
            rows[:-1],
            rows[1:],
            np.concatenate([rows, rows[-1:]]),
            rows[:1],
            np.tile(rows, (2,) + (1,) * (rows.ndim - 1)),
        )
    )
    _replaced(file, name, data=chosen, dtype=file[name].dtype)


def change_numbers(file: h5py.File, random: Random) -> None:
    """Set numbers of a table to others, such as offsets that descend, are beyond the end, or wrap around."""
    names = [name for name in _datasets(file) if file[name].dtype.kind in "iuf" and file[name].size]
    offsets = [name for name in names if "first_" in name]
    name = random.choice(offsets if offsets and random.random() < 0.6 else names)
    values = file[name][:]
    flat = values.reshape(-1)
    count = random.choice((1, 1, 2, 3, len(flat)))
    for _ in range(min(count, 50)):
        at = random.choice((0, len(flat) - 1, random.randrange(len(flat))))
        if flat.dtype.kind == "f":
            flat[at] = random.choice((np.nan, np.inf, -np.inf, 65504, 0, 6e-8))
        else:
            flat[at] = np.array([random.choice(INTEGERS) % (1 << 64)], dtype=np.uint64).astype(flat.dtype)[0]
    if "first_" in name and random.random() < 0.4 and len(flat) > 3:  # differences that are not negative, modulo 2^64
        flat[1], flat[2] = np.int64(2**62), np.int64(-(2**62) - 2**62)
    file[name][...] = values


def change_text(file: h5py.File, random: Random) -> None:
    """Replace texts of a table, or give two rows the same one."""
    names = [name for name in _datasets(file) if h5py.check_string_dtype(file[name].dtype) and file[name].size]
    name = random.choice(names)
    values = file[name][:]
    at, other = random.randrange(len(values)), random.randrange(len(values))
    odd = (b"\xff\xfe", b"x" * 70_000, *(text.encode("utf-8", "replace").replace(b"\0", b"") for text in TEXTS))
    values[at] = random.choice((values[other], random.choice(odd)))
    file[name][...] = values


def change_attribute(file: h5py.File, random: Random) -> None:
    """Remove an attribute, or set it to a value of another type."""
    owner = random.choice((file, file, file, file[random.choice(_datasets(file))]))
    names = [*owner.attrs, *(("scale",) if owner is not file else ())]
    name = random.choice(names)
    if name == "fingerprint" and random.random() < 0.7:
        changed = json.dumps(change_value(json.loads(owner.attrs[name]), random))
        owner.attrs[name] = np.bytes_(changed.encode("utf-8", "replace")) if random.random() < 0.8 else changed
    elif name in owner.attrs and random.random() < 0.2:
        del owner.attrs[name]
    else:
        owner.attrs[name] = random.choice((
            0, 1, 2, -1, 2.5, np.nan, 2**40, "", "x" * 9, "[" * 9000, "null", "1", "[]", "{}", b"\xff", [1, 2], ["a",
            "b"],
            np.zeros((3, 3)), h5py.Empty("f"), "a" * 60_000, np.array(b"x" * 10), random.choice(INTEGERS) % (1 << 63),
        ))  # fmt: skip


def remove(file: h5py.File, random: Random) -> None:
    """Remove a table or a group, or put one in the place of the other."""
    name = random.choice((*_datasets(file), *file))
    del file[name]
    if random.random() < 0.3:
        file.create_group(name)
    elif random.random() < 0.3:
        file[name] = 3


_CHANGES: Sequence[Callable[[h5py.File, Random], None]] = (
    change_link, change_storage, change_dtype, change_length, change_numbers, change_numbers, change_text,
    change_attribute, change_attribute, remove,
)  # fmt: skip
