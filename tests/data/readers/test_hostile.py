"""Datasets of strangers: what is no regular file, too large, too deep or damaged is named, in one line and little time.

Readers run in the test's own process, so a wait or a gigabyte would show as a hang or a failure of the whole run.
"""

import io
import json
import os
import pickle
import struct
import tarfile
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from pyarrow import parquet

from clipcap.data.errors import SourceError
from clipcap.data.readers import READERS, npy, read_source
from clipcap.data.readers.images import MAX_LINE
from clipcap.data.readers.rows import add_captions
from clipcap.data.safe_pickle import read_pickle, read_torch

DEEP = "[" * 100_000 + "]" * 100_000
MOST_MEMORY = 1 << 28  # bytes that a small file may take


def refused(path: Path, format: str | None = None) -> str:
    """Read a dataset that must be refused in little memory, and return the message."""
    tracemalloc.start()
    try:
        with pytest.raises(SourceError) as caught:
            read_source(path, format)
        assert tracemalloc.get_traced_memory()[1] < MOST_MEMORY
    finally:
        tracemalloc.stop()
    return str(caught.value)


@pytest.mark.parametrize("format", [None, *READERS])
def test_a_source_that_is_no_regular_file_is_named_as_what_it_is(tmp_path: Path, format: str | None) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "device").symlink_to("/dev/zero")
    assert f"{tmp_path / 'fifo'} cannot be read (a FIFO, not a file)" in refused(tmp_path / "fifo", format)
    assert f"{tmp_path / 'device'} cannot be read (a device, not a file)" in refused(tmp_path / "device", format)


@pytest.mark.parametrize(
    "name",
    [
        "annotations/captions_train2017.json", "dataset_coco.json", "Flickr8k.token.txt", "metadata.csv", "x.tar",
        "metadata.jsonl", "x.parquet", "img_emb/img_emb_0.npy",
    ],
)  # fmt: skip
@pytest.mark.parametrize("kind", ["FIFO", "device"])
def test_a_fifo_or_a_device_in_a_dataset_is_named_and_not_waited_for(tmp_path: Path, name: str, kind: str) -> None:
    (tmp_path / "train2017").mkdir()
    file = tmp_path / name
    file.parent.mkdir(exist_ok=True)
    if kind == "FIFO":
        os.mkfifo(file)
    else:
        file.symlink_to("/dev/zero")
    assert f"{file} cannot be read (a {kind}, not a file)" in refused(tmp_path)


@pytest.mark.parametrize("name", ["captions.json", "results.csv", "table.csv", "table.jsonl"])
def test_a_fifo_beside_images_is_noted(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / name)
    (tmp_path / "a.jpg").touch()
    source = read_source(tmp_path)
    assert source.format == "folder"
    assert f"{name} cannot be read (a FIFO, not a file)" in source.notes[-1]


def test_the_root_of_the_file_system_is_not_walked() -> None:
    assert "is the root of the file system" in refused(Path("/"))
    assert "is the root of the file system" in refused(Path("/usr/.."))


@pytest.mark.parametrize("name", ["x" * 300, "x" * 5000, "x/" * 4000])
def test_a_name_that_is_too_long_is_an_error_of_one_line(name: str) -> None:
    assert "File name too long" in refused(Path(name))


COCO = {
    "nested_images": f'{{"images": {DEEP}, "annotations": []}}',
    "nested_member": f'{{"info": {DEEP}, "images": [], "annotations": []}}',
    "no_images": '{"annotations": []}',
    "images_null": '{"images": null, "annotations": []}',
    "images_object": '{"images": {}, "annotations": []}',
    "id_list": '{"images": [{"id": [1], "file_name": "a.jpg"}], "annotations": []}',
    "id_bool": '{"images": [{"id": true, "file_name": "a.jpg"}], "annotations": []}',
    "id_float": '{"images": [{"id": 1.5, "file_name": "a.jpg"}], "annotations": []}',
    "id_infinite": '{"images": [{"id": 1e999, "file_name": "a.jpg"}], "annotations": []}',
    "caption_null": '{"images": [{"id": 1, "file_name": "a.jpg"}], "annotations": [{"image_id": 1, "caption": null}]}',
    "cut_in_a_text": '{"images": [{"id": "' + "x" * 1000,
}


