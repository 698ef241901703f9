"""The cache, format 2: reading returns what was written, hashes follow FORMAT.md, and damage is always an error."""

import hashlib
import json
import shutil
import struct
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from clipcap.data.cache.columns import write_texts
from clipcap.data.cache.encoded import Encoded
from clipcap.data.cache.fingerprint import Fingerprint
from clipcap.data.cache.index import Cache, ShardEntry, write_index
from clipcap.data.cache.shard import ShardTables, read_embeddings, read_shard, read_views, write_shard
from clipcap.data.errors import CacheError, DamagedCacheError

FINGERPRINT = Fingerprint(
    encoder="ViT-B-32",
    pretrained="openai",
    weights_sha256="a" * 64,
    quick_gelu=False,
    features="projected",
    width=3,
    preprocess={"size": [224, 224]},
    normalized=False,
    tokenizer="gpt2",
    tokenizer_sha256="b" * 64,
    source_format="coco",
    source_sha256="c" * 64,
    split_seed=None,
    precision="fp32",
    batch_size=2,
    shard_size=2,
    version="0.1.0",
)


def tables(number: int = 0, dtype: Any = np.uint16) -> ShardTables:
    """Return tables of two images, the first with two captions, the second with none, and of one failure."""
    return ShardTables(
        embedding=np.array([[1.5, -2, number], [0, 0.25, 65504]], dtype=np.float16),
        id=[f"{number}a", f"{number}ü"],
        path=[f"train/{number}a.jpg", "train/日本.jpg"],
        split=np.array([0, 1], dtype=np.uint8),
        first_caption=np.array([0, 2, 2]),
        text=["Um cão à janela", ""],
        first_token=np.array([0, 3, 4]),
        token=np.array([5, 0, 50256, 50256], dtype=dtype),
        failure_path=["train/bad.jpg"],
        failure_reason=["truncated"],
    )


def make_cache(folder: Path, shards: int = 3) -> Path:
    entries = []
    for number in range(shards):
        path = folder / f"cache-{number:05d}.h5"
        content = write_shard(path, tables(number), FINGERPRINT.to_json(), number)
        entries.append(ShardEntry(path=path, images=2, captions=2, tokens=4, content=content))
    write_index(folder / "cache.h5", FINGERPRINT, entries)
    return folder / "cache.h5"


def assert_same(one: ShardTables, other: ShardTables) -> None:
    for name, table in vars(one).items():
        found = getattr(other, name)
        if not isinstance(table, np.ndarray):
            assert found == table
        else:
            assert found.dtype == table.dtype
            assert (found == table).all()


@pytest.mark.parametrize("dtype", [np.uint16, np.uint32])
def test_reading_returns_what_was_written(tmp_path: Path, dtype: Any) -> None:
    write_shard(tmp_path / "s.h5", tables(dtype=dtype), FINGERPRINT.to_json(), 0)
    assert_same(read_shard(tmp_path / "s.h5"), tables(dtype=dtype))


def test_views_are_read_back_and_are_no_part_of_a_shard_without_them(tmp_path: Path) -> None:
    view = np.array([[1, 2, 3], [4, 5, 6]], dtype=np.float16)
    viewed = replace(tables(), view=view, first_view=np.array([0, 2, 2]))
    write_shard(tmp_path / "s.h5", viewed, FINGERPRINT.to_json(), 0)
    assert_same(read_shard(tmp_path / "s.h5"), viewed)
    without = read_shard(tmp_path / "s.h5", embeddings=False)
    assert (without.view, without.first_view) == (None, None)
    found, first = read_views(tmp_path / "s.h5", 0, 2)
    assert (found == view).all()
    assert first.tolist() == [0, 2]
    assert len(read_views(tmp_path / "s.h5", 1, 2)[0]) == 0
    assert viewed.content() != tables().content()


@pytest.mark.parametrize(
    "broken",
    [
        {"first_view": None},
        {"view": None},
        {"first_view": np.array([0, 1, 1])},
        {"first_view": np.array([0, 2])},
        {"view": np.ones((2, 2), dtype=np.float16)},
        {"view": np.ones((2, 3), dtype=np.float32)},
    ],
)
def test_inconsistent_views_are_refused(tmp_path: Path, broken: dict[str, Any]) -> None:
    viewed = replace(tables(), view=np.ones((2, 3), dtype=np.float16), first_view=np.array([0, 2, 2]))
    write_shard(tmp_path / "s.h5", replace(viewed, **broken), FINGERPRINT.to_json(), 0)
    with pytest.raises(DamagedCacheError, match="damaged"):
        read_shard(tmp_path / "s.h5")


