"""Caches that someone made to harm: rows elsewhere or missing, sizes that lie, heaps without an end."""

import os
import shutil
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest

from clipcap.data import files
from clipcap.data.cache import hdf5
from clipcap.data.cache.columns import is_offsets, write_texts
from clipcap.data.cache.fingerprint import Fingerprint
from clipcap.data.cache.index import Cache, ShardEntry, write_index
from clipcap.data.cache.shard import ShardTables, read_shard, read_summary, read_views, write_shard
from clipcap.data.errors import CacheError, DamagedCacheError

FINGERPRINT = Fingerprint.unchecked(encoder="demo", width=3)
ARCHIVE = Path(__file__).parents[2] / "archives/format-1"


def tables() -> ShardTables:
    return ShardTables(
        embedding=np.arange(6, dtype=np.float16).reshape(2, 3),
        id=["a", "b"],
        path=["a.jpg", "b.jpg"],
        split=np.array([0, 0], dtype=np.uint8),
        first_caption=np.array([0, 1, 2]),
        text=["a dog", "dogs"],
        first_token=np.array([0, 2, 4]),
        token=np.array([5, 0, 6, 0], dtype=np.uint16),
        failure_path=["c.jpg"],
        failure_reason=["truncated"],
        view=np.ones((2, 3), dtype=np.float16),
        first_view=np.array([0, 1, 2]),
    )


def make_cache(folder: Path) -> Path:
    """Write a cache of one shard and return its index; the shard is beside it."""
    content = write_shard(folder / "c-00000.h5", tables(), FINGERPRINT.to_json(), 0)
    entry = ShardEntry(path=folder / "c-00000.h5", images=2, captions=2, tokens=4, content=content)
    write_index(folder / "c.h5", FINGERPRINT, [entry])
    return folder / "c.h5"


def read_everything(path: Path) -> None:
    """Read a cache in every way."""
    cache = Cache.open(path)
    for shard in cache.shards:
        read_summary(shard.path)
        read_shard(shard.path, embeddings=False)
        read_views(shard.path, 0, 2)
    list(cache.tables())
    list(cache.verify())


def test_the_untouched_cache_is_read(tmp_path: Path) -> None:
    read_everything(make_cache(tmp_path))


def replaced(name: str, make: Callable[[h5py.File, str], object]) -> Callable[[h5py.File], None]:
    """A change of a file: the object of that name is removed, and made anew."""

    def change(file: h5py.File) -> None:
        del file[name]
        make(file, name)

    return change


def moved_behind(link: Callable[[], object]) -> Callable[[h5py.File], None]:
    """A change of a file: the group of images is reached through a link only."""

    def change(file: h5py.File) -> None:
        file.move("images", "elsewhere")
        file["images"] = link()

    return change


def unwritten(file: h5py.File, name: str) -> None:
    file.create_dataset(name, (2, 3), "<f2", chunks=(1, 3), maxshape=(None, 3), fletcher32=True)[0] = 1


def never_written(file: h5py.File, name: str) -> None:
    file.create_dataset(name, (3,), "<i8")


def compressed(file: h5py.File, name: str) -> None:
    file.create_dataset(name, data=np.zeros((2, 3), dtype="<f2"), compression="gzip")


def huge(file: h5py.File, name: str) -> None:
    file.create_dataset(name, (800_000_001,), "<i8", fillvalue=0)


def huge_chunked(file: h5py.File, name: str) -> None:
    file.create_dataset(name, (800_000_001,), "<i8", chunks=(1 << 20,))


def huge_chunk(file: h5py.File, name: str) -> None:
    file.create_dataset(name, (2, 3), "<f2", chunks=(100_000_000, 3), maxshape=(None, 3))


