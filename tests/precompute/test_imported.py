"""Existing embeddings become a cache: one row for each image, checked for shifts, and no code in them is run."""

import json
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from clipcap.data.cache.index import Cache
from clipcap.data.errors import SourceError
from clipcap.data.readers import read_source
from clipcap.data.readers.rows import add_captions
from clipcap.data.safe_pickle import read_pickle


def rows(count: int, width: int = 16, seed: int = 0) -> "np.ndarray[Any, Any]":
    return np.random.default_rng(seed).standard_normal((count, width)).astype(np.float32)


def save_rmokady(file: Path, values: Any, captions: list[tuple[str, str, int]]) -> Path:
    entries = [{"image_id": name, "caption": text, "clip_embedding": row} for name, text, row in captions]
    file.write_bytes(pickle.dumps({"clip_embedding": torch.from_numpy(values), "captions": entries}))
    return file


def test_a_row_for_each_caption_becomes_a_row_for_each_image(tmp_path: Path) -> None:
    values = rows(3)
    repeated = np.stack([values[0], values[1], values[0], values[2], values[1]]).astype(np.float16)
    named = [("7", "a"), ("8", "b"), ("7", "c"), ("9", "d"), ("8", "e")]
    captions = [(name, text, i) for i, (name, text) in enumerate(named)]
    source = read_source(save_rmokady(tmp_path / "oscar_split_ViT-B_32_train.pkl", repeated, captions))
    assert source.format == "clipcap-pickle"
    assert {record.id: record.captions for record in source.records} == {"7": ("a", "c"), "8": ("b", "e"), "9": ("d",)}
    assert source.embedding is not None
    np.testing.assert_array_equal(source.embedding, values.astype(np.float16))
    assert not source.normalized


def test_the_shifted_rows_of_conceptual_captions_are_repaired(tmp_path: Path) -> None:
    # Five rows of val, then four of train, whose captions are numbered from 0 again. The names collide.
    values = rows(9)
    captions = [(f"{i:08d}", f"val {i}", i) for i in range(5)] + [(f"{i:08d}", f"train {i}", i) for i in range(4)]
    source = read_source(save_rmokady(tmp_path / "conceptual_clip_ViT-B_32_train.pkl", values, captions))
    assert "caption 5;" in source.notes[0]
    assert source.counts() == {"train": 4, "val": 5}
    assert source.embedding is not None
    for record, row in zip(source.records, source.embedding, strict=True):
        (text,) = record.captions
        kind, number = text.split()
        assert record.split == kind
        np.testing.assert_array_equal(row, values[int(number) + (5 if kind == "train" else 0)])


def test_shifted_rows_that_cannot_be_repaired_are_refused(tmp_path: Path) -> None:
    captions = [(f"{i:08d}", f"val {i}", i) for i in range(4)] + [(f"{i:08d}", f"train {i}", i) for i in range(3)]
    with pytest.raises(SourceError, match=r"caption 4.* 8 rows .* 7 captions"):
        read_source(save_rmokady(tmp_path / "x.pkl", rows(8), captions))
    # One row for each image, and its captions in rounds: nothing is shifted.
    captions = [(str(i), f"{word} {i}", i) for word in ("first", "second") for i in range(4)]
    source = read_source(save_rmokady(tmp_path / "x.pkl", rows(4), captions))
    assert [record.captions for record in source.records] == [(f"first {i}", f"second {i}") for i in range(4)]


@pytest.mark.parametrize(
    ("captions", "fact"),
    [
        ([("1", "a", 0), ("2", "b", 3)], "row 3, .* 3 rows"),
        ([("1", "a", 0), ("1", "b", 1)], "rows 0 and 1 "),
        ([], r"x\.pkl"),
    ],
)
def test_rows_that_do_not_fit_the_captions_are_refused(
    tmp_path: Path, captions: list[tuple[str, str, int]], fact: str
) -> None:
    with pytest.raises(SourceError, match=fact):
        read_source(save_rmokady(tmp_path / "x.pkl", rows(3), captions))