@pytest.mark.parametrize("text", COCO.values(), ids=COCO)
def test_coco_captions_of_other_types_or_depth_are_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "captions_val.json").write_text(text)
    assert f"{tmp_path / 'captions_val.json'} is not a COCO caption file" in refused(tmp_path / "captions_val.json")


def test_a_whole_number_is_the_same_id_however_it_is_written(tmp_path: Path) -> None:
    images = '[{"id": 1.0, "file_name": "a.jpg"}, {"id": 2, "file_name": "b.jpg"}]'
    annotations = '[{"image_id": 1, "caption": "one"}, {"image_id": 2.0, "caption": "two"}]'
    (tmp_path / "captions_val.json").write_text(f'{{"annotations": {annotations}, "images": {images}}}')
    records = read_source(tmp_path / "captions_val.json").records
    assert [(record.id, record.captions) for record in records] == [("1", ("one",)), ("2", ("two",))]


KARPATHY: dict[str, Any] = {
    "images_object": {"a": 1},
    "sentences_null": [{"filename": "a.jpg", "split": "train", "sentences": None}],
    "sentence_text": [{"filename": "a.jpg", "split": "train", "sentences": ["one"]}],
    "raw_null": [{"filename": "a.jpg", "split": "train", "sentences": [{"raw": None}]}],
    "raw_number": [{"filename": "a.jpg", "split": "train", "sentences": [{"raw": 5}]}],
    "filename_number": [{"filename": 5, "split": "train", "sentences": []}],
    "filename_empty": [{"filename": "", "split": "train", "sentences": []}],
    "split_list": [{"filename": "a.jpg", "split": ["train"], "sentences": []}],
}


@pytest.mark.parametrize("images", KARPATHY.values(), ids=KARPATHY)
def test_karpathy_images_of_other_types_are_refused(tmp_path: Path, images: Any) -> None:
    (tmp_path / "dataset_coco.json").write_text(json.dumps({"images": images}))
    assert "dataset_coco.json is not a file of Karpathy's" in refused(tmp_path)


@pytest.mark.parametrize("value", ["1e999", "NaN", "[1]", "true", "1.5", "9" * 5000])
def test_flat_ids_that_are_no_numbers_are_refused(tmp_path: Path, value: str) -> None:
    (tmp_path / "a.json").write_text(f'[{{"image_id": {value}, "caption": "one"}}]')
    assert "a.json is not a .json with" in refused(tmp_path / "a.json", "flat")