def test_embeddings_are_the_stored_numbers_times_the_scale(tmp_path: Path) -> None:
    view = np.array([[1, 2, 3], [4, 5, 6]], dtype=np.float16)
    scaled = replace(tables(7), view=view, first_view=np.array([0, 2, 2]), scale=16.0)
    write_shard(tmp_path / "s.h5", scaled, FINGERPRINT.to_json(), 0)
    found = read_shard(tmp_path / "s.h5")
    assert_same(found, scaled)
    assert found.values().dtype == np.float32
    assert found.values().tolist() == [[24, -32, 112], [0, 4, 1048064]]
    assert found.values(np.array([1])).tolist() == [[0, 4, 1048064]]
    assert read_shard(tmp_path / "s.h5", embeddings=False).scale == 16
    stored, scale = read_embeddings(tmp_path / "s.h5", 1, 2)
    assert (stored.tolist(), scale) == ([[0, 0.25, 65504]], 16)
    with h5py.File(tmp_path / "s.h5") as file:
        assert [file[name].attrs["scale"] for name in ("images/embedding", "images/view")] == [16, 16]
        assert file.attrs["content"] == scaled.content().encode()


def test_a_shard_of_scale_1_is_read_as_float16_and_has_no_attribute(tmp_path: Path) -> None:
    write_shard(tmp_path / "s.h5", tables(), FINGERPRINT.to_json(), 0)
    found = read_shard(tmp_path / "s.h5")
    assert found.scale == 1
    assert found.values(slice(0, 1)).dtype == np.float16
    assert np.array_equal(found.values(), tables().embedding)
    with h5py.File(tmp_path / "s.h5") as file:
        assert list(file["images/embedding"].attrs) == []


@pytest.mark.parametrize("scale", [0, -2, 0.5, 3, 2.0**17, float("inf"), float("nan")])
def test_a_scale_that_is_not_a_power_of_two_is_refused(tmp_path: Path, scale: float) -> None:
    assert "power of two" in str(replace(tables(), scale=scale).problem())
    write_shard(tmp_path / "s.h5", tables(), FINGERPRINT.to_json(), 0)
    with h5py.File(tmp_path / "s.h5", "r+") as file:
        file["images/embedding"].attrs["scale"] = float(scale)
    for read in (lambda path: read_shard(path, embeddings=False), lambda path: read_embeddings(path, 0, 1)):
        with pytest.raises(DamagedCacheError, match="power of two"):
            read(tmp_path / "s.h5")


def test_views_of_another_scale_are_refused(tmp_path: Path) -> None:
    viewed = replace(tables(), view=np.ones((2, 3), dtype=np.float16), first_view=np.array([0, 2, 2]), scale=2.0)
    write_shard(tmp_path / "s.h5", viewed, FINGERPRINT.to_json(), 0)
    with h5py.File(tmp_path / "s.h5", "r+") as file:
        del file["images/view"].attrs["scale"]
    with pytest.raises(DamagedCacheError, match=r"the scale 1\.0 and 2\.0 is not one power of two"):
        read_shard(tmp_path / "s.h5")


def test_a_shard_may_hold_only_failures(tmp_path: Path) -> None:
    empty = replace(
        tables(),
        embedding=np.empty((0, 3), dtype=np.float16),
        id=[],
        path=[],
        split=np.empty(0, dtype=np.uint8),
        first_caption=np.array([0]),
        text=[],
        first_token=np.array([0]),
        token=np.empty(0, dtype=np.uint16),
    )
    write_shard(tmp_path / "s.h5", empty, FINGERPRINT.to_json(), 0)
    assert_same(read_shard(tmp_path / "s.h5"), empty)