def test_a_pickle_of_tokens_is_not_a_dataset(tmp_path: Path) -> None:
    (tmp_path / "train_tokens.pkl").write_bytes(pickle.dumps([[torch.ones(3)], [0], 3]))
    with pytest.raises(SourceError, match=r"train_tokens\.pkl"):
        read_source(tmp_path / "train_tokens.pkl")
    save_rmokady(tmp_path / "train.pkl", rows(2), [("1", "a", 0), ("2", "b", 1)])
    source = read_source(tmp_path)  # a folder with one such file in it
    assert (source.format, len(source.records)) == ("clipcap-pickle", 2)


def test_a_list_of_jmisilo_is_read(tmp_path: Path) -> None:
    values = rows(2)
    content = [("1.jpg", values[0], "a dog ."), ("1.jpg", values[0], "a cat ."), ("2.jpg", values[1], "a man .")]
    (tmp_path / "dataset.pkl").write_bytes(pickle.dumps(content))
    source = read_source(tmp_path / "dataset.pkl")
    assert source.format == "clipxgpt-pickle"
    assert [(r.id, r.captions) for r in source.records] == [("1.jpg", ("a dog .", "a cat .")), ("2.jpg", ("a man .",))]
    np.testing.assert_array_equal(source.embedding, values)


def test_a_folder_of_clip_retrieval_is_read_in_the_order_of_its_numbers(tmp_path: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    for folder in ("img_emb", "text_emb", "metadata"):
        (tmp_path / folder).mkdir()
    values = rows(23)
    values /= np.linalg.norm(values, axis=1, keepdims=True)
    start = 0
    for i in range(11):  # 10 comes after 9, not after 1
        part = values[start : start + 2 + (i == 10)]
        np.save(tmp_path / f"img_emb/img_emb_{i}.npy", part.astype(np.float16))
        names = [f"a/{start + j}.jpg" for j in range(len(part))]
        table = {"image_path": names, "caption": [f"caption {start + j}" for j in range(len(part))]}
        parquet.write_table(pyarrow.table(table), tmp_path / f"metadata/metadata_{i}.parquet")
        start += len(part)
    source = read_source(tmp_path)
    assert (source.format, source.normalized, len(source.records)) == ("clip-retrieval", True, 23)
    assert [record.captions for record in source.records] == [(f"caption {i}",) for i in range(23)]
    np.testing.assert_array_equal(source.embedding, values.astype(np.float16))
    parquet.write_table(pyarrow.table({"caption": ["x"]}), tmp_path / "metadata/metadata_3.parquet")
    with pytest.raises(SourceError, match=r"metadata_3\.parquet has 1 rows, .* 2;"):
        read_source(tmp_path)


def test_arrays_get_captions_from_another_dataset(tmp_path: Path, run: Any, tokenizer_folder: Path) -> None:
    np.savez(tmp_path / "rows.npz", image=np.array(["b.jpg", "a.jpg", "c.jpg"]), embedding=rows(3))
    np.save(tmp_path / "rows.npy", rows(3))
    (tmp_path / "t.csv").write_text("image,caption,split\na.jpg,of a,train\nb.jpg,of b,val\na.jpg,again,train\n")
    options = ["--captions", tmp_path / "t.csv", "--tokenizer", tokenizer_folder]
    result = run("precompute", tmp_path / "rows.npz", "-o", tmp_path / "named.h5", *options)
    assert result.status == 0, result.err
    assert "1 of 3 rows have no captions in" in result.err
    (tables,) = Cache.open(tmp_path / "named.h5").tables()
    assert tables.path == ["b.jpg", "a.jpg", "c.jpg"]
    assert tables.text == ["of b", "of a", "again"]
    assert tables.split.tolist() == [1, 0, 0]
    result = run("precompute", tmp_path / "rows.npy", "-o", tmp_path / "x.h5", *options)
    assert result.status == 2
    assert "has captions of 2 images" in result.err
    (tmp_path / "t.csv").write_text("image,caption\na.jpg,A\nb.jpg,B\nc.jpg,C\n")
    assert run("precompute", tmp_path / "rows.npy", "-o", tmp_path / "x.h5", *options).status == 0
    (tables,) = Cache.open(tmp_path / "x.h5").tables()
    assert tables.text == ["A", "B", "C"]
    np.testing.assert_array_equal(tables.embedding, rows(3).astype(np.float16))


class Spiteful:
    def __init__(self, call: Any, *arguments: Any) -> None:
        self.call, self.arguments = call, arguments

    def __reduce__(self) -> Any:
        return self.call, self.arguments


def nested(bad: Any) -> Any:
    """A tensor whose storage consists of bytes that torch would unpickle."""
    tensor = torch.ones(2)
    rebuild, (storage, *rest) = tensor.__reduce_ex__(2)
    import io

    inner = io.BytesIO()
    torch.save({"storage": bad}, inner, _use_new_zipfile_serialization=False)
    load = storage.__reduce__()[0]
    return Spiteful(rebuild, Spiteful(load, inner.getvalue()), *rest[:3], False, {})


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
@pytest.mark.parametrize("where", ["reduce", "storage", "lookalike"])
def test_a_pickle_that_would_run_code_is_refused_unread(
    tmp_path: Path, run: Any, where: str, protocol: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = tmp_path / "made"
    bad = Spiteful(os.mkdir, str(made))
    if where == "lookalike":  # a name in torch that is not among those that are allowed
        bad = Spiteful(torch.hub.load_state_dict_from_url, "x")
    value = nested(bad) if where == "storage" else bad
    content: dict[str, Any] = {"clip_embedding": value, "captions": []}
    (tmp_path / "x.pkl").write_bytes(pickle.dumps(content, protocol=protocol))
    result = run("precompute", tmp_path / "x.pkl", "-o", tmp_path / "x.h5")
    assert result.status == 2
    assert len(result.err.splitlines()) == 1
    name = "torch.hub.load_state_dict_from_url" if where == "lookalike" else "posix.mkdir"
    assert name in result.err
    assert not made.exists()


def test_pickles_with_dotted_names_or_numpy_objects_are_refused(tmp_path: Path) -> None:
    # Protocol 4 can name attributes of attributes: `torch._utils` + `_rebuild_tensor_v2.__globals__`.
    dotted = b"\x80\x04\x8c\x0ctorch._utils\x8c\x1e_rebuild_tensor_v2.__globals__\x93."
    (tmp_path / "d.pkl").write_bytes(dotted)
    with pytest.raises(SourceError, match="could run code"):
        read_pickle(tmp_path / "d.pkl")
    objects = np.array([Spiteful(os.getcwd), None], dtype=object)
    (tmp_path / "o.pkl").write_bytes(pickle.dumps(objects))
    with pytest.raises(SourceError, match=r"posix\.getcwd"):
        read_pickle(tmp_path / "o.pkl")
    (tmp_path / "o.pkl").write_bytes(pickle.dumps(np.array([None, 1], dtype=object)))
    with pytest.raises(SourceError, match=r"o\.pkl"):
        read_pickle(tmp_path / "o.pkl")


def inner(pickled: bytes) -> bytes:
    """What torch wrote before 1.6, up to the object: magic number, protocol, system."""
    head = [0x1950A86A20F9469CFC6C, 1001, {"protocol_version": 1001, "little_endian": True, "type_sizes": {}}]
    return b"".join(pickle.dumps(part, protocol=2) for part in head) + pickled + pickle.dumps([], protocol=2)


@pytest.mark.parametrize(
    "then",
    [
        # torch would use the number as the address of an allocator.
        b"(K\x08t}X\x09\x00\x00\x00allocatorJAAAAs\x92.",
        b"N}X\x05\x00\x00\x00pwnedK\x01s\x86b.",
        b"(K\x08tR.",
    ],
)
def test_pickles_inside_a_storage_may_name_less_than_torch_allows(tmp_path: Path, then: bytes) -> None:
    for name in (b"ctorch.storage\nUntypedStorage\n.", b"ctorch.storage\nTypedStorage\n.", b"ccollections\nCounter\n."):
        data = inner(name)
        load = b"\x80\x04\x8c\rtorch.storage\x8c\x10_load_from_bytes\x93B" + len(data).to_bytes(4, "little") + data
        (tmp_path / "x.pkl").write_bytes(load + b"\x85R" + then)
        with pytest.raises(SourceError):
            read_pickle(tmp_path / "x.pkl")
    assert not hasattr(torch.storage.TypedStorage, "pwned")


def test_a_tensor_must_lie_within_its_storage(tmp_path: Path) -> None:
    rebuild, (storage, *_) = torch.arange(6.0).reshape(2, 3).__reduce_ex__(2)
    for place in ((0, (2, 3), (3, 1)), (1, (5,), (1,)), (0, (0, 9), (9, 1)), (0, (4, 6), (0, 1))):
        (tmp_path / "x.pkl").write_bytes(pickle.dumps(Spiteful(rebuild, storage, *place, False, {})))
        expected = torch.arange(6.0).as_strided(place[1], place[2], place[0])
        assert torch.equal(read_pickle(tmp_path / "x.pkl"), expected)
    for wrong in (
        (0, (7,), (1,)),
        (6, (1,), (1,)),
        (-1, (1,), (1,)),
        (0, (2, 4), (3, 1)),
        (0, (2,), (-1,)),
        (0, (2,), ()),
    ):
        (tmp_path / "x.pkl").write_bytes(pickle.dumps(Spiteful(rebuild, storage, *wrong, False, {})))
        with pytest.raises(SourceError):
            read_pickle(tmp_path / "x.pkl")


def test_captions_are_found_for_images_of_one_name_in_two_folders(tmp_path: Path) -> None:
    np.savez(tmp_path / "r.npz", image=np.array(["dog/1.jpg", "cat/1.jpg", "x/2.jpg"]), embedding=rows(3))
    (tmp_path / "t.csv").write_text("image,caption\ndog/1.jpg,a dog\ncat/1.jpg,a cat\ny/2.jpg,two\n")
    source = add_captions(read_source(tmp_path / "r.npz"), read_source(tmp_path / "t.csv"), tmp_path / "t.csv")
    assert [record.captions for record in source.records] == [("a dog",), ("a cat",), ("two",)]


def test_files_without_arrays_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "o.npz", image=np.array(["a", None], dtype=object), embedding=rows(2))
    np.savez(tmp_path / "n.npz", name=np.array(3), embedding=rows(2))
    (tmp_path / "cut.npz").write_bytes((tmp_path / "n.npz").read_bytes()[:90])
    assert len(read_source(tmp_path / "n.npz").records) == 2
    for name in ("o.npz", "cut.npz"):
        with pytest.raises(SourceError, match=name):
            read_source(tmp_path / name)


def test_rows_that_are_not_finite_are_skipped_and_strict_refuses_them(
    tmp_path: Path, run: Any, tokenizer_folder: Path
) -> None:
    values = rows(7)
    values[4, 2], values[5, 0] = np.nan, np.inf
    np.savez(tmp_path / "rows.npz", image=np.array([f"{i}.jpg" for i in range(7)]), embedding=values)
    arguments = [tmp_path / "rows.npz", "-o", tmp_path / "c.h5", "--tokenizer", tokenizer_folder, "--shard-size", 3]
    result = run("precompute", *arguments, "--strict")
    assert result.status == 2
    assert "4.jpg" in result.err.splitlines()[-1]
    assert not (tmp_path / "c.h5").exists()
    result = run("precompute", *arguments)
    assert result.status == 0, result.err
    assert "2 images skipped" in result.err
    tables = list(Cache.open(tmp_path / "c.h5").tables())
    assert [(table.path, table.failure_path) for table in tables] == [
        (["0.jpg", "1.jpg", "2.jpg"], []), (["3.jpg"], ["4.jpg", "5.jpg"]), (["6.jpg"], []),
    ]  # fmt: skip
    result = run("precompute", *arguments, "--strict")  # the cache is finished, but has failures
    assert result.status == 2
    assert "4.jpg" in result.err.splitlines()[-1]


def test_rows_beyond_float16_are_imported_with_a_scale_for_each_shard(
    tmp_path: Path, run: Any, tokenizer_folder: Path
) -> None:
    values = rows(9).astype(np.float64)
    values[4, 2], values[5, 0], values[8, 1] = 1e6, -3e5, 1e39  # the last is infinite in float32
    np.save(tmp_path / "rows.npy", values)
    (tmp_path / "captions.csv").write_text("image,caption\n" + "".join(f"{i}.jpg,number {i}\n" for i in range(9)))
    options = ["--captions", tmp_path / "captions.csv", "--tokenizer", tokenizer_folder, "--shard-size", 3]
    result = run("precompute", tmp_path / "rows.npy", "-o", tmp_path / "c.h5", *options)
    assert result.status == 0, result.err
    assert "1 image skipped: its row is not finite, or beyond 4.3e9" in result.err
    tables = list(Cache.open(tmp_path / "c.h5").tables())
    assert [shard.scale for shard in tables] == [1, 16, 1]
    assert tables[1].values()[1, 2] == 999_936  # 1e6, rounded to eleven binary digits
    np.testing.assert_allclose(np.concatenate([shard.values() for shard in tables]), values[:8], rtol=2**-11, atol=1e-6)


def test_an_embedding_that_takes_digits_of_others_is_named(tmp_path: Path, run: Any, tokenizer_folder: Path) -> None:
    values = rows(4)
    values[2, 0] = 4e9
    np.savez(tmp_path / "rows.npz", image=np.array([f"{i}.jpg" for i in range(4)]), embedding=values)
    result = run("precompute", tmp_path / "rows.npz", "-o", tmp_path / "c.h5", "--tokenizer", tokenizer_folder)
    assert result.status == 0, result.err
    assert "the embedding of 2.jpg reaches 4e+09, beside which float16 keeps fewer digits of 3 other emb" in result.err


@pytest.mark.slow
def test_real_embeddings_of_clipcap_dental_are_imported(shared: Path, run: Any, tmp_path: Path) -> None:
    for name, width in (("ViT-B_32", 512), ("RN50x4", 640)):
        file = shared / f"data/embeddings/clipcap-dental/oscar_split_{name}_train.pkl"
        out = tmp_path / f"{name}.h5"
        result = run("precompute", file, "-o", out, "--tokenizer", shared / "data/gpt2", "--encoder", "ViT-B-32")
        assert result.status == 0, result.err
        cache = Cache.open(out)
        assert (cache.images, cache.captions, cache.fingerprint.width) == (732, 2196, width)
        assert not cache.fingerprint.normalized
        (tables,) = cache.tables()
        assert set(np.diff(tables.first_caption)) == {3}


@pytest.mark.slow
def test_real_embeddings_of_an_unknown_encoder_are_trained_on_and_images_are_refused(
    shared: Path, run: Any, tmp_path: Path
) -> None:
    file, index = shared / "data/embeddings/flickr8k_mobilenet_v2.pkl", tmp_path / "cache.h5"
    result = run("precompute", file, "-o", index, "--tokenizer", "demo")
    assert result.status == 0, result.err
    cache = Cache.open(index)
    assert (cache.images, cache.captions, cache.fingerprint.width) == (8091, 40455, 1280)
    options = ["--lm", "demo", "--epochs", 1, "--subset", 0.02, "--batch-size", 40, "--lr", 1e-3, "--device", "cpu"]
    trained = run("train", index, "-o", tmp_path / "run", *options)
    assert trained.status == 0, trained.err
    photo = next((shared / "data/coco/val2017").glob("*.jpg"))
    result = run("caption", photo, "--model", tmp_path / "run", "--device", "cpu")
    assert result.status == 2
    assert "--encoder" in result.err
    rows_file = tmp_path / "rows.npy"
    np.save(rows_file, next(cache.tables()).embedding[:3])
    said = run("caption", rows_file, "--model", tmp_path / "run", "--device", "cpu", "--json")
    assert (said.status, len(json.loads(said.out))) == (0, 3)
    wrong = run("caption", photo, "--model", tmp_path / "run", "--device", "cpu", "--encoder", "demo")
    assert wrong.status == 2
    assert "512" in wrong.err
    assert "1280" in wrong.err


@pytest.mark.parametrize(("name", "value"), [("--part", "1/2"), ("--devices", "2"), ("--reuse", "c.h5")])
def test_what_is_for_images_is_refused(tmp_path: Path, run: Any, tokenizer_folder: Path, name: str, value: str) -> None:
    np.save(tmp_path / "rows.npy", rows(3))
    result = run(
        "precompute", tmp_path / "rows.npy", "-o", tmp_path / "c.h5", "--tokenizer", tokenizer_folder, name, value
    )
    assert result.status == 2
    assert f"{name} is for images, and {tmp_path}/rows.npy has embeddings; leave {name} out" in result.err