def test_json_lines_have_a_limit_on_depth_and_length(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text(f'{{"image": "a.jpg", "caption": "one"}}\n{{"image": {DEEP}}}\n')
    assert "a.jsonl line 2 is not JSON (it is nested more than 64 deep)" in refused(file)
    file.write_text('{"image": ["a.jpg"], "caption": "one"}\n')
    assert "line 1 has an image that is not text: ['a.jpg']" in refused(file)
    file.write_text('{"image": "a.jpg", "caption": "' + "x" * MAX_LINE)
    assert f"a.jsonl line 1 has more than {MAX_LINE:,} characters" in refused(file)


def test_a_csv_field_that_is_too_long_is_not_called_an_open_quote(tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    file.write_text("image,caption\na.jpg," + "x" * 200_000 + "\n")
    assert "a.csv line 2: field larger than field limit (131072); shorten the field" in refused(file)
    file.write_text('image,caption\na.jpg,"' + "x\n" * 1_000_000)
    assert "line 2: a quoted field that begins in this row is not closed properly" in refused(file)


def test_many_odd_rows_of_flickr30k_make_few_notes(tmp_path: Path) -> None:
    rows = "a.jpg| 0| one\n" + "odd\n" * 1000
    (tmp_path / "results.csv").write_text("image_name| comment_number| comment\n" + rows)
    notes = read_source(tmp_path / "results.csv").notes
    assert notes[5] == "995 more lines like these"


def array(header: str, data: bytes = bytes(48), length: int | None = None) -> bytes:
    """A `.npy` with any header."""
    text = header.encode()
    return b"\x93NUMPY\2\0" + struct.pack("<I", len(text) if length is None else length) + text + data


def header(descr: str = "'<f4'", shape: str = "(3, 4)") -> str:
    return f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}\n"


ARRAYS = {
    "short": array(header(), bytes(40)),
    "no_dtype": array(header("'<f94'")),
    "huge_shape": array(header(shape="(1000000000000, 4)")),
    "shape_that_overflows": array(header(shape="(4294967296, 4294967296)")),
    "shape_of_nothing": array(header("'|S0'", "(1000000000, 1000000000)")),
    "negative_shape": array(header(shape="(-3, -4)")),
    "objects": array(header("'|O'")),
    "structures": array(header("[('a', '<f4'), ('b', '<f4')]", "(3, 2)")),
    "large_header": array(header(), length=1 << 30),
    "deep_header": array("(" * 5000),
    "many_dimensions": array(header(shape="(" + "1," * 65 + ")")),
    "zip_of_something": b"PK\3\4" + bytes(100),
    "nothing": b"",
}


@pytest.mark.parametrize("content", ARRAYS.values(), ids=ARRAYS)
@pytest.mark.parametrize("suffix", [".npy", ".npz"])
def test_arrays_that_are_damaged_or_too_large_are_refused(tmp_path: Path, content: bytes, suffix: str) -> None:
    (tmp_path / f"a{suffix}").write_bytes(content)
    assert f"a{suffix} holds no arrays" in refused(tmp_path / f"a{suffix}")


def archive(*members: tuple[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as opened:
        for name, content in members:
            opened.writestr(name, content)
    return file.getvalue()


GOOD = archive(("embeddings.npy", array(header())))
ARCHIVES = {
    "unknown_method": GOOD.replace(b"\x08\x00", b"\x63\x00"),
    "encrypted": GOOD.replace(b"PK\1\2\x14\3\x14\0\0", b"PK\1\2\x14\3\x14\0\1"),
    "size_that_is_none": GOOD.replace(struct.pack("<I", len(array(header()))), b"\xff\xff\xff\x7f"),
    "bomb": archive(("embeddings.npy", array(header(shape=f"({1 << 17}, 4)"), bytes(2 << 20)))),
    "no_characters": archive(
        ("embeddings.npy", array(header(shape="(1, 4)"), bytes(16))),
        ("names.npy", array(header("'<U1'", "(1,)"), b"\xff\xff\xff\xff")),
    ),
    "huge_names": archive(("embeddings.npy", array(header())), ("names.npy", array(header("'<U99999999'", "(3,)")))),
}


@pytest.mark.parametrize("content", ARCHIVES.values(), ids=ARCHIVES)
def test_archives_of_arrays_that_are_damaged_or_unpack_to_far_more_are_refused(
    tmp_path: Path, content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(npy, "_MOST_BYTES", 1 << 20)
    (tmp_path / "a.npz").write_bytes(content)
    assert "a.npz holds no arrays" in refused(tmp_path / "a.npz")


def test_arrays_are_read_in_either_order_and_byte_order(tmp_path: Path) -> None:
    values = np.arange(12, dtype=np.float32).reshape(3, 4) + 1
    for number, stored in enumerate((values, np.asfortranarray(values), values.astype(">f4"), values.astype("<f2"))):
        np.save(tmp_path / f"{number}.npy", stored)
        np.savez_compressed(tmp_path / f"{number}.npz", embeddings=stored, names=np.array(["a", "b", "c"]))
        for suffix in (".npy", ".npz"):
            source = read_source(tmp_path / f"{number}{suffix}")
            assert source.embedding is not None
            np.testing.assert_array_equal(source.embedding, values)
        assert [record.id for record in source.records] == ["a", "b", "c"]


def test_clip_retrieval_files_of_two_widths_are_refused(tmp_path: Path) -> None:
    (tmp_path / "img_emb").mkdir()
    np.save(tmp_path / "img_emb/img_emb_0.npy", np.ones((3, 4), np.float32))
    np.save(tmp_path / "img_emb/img_emb_1.npy", np.ones((3, 5), np.float32))
    assert "img_emb_1.npy has rows of 5 numbers, but" in refused(tmp_path)


def test_captions_with_a_header_alone_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", embeddings=np.ones((1, 4), np.float32), names=np.array(["a.jpg"]))
    (tmp_path / "a.csv").write_text("image,caption\n")
    with pytest.raises(SourceError, match=r"a\.csv lists no images with captions"):
        add_captions(read_source(tmp_path / "a.npz"), read_source(tmp_path / "a.csv"), tmp_path / "a.csv")


def doubled(begin: bytes, join: Callable[[int], bytes], times: int = 40) -> bytes:
    """A pickle of an object that occurs twice in another one that occurs twice, and so on."""
    return b"\x80\x02" + begin + b"q\x00" + b"".join(map(join, range(times))) + b"."


def get(number: int) -> bytes:
    return b"h" + bytes([number])


def put(number: int) -> bytes:
    return b"q" + bytes([number])


RIGHT = pickle.dumps({"clip_embedding": torch.ones(3, 4), "captions": []}, 2)
PICKLES = {
    "cycle": b"\x80\x02]q\x00h\x00a.",
    "deep_lists": b"\x80\x02" + b"]" * 5000 + b"a" * 4999 + b".",
    "deep_key": b"\x80\x02})" + b"\x85" * 5000 + b"K\x01s.",
    "shared_key": doubled(b")", lambda n: get(n) + get(n) + b"\x86" + put(n + 1))[:-1] + b"}" + get(40) + b"K\x01s.",
    "huge_bytes": b"\x80\x04\x8e" + struct.pack("<Q", 1 << 60) + b".",
    "huge_bytearray": b"\x80\x05\x96" + struct.pack("<Q", 4 << 30) + b".",
    "huge_number": b"I" + b"9" * 10_000 + b"\n.",
    "tensor_of_stride_0": RIGHT.replace(b"K\x03K\x04\x86", b"J\xff\xff\xff\x7fJ\xff\xff\xff\x7f\x86").replace(
        b"K\x04K\x01\x86", b"K\x00K\x00\x86"
    ),
    "stride_of_80_bits": RIGHT.replace(b"K\x04K\x01\x86", b"\x8a\x0a" + b"\xff" * 9 + b"\x00K\x01\x86"),
    "array_from_a_number": b"\x80\x04cnumpy.core.numeric\n_frombuffer\n(J\xff\xff\xff\x7fcnumpy\ndtype\n\x8c\x02f4\x85R"
    b"K\x01\x85\x8c\x01CtR.",
}  # fmt: skip


@pytest.mark.parametrize("content", PICKLES.values(), ids=PICKLES)
def test_pickles_that_ask_for_much_are_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.pkl").write_bytes(content)
    assert "a.pkl is not a pickle" in refused(tmp_path / "a.pkl", "clipcap-pickle")


def test_a_shared_object_is_read_once(tmp_path: Path) -> None:
    file = tmp_path / "a.pkl"
    for begin, join in (
        (b"]", lambda n: b"]" + put(n + 1) + b"(" + get(n) + get(n) + b"e"),
        (b")", lambda n: get(n) + get(n) + b"\x86" + put(n + 1)),
        (b"}", lambda n: b"}" + put(n + 1) + b"(K\x01" + get(n) + b"K\x02" + get(n) + b"u"),
    ):
        file.write_bytes(doubled(begin, join))
        value = read_pickle(file)
        first, second = value.values() if isinstance(value, dict) else value[:2]
        assert first is second


@pytest.mark.parametrize(
    "content",
    [b"]r\x00\x00\x00\x80.", b"]p9999999999\n.", b"\x80\x04\x95\x00\x00\x00\x00\x01\x00\x00\x00]."],
    ids=["memo", "memo_in_digits", "frame"],
)
def test_a_number_for_a_known_object_or_a_frame_costs_nothing(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.pkl").write_bytes(content)
    tracemalloc.start()
    assert read_pickle(tmp_path / "a.pkl") == []
    assert tracemalloc.get_traced_memory()[1] < MOST_MEMORY
    tracemalloc.stop()


def test_a_row_that_many_captions_share_is_kept_once(tmp_path: Path) -> None:
    row = np.ones((1, 1 << 20), np.float32)
    (tmp_path / "a.pkl").write_bytes(pickle.dumps([("a.jpg", row, f"caption {i}") for i in range(2000)]))
    source = read_source(tmp_path / "a.pkl")
    assert source.embedding is not None
    assert source.embedding.shape == (1, 1 << 20)
    assert len(source.records[0].captions) == 2000


def test_captions_far_longer_than_the_pickle_are_refused(tmp_path: Path) -> None:
    text = "x" * 100_000
    captions = [{"image_id": "1", "caption": text, "clip_embedding": 0}] * 10_000
    (tmp_path / "a.pkl").write_bytes(pickle.dumps({"clip_embedding": torch.ones(1, 4), "captions": captions}))
    assert "its captions are far longer than the file" in refused(tmp_path / "a.pkl")


def test_more_images_than_rows_are_refused(tmp_path: Path) -> None:
    captions = [{"image_id": str(i), "caption": "one", "clip_embedding": 0} for i in range(3)]
    (tmp_path / "a.pkl").write_bytes(pickle.dumps({"clip_embedding": torch.ones(2, 4), "captions": captions}))
    assert "names 3 images, but has 2 rows" in refused(tmp_path / "a.pkl")


def test_a_compressed_file_of_torch_is_refused(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(1 << 16)}, tmp_path / "a.pt")
    assert read_torch(tmp_path / "a.pt")["a"].shape == (1 << 16,)
    with zipfile.ZipFile(tmp_path / "a.pt") as opened:
        members = [(name, opened.read(name)) for name in opened.namelist()]
    (tmp_path / "a.pt").write_bytes(archive(*members))
    with pytest.raises(SourceError, match="compressed archive"):
        read_torch(tmp_path / "a.pt")


def test_memory_that_runs_out_is_not_called_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.save(tmp_path / "a.npy", np.ones((3, 4), np.float32))
    (tmp_path / "a.pkl").write_bytes(RIGHT)
    (tmp_path / "a.csv").write_text("image,caption\na.jpg,one\n")

    def fail(*_: Any, **__: Any) -> None:
        raise MemoryError

    monkeypatch.setattr(np, "empty", fail)
    monkeypatch.setattr("clipcap.data.safe_pickle._real", fail)
    monkeypatch.setattr("clipcap.data.readers.tables.read_csv_rows", fail)
    for name in ("a.npy", "a.pkl", "a.csv"):
        assert refused(tmp_path / name) == (
            f"{tmp_path / name} needs more memory than there is; free some, or give a smaller dataset"
        )


def tar_header(name: str, size: int, kind: bytes = tarfile.REGTYPE) -> bytes:
    """The header of a member, whose size need not be possible."""
    data = bytearray(tarfile.TarInfo(name).tobuf(tarfile.USTAR_FORMAT))
    data[124:136] = size.to_bytes(12, "big", signed=True) if size < 0 else b"\x80" + size.to_bytes(11, "big")
    data[156:157], data[148:156] = kind, b" " * 8
    data[148:156] = b"%06o\0 " % sum(data)
    return bytes(data)


@pytest.mark.parametrize("size", [1 << 60, 1 << 87, -1, -512, -1024, -(1 << 70)])
@pytest.mark.parametrize("kind", [tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE, b"Z"])
def test_a_tar_with_an_impossible_size_is_read_up_to_it(tmp_path: Path, size: int, kind: bytes) -> None:
    good = tarfile.TarInfo("a.jpg")
    good.size = 3
    content = good.tobuf() + b"abc".ljust(512, b"\0") + tar_header("b.jpg", size, kind)
    (tmp_path / "a.tar").write_bytes(content)
    source = read_source(tmp_path / "a.tar")
    assert [record.path for record in source.records] == ["a.tar/a.jpg"]
    assert source.images.read("a.tar/a.jpg") == b"abc"
    assert source.notes[0].startswith("a.tar is damaged after 1 images, which were read")


def test_parquet_that_unpacks_to_far_more_or_has_no_single_column_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "a.parquet"
    images = pa.array([b"x"] * 400, pa.binary())
    parquet.write_table(pa.table({"image": images, "caption": ["y" * 300_000] * 400}), file, compression="zstd")
    assert "a.parquet unpacks to more than" in refused(file)
    parquet.write_table(pa.table({"image": pa.array([None] * 3_000_000, pa.binary())}), file)
    assert "a.parquet claims to have 3,000,000 rows in" in refused(file)
    parquet.write_table(pa.Table.from_arrays([images, images, images], ["image", "caption", "caption"]), file)
    assert "a.parquet has several columns named 'caption'" in refused(file)