def test_files_follow_format_md(tmp_path: Path) -> None:
    with h5py.File(make_cache(tmp_path)) as index:
        assert dict(index.attrs) == {
            "format": b"clipcap-cache",
            "format_version": 2,
            "fingerprint": FINGERPRINT.to_json().encode(),
        }
        assert index["shards/name/byte"][:].tobytes() == b"cache-00000.h5cache-00001.h5cache-00002.h5"
        assert index["shards/name/first"][:].tolist() == [0, 14, 28, 42]
        assert {name: (d.dtype.str, d.shape) for name, d in index["shards"].items() if isinstance(d, h5py.Dataset)} == {
            "images": ("<i8", (3,)),
            "captions": ("<i8", (3,)),
            "tokens": ("<i8", (3,)),
        }
        sums = index["shards/content/byte"][:].tobytes()
        assert index["shards/content/first"][:].tolist() == [0, 64, 128, 192]
    with h5py.File(tmp_path / "cache-00001.h5") as shard:
        assert shard.attrs["content"] == sums[64:128]
        assert shard.attrs["shard"] == 1
        found = {}
        shard.visititems(lambda name, item: found.update({name: item.dtype.str}) if hasattr(item, "dtype") else None)
        assert found == {
            "captions/first_token": "<i8",
            "captions/text/byte": "|u1",
            "captions/text/first": "<i8",
            "captions/token": "<u2",
            "failures/path/byte": "|u1",
            "failures/path/first": "<i8",
            "failures/reason/byte": "|u1",
            "failures/reason/first": "<i8",
            "images/embedding": "<f2",
            "images/first_caption": "<i8",
            "images/id/byte": "|u1",
            "images/id/first": "<i8",
            "images/path/byte": "|u1",
            "images/path/first": "<i8",
            "images/split": "|u1",
        }
        assert shard["images/embedding"].fletcher32
        assert list(shard["images/split"].attrs["names"]) == [b"train", b"val", b"test"]


def hashed(t: ShardTables) -> list[bytes]:
    """Return what FORMAT.md says is hashed of `tables()`: the bytes of each dataset, by name."""

    def strings(name: str, texts: list[str]) -> bytes:
        data = b"".join(struct.pack("<q", len(text.encode())) + text.encode() for text in texts)
        return f"{name}\0str\0{len(texts)}\0".encode() + data

    return [
        b"captions/first_token\0<i8\x003\0" + struct.pack("<3q", 0, 3, 4),
        strings("captions/text", t.text),
        b"captions/token\0<u2\x004\0" + struct.pack("<4H", 5, 0, 50256, 50256),
        strings("failures/path", t.failure_path),
        strings("failures/reason", t.failure_reason),
        b"images/embedding\0<f2\x002,3\0" + struct.pack("<6e", 1.5, -2, 0, 0, 0.25, 65504),
        b"images/first_caption\0<i8\x003\0" + struct.pack("<3q", 0, 2, 2),
        strings("images/id", t.id),
        strings("images/path", t.path),
        b"images/split\0|u1\x002\0" + bytes([0, 1]),
    ]


def test_the_content_hash_follows_format_md() -> None:
    t = tables()
    expected = b"".join(hashed(t))
    assert t.content() == hashlib.sha256(expected).hexdigest()
    scaled = hashlib.sha256(expected + b"scale\0" + struct.pack("<d", 16))
    assert replace(t, scale=16.0).content() == scaled.hexdigest()


def test_the_content_hash_of_several_encoders_follows_format_md() -> None:
    view, first_view = np.full((1, 2, 1), 3, np.float16), np.array([0, 0, 1])
    one = Encoded(embedding=np.ones((2, 2, 1), np.float16), view=view, first_view=first_view)
    other = Encoded(embedding=np.full((2, 1), 2, np.float16), scale=4.0)
    further = [
        b"encoders/1/embedding\0<f2\x002,2,1\0" + struct.pack("<4e", 1, 1, 1, 1),
        b"encoders/1/first_view\0<i8\x003\0" + struct.pack("<3q", 0, 0, 1),
        b"encoders/1/view\0<f2\x001,2,1\0" + struct.pack("<2e", 3, 3),
        b"encoders/2/embedding\0<f2\x002,1\0" + struct.pack("<2e", 2, 2),
    ]
    pieces = hashed(tables())
    pieces[3:3] = further
    scales = b"scale\0" + struct.pack("<d", 16) + b"encoders/2/scale\0" + struct.pack("<d", 4)
    expected = hashlib.sha256(b"".join(pieces) + scales).hexdigest()
    assert replace(tables(), scale=16.0, further=(one, other)).content() == expected