ATTACKS: dict[str, tuple[Callable[[h5py.File], object], str]] = {
    "a group that is a link in the file": (moved_behind(lambda: h5py.SoftLink("/elsewhere")), "images is a link"),
    "a group that is in another file": (moved_behind(lambda: h5py.ExternalLink("fifo", "/")), "images is a link"),
    "a dataset that is in another file": (
        replaced("images/split", lambda file, name: file.__setitem__(name, h5py.ExternalLink("fifo", "/x"))),
        "images/split is a link",
    ),
    "texts that are in another file": (
        replaced("images/id", lambda file, name: file.__setitem__(name, h5py.ExternalLink("fifo", "/x"))),
        "images/id is a link",
    ),
    "views that are a link to nothing": (
        replaced("images/view", lambda file, name: file.__setitem__(name, h5py.SoftLink("/nothing"))),
        "images/view is a link",
    ),
    "an optional table that is a link": (
        lambda file: file.__setitem__("images/sum", h5py.ExternalLink("fifo", "/x")),
        "images/sum is a link",
    ),
    "a chunk that was never written": (replaced("images/embedding", unwritten), "images/embedding lacks rows"),
    "a table that was never written": (replaced("images/first_caption", never_written), "first_caption lacks rows"),
    "another filter": (replaced("images/embedding", compressed), "images/embedding lacks rows"),
    "6 GB of offsets": (replaced("images/first_caption", huge), "more than the file can hold"),
    "6 GB of offsets in chunks": (replaced("images/first_caption", huge_chunked), "more than the file can hold"),
    "a chunk of 600 MB": (replaced("images/embedding", huge_chunk), "images/embedding lacks rows"),
    "offsets whose difference wraps around": (
        lambda file: file["captions/first_token"].__setitem__(1, np.iinfo("<i8").min),
        "captions/first_token does not hold increasing offsets",
    ),
    "offsets of texts that wrap around": (
        lambda file: file["captions/text/first"].__setitem__(1, np.iinfo("<i8").min),
        "captions/text/first does not hold increasing offsets",
    ),
    "offsets of texts beyond the bytes": (
        lambda file: file["captions/text/first"].__setitem__(2, 10),
        "captions/text/first does not hold increasing offsets",
    ),
    "texts that are no UTF-8": (lambda file: file["captions/text/byte"].__setitem__(0, 255), "can't decode"),
    "a scale of variable length": (
        lambda file: file["images/embedding"].attrs.__setitem__("scale", "2"),
        "the scale of /images/embedding is no float64",
    ),
    "an attribute of variable length": (lambda file: file.attrs.__setitem__("x", "text"), "variable length"),
    "a hash that is a number": (lambda file: file.attrs.__setitem__("content", 7), "content is no text"),
    "strings as in format 1": (
        replaced("images/id", lambda file, name: file.__setitem__(name, ["a", "b"])),
        "images/id/first does not exist",
    ),
    "a table where a group should be": (
        replaced("captions", lambda file, name: file.__setitem__(name, [1])),
        "captions/first_token does not exist",
    ),
    "another width": (
        replaced("images/embedding", lambda file, name: file.__setitem__(name, np.zeros((2, 4), "<f2"))),
        "embeddings of 4 numbers and the width 3",
    ),
    "a width of 0": (
        replaced("images/embedding", lambda file, name: file.__setitem__(name, np.zeros((2, 0), "<f2"))),
        "embeddings of 0 numbers and the width 3",
    ),
    "no patches": (
        replaced("images/embedding", lambda file, name: file.__setitem__(name, np.zeros((2, 0, 3), "<f2"))),
        "embeddings of 0 x 3 numbers and the width 3",
    ),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_an_attack_on_a_shard_is_one_line_that_names_it(tmp_path: Path, attack: str) -> None:
    index = make_cache(tmp_path)
    os.mkfifo(tmp_path / "fifo")
    change, message = ATTACKS[attack]
    with h5py.File(tmp_path / "c-00000.h5", "r+") as file:
        change(file)
    for path in (index, tmp_path / "c-00000.h5"):
        with pytest.raises(CacheError, match=r"c-00000\.h5") as caught:
            read_everything(path)
        assert message in str(caught.value)
        assert "\n" not in str(caught.value)


def rewrite_names(file: h5py.File, names: list[str]) -> None:
    """Let an index list other shards, each with the numbers of the first one."""
    for name in ("images", "captions", "tokens"):
        count = file[f"shards/{name}"][0]
        del file[f"shards/{name}"]
        file[f"shards/{name}"] = np.full(len(names), count, "<i8")
    content = file["shards/content/byte"][:].tobytes().decode()
    for name, texts in (("name", names), ("content", [content] * len(names))):
        del file[f"shards/{name}"]
        write_texts(file, f"shards/{name}", texts)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["c-00000.h5", "c-00000.h5"], r"lists c-00000.h5 more than once"),
        ([], "lists no shards"),
        (["c-00000.h5\0"], "names a shard outside its folder"),
        (["c" * 300], "names a shard outside its folder"),
        (["/etc/passwd"], "names a shard outside its folder"),
        (["fifo"], r"fifo, a shard of .*, is missing"),
        (["c.h5"], r"c.h5"),
    ],
)
def test_an_index_that_lists_what_it_must_not_is_refused(tmp_path: Path, names: list[str], message: str) -> None:
    index = make_cache(tmp_path)
    os.mkfifo(tmp_path / "fifo")
    with h5py.File(index, "r+") as file:
        rewrite_names(file, names)
    with pytest.raises(CacheError, match=message):
        Cache.open(index)


def test_a_fifo_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo.h5")
    with pytest.raises(CacheError, match=r"fifo.h5 cannot be opened \(a FIFO, not a file\)"):
        Cache.open(tmp_path / "fifo.h5")