def test_an_opened_cache_counts_rows_and_reads_shards_in_order(tmp_path: Path) -> None:
    cache = Cache.open(make_cache(tmp_path))
    assert (cache.images, cache.captions, cache.tokens, len(cache.shards)) == (6, 6, 12, 3)
    assert cache.fingerprint == FINGERPRINT
    assert [shard.id[0] for shard in cache.tables()] == ["0a", "1a", "2a"]
    assert len(list(cache.verify())) == 3


def test_a_single_shard_is_a_cache(tmp_path: Path) -> None:
    make_cache(tmp_path)
    cache = Cache.open(tmp_path / "cache-00001.h5")
    assert (cache.images, len(cache.shards)) == (2, 1)
    assert_same(next(cache.tables()), tables(1))


def test_the_set_moves_together_and_opens_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "old").mkdir()
    make_cache(tmp_path / "old")
    (tmp_path / "old").rename(tmp_path / "new")
    (tmp_path / "link.h5").symlink_to(tmp_path / "new/cache.h5")
    # A file of the same name in the current directory is not used.
    (tmp_path / "cache-00000.h5").write_bytes(b"decoy")
    monkeypatch.chdir(tmp_path)
    assert Cache.open(Path("link.h5")).images == 6


def damage(path: Path, *, keep: int | None = None, data: bytes | None = None) -> None:
    path.write_bytes(path.read_bytes()[:keep] if data is None else data)


def test_a_missing_index_or_shard_is_an_error(tmp_path: Path) -> None:
    index = make_cache(tmp_path)
    with pytest.raises(CacheError, match=r"nothing\.h5"):
        Cache.open(tmp_path / "nothing.h5")
    (tmp_path / "cache-00001.h5").unlink()
    with pytest.raises(CacheError, match=r"cache-00001\.h5"):
        Cache.open(index)


@pytest.mark.parametrize("keep", [100, 1000, 4000])
def test_a_truncated_shard_is_an_error(tmp_path: Path, keep: int) -> None:
    index = make_cache(tmp_path)
    damage(tmp_path / "cache-00002.h5", keep=keep)
    with pytest.raises(DamagedCacheError, match=r"cache-00002\.h5"):
        Cache.open(index)


def test_every_truncation_of_a_shard_is_an_error_never_zeros(tmp_path: Path) -> None:
    index = make_cache(tmp_path)
    whole = (tmp_path / "cache-00002.h5").read_bytes()
    for keep in range(0, len(whole), 97):
        damage(tmp_path / "cache-00002.h5", data=whole[:keep])
        with pytest.raises(CacheError):
            list(Cache.open(index).tables())
    damage(tmp_path / "cache-00002.h5", data=whole)
    assert len(list(Cache.open(index).tables())) == 3


def test_a_shard_in_the_place_of_another_is_an_error(tmp_path: Path) -> None:
    index = make_cache(tmp_path)
    shutil.copy(tmp_path / "cache-00000.h5", tmp_path / "cache-00002.h5")
    with pytest.raises(CacheError, match=r"cache-00002\.h5"):
        Cache.open(index)


def test_a_shard_with_another_fingerprint_is_an_error(tmp_path: Path) -> None:
    index = make_cache(tmp_path)
    other = replace(FINGERPRINT, encoder="RN50", weights_sha256="e" * 64)
    write_shard(tmp_path / "cache-00001.h5", tables(1), other.to_json(), 1)
    with pytest.raises(CacheError, match="encoder: ViT-B-32, not RN50"):
        Cache.open(index)


def test_shards_may_differ_in_where_they_came_from(tmp_path: Path) -> None:
    index = make_cache(tmp_path)
    other = replace(FINGERPRINT, pretrained="/elsewhere/openai.pt", version="0.2.0")
    write_shard(tmp_path / "cache-00001.h5", tables(1), other.to_json(), 1)
    assert Cache.open(index).images == 6


def test_an_unknown_version_is_refused(tmp_path: Path) -> None:
    index = make_cache(tmp_path)
    with h5py.File(index, "r+") as file:
        file.attrs["format_version"] = 3
    with pytest.raises(CacheError, match="format version 3, this program reads up to version 2"):
        Cache.open(index)


def test_an_hdf5_file_of_another_program_is_refused(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["x"] = [1, 2, 3]
    with pytest.raises(CacheError, match=r"other\.h5"):
        Cache.open(tmp_path / "other.h5")


def test_an_empty_file_is_damaged(tmp_path: Path) -> None:
    (tmp_path / "x.h5").write_bytes(b"")
    with pytest.raises(DamagedCacheError, match=r"x\.h5 .*\(0 bytes\)"):
        Cache.open(tmp_path / "x.h5")


def test_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CacheError, match="is a folder"):
        Cache.open(tmp_path)


@pytest.mark.parametrize("data", [b"not HDF5 at all", b"\x89PNG\r\n\x1a\n" + bytes(5000)])
def test_a_file_that_is_not_hdf5_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "x.h5").write_bytes(data)
    with pytest.raises(CacheError, match=rf"x\.h5 .*\({len(data):,} bytes\)"):
        Cache.open(tmp_path / "x.h5")


def test_an_unfinished_shard_is_not_a_shard(tmp_path: Path) -> None:
    make_cache(tmp_path)
    with h5py.File(tmp_path / "cache-00000.h5", "r+") as file:
        del file.attrs["content"]
    with pytest.raises(CacheError, match=r"cache-00000\.h5"):
        Cache.open(tmp_path / "cache-00000.h5")


@pytest.mark.parametrize(
    "change",
    [
        lambda file: file["images/embedding"].__setitem__((0, 0), 7),
        lambda file: file["captions/text/byte"].__setitem__(0, ord("V")),
        lambda file: file["captions/text/first"].__setitem__(1, 3),
        lambda file: file["captions/token"].__setitem__(1, 9),
        lambda file: file["failures/reason/byte"].__setitem__(0, ord("T")),
    ],
)
def test_verify_finds_changes_that_opening_does_not(tmp_path: Path, change: Any) -> None:
    index = make_cache(tmp_path)
    with h5py.File(tmp_path / "cache-00001.h5", "r+") as file:
        change(file)
    cache = Cache.open(index)
    with pytest.raises(DamagedCacheError, match=r"cache-00001\.h5"):
        list(cache.verify())


def test_reading_finds_a_flipped_bit_in_an_embedding(tmp_path: Path) -> None:
    index = make_cache(tmp_path)
    path = tmp_path / "cache-00000.h5"
    data = bytearray(path.read_bytes())
    data[data.index(np.array([1.5, -2, 0], dtype="<f2").tobytes())] ^= 1
    path.write_bytes(data)
    with pytest.raises(DamagedCacheError, match=r"cache-00000\.h5"):
        list(Cache.open(index).tables())


@pytest.mark.parametrize(
    ("name", "rows"),
    [
        ("images/first_caption", [0, 3, 2]),
        ("images/first_caption", [1, 2, 2]),
        ("captions/first_token", [0, 3, 3]),
        ("images/split", [0, 3]),
    ],
)
def test_inconsistent_tables_are_refused(tmp_path: Path, name: str, rows: list[int]) -> None:
    write_shard(tmp_path / "s.h5", tables(), FINGERPRINT.to_json(), 0)
    with h5py.File(tmp_path / "s.h5", "r+") as file:
        file[name][:] = rows
    with pytest.raises(DamagedCacheError, match="is damaged"):
        read_shard(tmp_path / "s.h5")


def replace_dataset(path: Path, name: str, make: Any) -> None:
    with h5py.File(path, "r+") as file:
        del file[name]
        make(file, name)


def virtual(file: h5py.File, name: str) -> None:
    layout = h5py.VirtualLayout(shape=(2, 3), dtype="<f2")
    layout[:] = h5py.VirtualSource("missing.h5", "x", shape=(2, 3))
    file.create_virtual_dataset(name, layout)


def external(file: h5py.File, name: str) -> None:
    file.create_dataset(name, (2, 3), "<f2", external=[("/etc/hostname", 0, 12)])


def linked(file: h5py.File, name: str) -> None:
    file[name] = h5py.ExternalLink("other.h5", "/x")