def heaps(data: bytes) -> list[int]:
    """Where the heaps of strings in a file of format 1 are."""
    found, start = [], data.find(b"GCOL")
    while start >= 0:
        found.append(start)
        start = data.find(b"GCOL", start + 1)
    return found


@pytest.mark.parametrize("name", ["cache.h5", "cache-00001.h5"])
def test_a_heap_of_format_1_without_an_end_is_damage(tmp_path: Path, name: str) -> None:
    """HDF5 itself goes round for ever in a heap whose free space has the size 0."""
    for file in ARCHIVE.glob("*.h5"):
        shutil.copy(file, tmp_path)
    data = (tmp_path / name).read_bytes()
    places = heaps(data)
    assert places
    for start in places:
        for index, size in ((0, 0), (0, 1 << 62), (1, (1 << 64) - 16), (1, 1 << 40)):
            changed = bytearray(data)
            struct.pack_into("<HHIQ", changed, start + 16, index, 0, 0, size)
            (tmp_path / name).write_bytes(changed)
            with pytest.raises(DamagedCacheError, match="a heap of strings is damaged"):
                Cache.open(tmp_path / "cache.h5")
    changed = bytearray(data)
    struct.pack_into("<Q", changed, places[0] + 8, 1 << 40)
    (tmp_path / name).write_bytes(changed)
    with pytest.raises(DamagedCacheError, match="reaches beyond the file"):
        Cache.open(tmp_path / "cache.h5")
    (tmp_path / name).write_bytes(data)
    assert Cache.open(tmp_path / "cache.h5").images > 0


def test_strings_of_format_1_that_are_all_the_same_bytes_take_no_memory(tmp_path: Path) -> None:
    shard = tmp_path / "s.h5"
    shutil.copy(ARCHIVE / "cache-00000.h5", shard)
    with h5py.File(shard, "r+") as file:
        rows = len(file["captions/text"])
        del file["captions/text"]
        texts = np.array(["x" * 60_000, *["y"] * (rows - 1)], object)
        file.create_dataset("captions/text", data=texts, dtype=h5py.string_dtype())
        place, size = file["captions/text"].id.get_offset(), 16
    data = bytearray(shard.read_bytes())
    for row in range(1, rows):  # every text is the first one
        data[place + row * size : place + (row + 1) * size] = data[place : place + size]
    shard.write_bytes(data)
    with pytest.raises(DamagedCacheError, match="captions/text has more text than the file has bytes"):
        read_shard(shard)


def test_a_file_that_cannot_be_read_is_not_called_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index = make_cache(tmp_path)

    class Vanished:
        def __enter__(self) -> "Vanished":
            return self

        def __exit__(self, *_: object) -> None: ...

        def seek(self, *_: int) -> int:
            return 1

        def read(self, _: int) -> bytes:
            raise OSError(116, "Stale file handle")

    monkeypatch.setattr(hdf5, "open_file", lambda path: Vanished())
    monkeypatch.setattr(h5py, "File", lambda *_, **__: files.open_file(tmp_path / "gone"))
    with pytest.raises(CacheError, match=r"c\.h5 cannot be read \(Stale file handle\); try again") as caught:
        Cache.open(index)
    assert not isinstance(caught.value, DamagedCacheError)


def test_memory_that_runs_out_is_not_called_damage(tmp_path: Path) -> None:
    index = make_cache(tmp_path)
    with pytest.raises(MemoryError), hdf5.open_hdf5(index):
        raise MemoryError


@pytest.mark.parametrize(
    ("first", "rows", "end", "right"),
    [
        ([0, 2, 2, 3], 3, 3, True),
        ([0], 0, 0, True),
        ([0, 2, 1, 3], 3, 3, False),
        ([1, 2, 2, 3], 3, 3, False),
        ([0, 2, 2, 3], 2, 3, False),
        ([0, 2, 2, 3], 3, 4, False),
        ([0, 2**62, -(2**62), 3], 3, 3, False),  # 2^62 to -2^62 is a difference of -2^63
        ([0, 2**63 - 1, -(2**63), 3], 3, 3, False),  # and this one wraps around to 1
        ([], 0, 0, False),
    ],
)
def test_offsets_ascend_from_nothing_to_the_end(first: list[int], rows: int, end: int, right: bool) -> None:
    assert is_offsets(np.array(first, np.int64), rows, end) is right


def test_tables_with_offsets_that_wrap_around_are_a_problem() -> None:
    wrapped = np.array([0, np.iinfo(np.int64).max, 2])
    assert replace(tables(), first_caption=wrapped).problem() == (
        "images/first_caption does not hold increasing offsets of its rows"
    )