@pytest.mark.parametrize("make", [virtual, external, linked])
def test_rows_in_other_files_are_never_read(tmp_path: Path, make: Any) -> None:
    index = make_cache(tmp_path)
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["x"] = np.zeros((2, 3), dtype="<f2")
    replace_dataset(tmp_path / "cache-00001.h5", "images/embedding", make)
    with pytest.raises(DamagedCacheError, match="images/embedding"):
        Cache.open(index)
    with pytest.raises(DamagedCacheError, match="images/embedding"):
        read_shard(tmp_path / "cache-00001.h5")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("images/embedding", np.zeros((2, 3), dtype="<f4")),
        ("images/embedding", np.zeros(2, dtype="<f2")),
        ("images/id", np.array([1, 2])),
        ("captions/token", np.zeros(4, dtype="<i2")),
        ("images/split", np.array(3)),
    ],
)
def test_tables_of_another_dtype_or_rank_are_refused(tmp_path: Path, name: str, value: Any) -> None:
    make_cache(tmp_path)
    replace_dataset(tmp_path / "cache-00000.h5", name, lambda file, where: file.__setitem__(where, value))
    with pytest.raises(DamagedCacheError, match="damaged"):
        read_shard(tmp_path / "cache-00000.h5")


@pytest.mark.parametrize(
    ("where", "change"),
    [
        ("cache.h5", lambda file: file.attrs.__setitem__("format", ["clipcap-cache", "x"])),
        ("cache.h5", lambda file: file.attrs.__setitem__("fingerprint", "[" * 100_000)),
        ("cache.h5", lambda file: file.attrs.__setitem__("fingerprint", 7)),
        ("cache.h5", lambda file: (file.__delitem__("shards/name"), file.__setitem__("shards/name", [1, 2, 3]))),
        ("cache.h5", lambda file: (file.__delitem__("shards/images"), file.__setitem__("shards/images", 6))),
        ("cache.h5", lambda file: file.__delitem__("shards/content")),
        ("cache.h5", lambda file: (file.__delitem__("shards"), file.__setitem__("shards", 1))),
        ("cache-00001.h5", lambda file: file.__delitem__("captions/first_token")),
        ("cache-00001.h5", lambda file: file.__delitem__("captions")),
    ],
)
def test_any_damage_is_a_cache_error_that_names_the_file(tmp_path: Path, where: str, change: Any) -> None:
    index = make_cache(tmp_path)
    with h5py.File(tmp_path / where, "r+") as file:
        change(file)
    with pytest.raises(CacheError, match=where):
        Cache.open(index)


def test_an_index_cannot_name_files_elsewhere(tmp_path: Path) -> None:
    index = make_cache(tmp_path, shards=1)
    with h5py.File(index, "r+") as file:
        del file["shards/name"]
        write_texts(file, "shards/name", ["../cache-00000.h5"])
    with pytest.raises(CacheError, match=r"\.\./cache-00000\.h5"):
        Cache.open(index)


@pytest.mark.slow
def test_2000_shards_under_a_limit_of_256_open_files(tmp_path: Path) -> None:
    shards = 2000
    make_cache(tmp_path, shards)
    code = f"""
import resource
resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))
from pathlib import Path
from clipcap.data.cache.index import Cache
cache = Cache.open(Path({str(tmp_path / "cache.h5")!r}))
read = [(int(tables.embedding[0, 2]), tables.text) for tables in cache.tables()]
numbers = [number for number, _ in read]
texts = {{text for _, some in read for text in some}}
print(cache.images, cache.tokens, numbers == list(range({shards})), sorted(texts))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    # float16 holds whole numbers up to 2,048 exactly, so every shard's number is its own.
    assert done.stdout == f"4000 8000 True {['', 'Um cão à janela']}\n"


def test_a_fingerprint_lists_the_fields_that_differ() -> None:
    other = replace(FINGERPRINT, encoder="RN50", weights_sha256="d" * 64, batch_size=7, version="9")
    assert FINGERPRINT.differences(other) == [
        "encoder: ViT-B-32, not RN50",
        f"weights of the encoder: {'a' * 12}, not {'d' * 12}",
        "batch_size: 2, not 7",
    ]
    assert FINGERPRINT.encoder_differences(replace(FINGERPRINT, batch_size=7, precision="bf16")) == []
    assert Fingerprint.from_json(FINGERPRINT.to_json()) == FINGERPRINT
    with pytest.raises(CacheError, match="fingerprint"):
        Fingerprint.from_json("{}")
    with pytest.raises(CacheError):
        Fingerprint.from_json("[]")
    older = json.loads(FINGERPRINT.to_json())
    del older["views"]
    assert Fingerprint.from_json(json.dumps(older)) == FINGERPRINT
    assert asdict(Fingerprint.from_json(FINGERPRINT.to_json()[:-1] + ', "later": 1}')) == asdict(FINGERPRINT)
