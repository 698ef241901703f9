"""`clipcap-caption`: inputs of every kind, outputs of every format, in order, with CLIP loaded only for images."""

import csv
import io
import json
import os
import pickle
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from clipcap.caption import Captioner, CaptionerSettings, caption
from clipcap.caption.evaluate.predictions import read_predictions
from clipcap.caption.inputs import Inputs
from clipcap.data.cache.index import Cache
from clipcap.data.command import progress
from clipcap.data.errors import CheckpointError, UsageError
from clipcap.precompute.parallel import map_in_order
from small_world import copy_scaled, make_clip, make_coco, small_models, spawn


@pytest.fixture
def model(trained: Path) -> list[object]:
    return ["--model", trained / "best", "--device", "cpu"]


@pytest.fixture
def no_clip(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(open_clip, "create_model", lambda *_, **__: pytest.fail("CLIP was loaded"))


def test_a_single_image_prints_its_caption_alone(
    run: Any, model: list[object], trained: Path, small_cache: Path
) -> None:
    image = small_cache.parent / "coco/val2017/000000000113.jpg"
    result = run("caption", image, *model)
    assert result.status == 0
    assert result.out == Captioner.from_checkpoint(trained, device="cpu")(image) + "\n"
    assert result.err == ""


def test_files_and_folders_are_captioned_in_the_order_given(run: Any, model: list[object], small_cache: Path) -> None:
    coco = small_cache.parent / "coco"
    last, folder = coco / "val2017/000000000117.jpg", coco / "train2017"
    result = run("caption", last, folder, *model, "--batch-size", 5, "--json")
    assert result.status == 0
    found = json.loads(result.out)
    assert [entry["input"] for entry in found] == [str(last), *map(str, sorted(folder.iterdir()))]
    assert all(set(entry) == {"input", "caption"} and entry["caption"] for entry in found)
    plain = run("caption", last, folder, *model)
    assert plain.out.splitlines() == [f"{entry['input']}: {entry['caption']}" for entry in found]


def test_patterns_and_a_list_on_stdin_name_images(
    tmp_path: Path, run: Any, model: list[object], small_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = small_cache.parent / "coco/val2017"
    files = sorted(folder.iterdir())
    everything = json.loads(run("caption", folder, *model, "--json").out)
    assert json.loads(run("caption", folder / "*.jpg", *model, "--json").out) == everything
    assert json.loads(run("caption", folder.parent / "**/*11[34].jpg", *model, "--json").out) == everything[:2]

    def give(text: str) -> None:
        (tmp_path / "list").write_text(text)
        monkeypatch.setattr("sys.stdin", (tmp_path / "list").open())

    give("".join(f"{file}\r\n" for file in reversed(files)) + "\n")
    assert json.loads(run("caption", "-", *model, "--json").out) == everything[::-1]
    give(f"{files[0]}\n{tmp_path}/gone.jpg\n{files[1]}")
    result = run("caption", "-", *model, "--json")
    assert result.status == 0
    assert json.loads(result.out) == [
        everything[0],
        {"input": f"{tmp_path}/gone.jpg", "error": "there is no such file"},
        everything[1],
    ]
    assert result.err.splitlines() == [
        f"warning: {tmp_path}/gone.jpg skipped: there is no such file",
        "warning: 1 input of 3 skipped",
    ]
    give("")
    result = run("caption", "-", *model)
    assert result.status == 2
    assert "stdin" in result.err


def test_several_processes_decode_a_folder_in_order(
    run: Any, model: list[object], small_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = small_cache.parent / "coco"
    expected = run("caption", folder, *model, "--batch-size", 2)
    assert len(expected.out.splitlines()) == 17
    started: list[int] = []

    def count(function: Any, items: Any, threads: int) -> Any:
        started.append(threads)
        return map_in_order(function, items, threads)

    monkeypatch.setattr("clipcap.caption.input_kinds.map_in_order", count)
    monkeypatch.setattr("clipcap.caption.input_kinds.choose_workers", lambda: 3)
    assert run("caption", folder, *model, "--batch-size", 2).out == expected.out
    assert run("caption", folder / "val2017", *model).status == 0
    assert started == [3, 0]  # none for a single batch


def test_a_table_folds_long_texts_and_loses_no_word(
    tmp_path: Path, run: Any, model: list[object], small_cache: Path
) -> None:
    found = json.loads(run("caption", small_cache, *model, "--split", "val", "--json").out)
    drawn = run("caption", small_cache, *model, "--split", "val", "--table", "-o", tmp_path / "t.txt")
    assert drawn.status == 0
    lines = (tmp_path / "t.txt").read_text().splitlines()
    assert lines[0].split() == ["input", "caption"]
    assert len(lines) > len(found) and max(map(len, lines)) <= 80
    column = lines[0].index("caption")
    assert "".join(line[:column].strip() for line in lines[1:]) == "".join(entry["input"] for entry in found)
    # Words are folded between lines, never lost.
    said = " ".join(" ".join(line[column:].split()) for line in lines[1:])
    assert said.split() == " ".join(entry["caption"] for entry in found).split()


@pytest.mark.usefixtures("no_clip")
def test_a_cache_and_its_splits_are_captioned_without_clip(run: Any, model: list[object], small_cache: Path) -> None:
    everything = json.loads(run("caption", small_cache, *model, "--json", "--batch-size", 3).out)
    paths = [path for tables in Cache.open(small_cache).tables() for path in tables.path]
    assert [entry["input"] for entry in everything] == paths
    val = json.loads(run("caption", small_cache, *model, "--split", "val", "--json").out)
    assert val == [entry for entry in everything if entry["input"].startswith("val2017/")]
    result = run("caption", small_cache, *model, "--split", "test")
    assert result.status == 2
    assert "--split test" in result.err and "train, val" in result.err


@pytest.mark.usefixtures("no_clip")
def test_rows_are_captioned_without_clip(tmp_path: Path, run: Any, model: list[object], small_cache: Path) -> None:
    rows = np.concatenate([tables.embedding for tables in Cache.open(small_cache).tables()])
    np.save(tmp_path / "rows.npy", rows)
    found = [json.loads(line) for line in run("caption", tmp_path / "rows.npy", *model, "--jsonl").out.splitlines()]
    assert [entry["input"] for entry in found] == [f"{tmp_path}/rows.npy[{i}]" for i in range(17)]
    cached = json.loads(run("caption", small_cache, *model, "--json").out)
    assert [entry["caption"] for entry in found] == [entry["caption"] for entry in cached]
    np.save(tmp_path / "row.npy", rows[4])
    assert run("caption", tmp_path / "row.npy", *model, "--jsonl").out == json.dumps(
        {"input": f"{tmp_path}/row.npy[0]", "caption": cached[4]["caption"]}
    ) + "\n"  # fmt: skip


@pytest.mark.usefixtures("no_clip")
def test_a_cache_of_two_scales_is_captioned_from_the_true_values(
    tmp_path: Path, run: Any, model: list[object], small_cache: Path
) -> None:
    first, second = (tables.embedding.astype(np.float32) for tables in Cache.open(small_cache).tables())
    np.save(tmp_path / "rows.npy", np.concatenate([first * 8, second]))
    inputs = (small_cache, tmp_path / "rows.npy", copy_scaled(small_cache, tmp_path, 8, 1))
    small, rows, scaled = (
        [entry["caption"] for entry in json.loads(run("caption", one, *model, "--json").out)] for one in inputs
    )
    assert len(scaled) == 17
    assert scaled == rows
    assert scaled != small


@pytest.mark.usefixtures("no_clip")
def test_rows_of_archives_and_pickles_are_captioned_under_their_names(
    tmp_path: Path, run: Any, model: list[object], small_cache: Path
) -> None:
    rows = np.concatenate([tables.embedding for tables in Cache.open(small_cache).tables()])
    expected = [entry["caption"] for entry in json.loads(run("caption", small_cache, *model, "--json").out)]
    names = [f"dog/{i}.jpg" for i in range(16, -1, -1)]

    def captions(file: Path, *more: Path) -> list[tuple[str, str]]:
        result = run("caption", file, *more, *model, "--batch-size", 5, "--json")
        assert (result.status, result.err) == (0, "")
        return [(entry["input"], entry["caption"]) for entry in json.loads(result.out)]

    np.savez(tmp_path / "named.npz", other=rows[::-1], embeddings=rows, image=np.array(names))
    assert captions(tmp_path / "named.npz") == list(zip(names, expected, strict=True))
    np.savez_compressed(tmp_path / "rows.npz", features=rows)
    (tmp_path / "rows.npz").rename(tmp_path / "rows.NPZ")
    unnamed = [(f"{tmp_path}/rows.NPZ[{i}]", caption) for i, caption in enumerate(expected)]
    assert captions(tmp_path / "rows.NPZ") == unnamed
    np.savez(tmp_path / "row.npz", features=rows[4], image=np.array(names[:16]))  # as many names as numbers in the row
    assert captions(tmp_path / "row.npz") == [(f"{tmp_path}/row.npz[0]", expected[4])]
    # A row for each caption, and two captions of the first image: one row is captioned for each image.
    entries = [{"image_id": names[i], "caption": "words", "clip_embedding": i} for i in (0, 0, *range(1, 17))]
    content = {"clip_embedding": torch.from_numpy(rows), "captions": entries}
    (tmp_path / "train.pkl").write_bytes(pickle.dumps(content))
    assert captions(tmp_path / "train.pkl") == list(zip(names, expected, strict=True))
    (tmp_path / "dataset.pickle").write_bytes(
        pickle.dumps([(name, torch.from_numpy(row[None]), "words") for name, row in zip(names, rows, strict=True)])
    )
    assert captions(tmp_path / "dataset.pickle", tmp_path / "row.npz") == [
        *zip(names, expected, strict=True),
        (f"{tmp_path}/row.npz[0]", expected[4]),
    ]


def test_several_captions_of_each_input_come_best_first(run: Any, model: list[object], small_cache: Path) -> None:
    options = [*model, "--split", "val", "--decode", "beam", "--beams", 4, "-n", 3]
    found = json.loads(run("caption", small_cache, *options, "--json").out)
    assert all(set(entry) == {"input", "captions"} and len(entry["captions"]) == 3 for entry in found)
    best = json.loads(
        run("caption", small_cache, *model, "--split", "val", "--decode", "beam", "--beams", 4, "--json").out
    )
    assert [entry["captions"][0] for entry in found] == [entry["caption"] for entry in best]
    table = list(csv.reader(io.StringIO(run("caption", small_cache, *options, "--csv").out)))
    assert table[0] == ["input", "caption", "error"]
    assert table[1:] == [[entry["input"], caption, ""] for entry in found for caption in entry["captions"]]


def test_captions_go_to_a_file(tmp_path: Path, run: Any, model: list[object], small_cache: Path) -> None:
    result = run("caption", small_cache, *model, "--json", "-o", tmp_path / "out.json")
    assert result.status == 0
    assert result.out == ""
    assert len(json.loads((tmp_path / "out.json").read_text())) == 17


def test_a_damaged_image_is_skipped_and_the_others_are_captioned(
    tmp_path: Path, run: Any, model: list[object], small_cache: Path
) -> None:
    folder = tmp_path / "images"
    shutil.copytree(small_cache.parent / "coco/val2017", folder)
    (folder / "000000000115.jpg").write_text("no image")
    result = run("caption", folder, *model, "--json", "--batch-size", 2)
    assert result.status == 0
    found = json.loads(result.out)
    assert [(Path(entry["input"]).stem[-3:], "error" in entry) for entry in found] == [
        *[("113", False), ("114", False), ("115", True), ("116", False), ("117", False)]
    ]
    reason = found[2]["error"]
    assert f"warning: {folder}/000000000115.jpg skipped: {reason}\n" in result.err
    lines = run("caption", folder, *model, "--jsonl", "-o", tmp_path / "captions.jsonl")
    assert lines.status == 0
    assert list(map(json.loads, (tmp_path / "captions.jsonl").read_text().splitlines())) == found
    table = list(csv.reader(io.StringIO(run("caption", folder, *model, "--csv").out)))
    assert table == [
        ["input", "caption", "error"],
        *([entry["input"], entry.get("caption", ""), entry.get("error", "")] for entry in found),
    ]
    for name, text in (("a.json", result.out), ("a.csv", run("caption", folder, *model, "--csv").out)):
        (tmp_path / name).write_text(text)
        (predicted,) = read_predictions(tmp_path / name)
        assert predicted.captions == {entry["input"]: entry["caption"] for entry in found if "caption" in entry}
    assert run("caption", folder, *model, "-o", tmp_path / "captions.jsonl").status == 0  # it may be replaced


def test_a_run_knows_how_many_inputs_it_has(small_cache: Path, tmp_path: Path) -> None:
    images = small_cache.parent / "coco/val2017"
    np.save(tmp_path / "rows.npy", np.ones((3, 8), np.float32))
    np.save(tmp_path / "row.npy", np.ones(8, np.float32))
    np.savez(tmp_path / "rows.npz", embedding=np.ones((2, 8), np.float32))
    assert Inputs([images, tmp_path / "rows.npy", tmp_path / "row.npy", small_cache]).count() == 5 + 3 + 1 + 17
    assert Inputs([small_cache], split="val").count() == 5
    assert Inputs([images, tmp_path / "rows.npz"]).count() is None


def test_the_progress_of_captioning_has_a_total_over_all_models(
    run: Any, model: list[object], small_cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(progress, "LINE_EVERY", 0.0)
    np.save(tmp_path / "rows.npy", next(Cache.open(small_cache).tables()).embedding[:4])
    said = run("caption", tmp_path / "rows.npy", *model, "-o", tmp_path / "c.jsonl").err.splitlines()
    assert [line.split(" inputs")[0] for line in said] == [f"captioning {number}/4" for number in range(1, 5)]
    assert all(" left" in line for line in said)


def test_a_run_without_a_readable_image_is_an_error(tmp_path: Path, run: Any, model: list[object]) -> None:
    (tmp_path / "x.jpg").write_text("no image")
    result = run("caption", tmp_path / "x.jpg", *model, "--json")
    assert result.status == 2
    assert "none of 1 image" in result.err.splitlines()[-1]
    assert [entry["input"] for entry in json.loads(result.out) if entry["error"]] == [str(tmp_path / "x.jpg")]


def test_an_encoder_whose_weights_changed_is_refused(
    tmp_path: Path, run: Any, tokenizer_folder: Path, lm_folder: Path
) -> None:
    coco = make_coco(tmp_path / "coco", train=4)
    (tmp_path / "clip").mkdir()
    models = small_models(make_clip(tmp_path / "clip"), tokenizer_folder)
    run("precompute", coco, "-o", tmp_path / "c.h5", *models)
    run("train", tmp_path / "c.h5", "--lm", lm_folder, "-o", tmp_path / "run", "--epochs", 1, "--device", "cpu")
    image = coco / "val2017/000000000105.jpg"
    options = ["--model", tmp_path / "run", "--device", "cpu"]
    caption = run("caption", image, *options).out
    (tmp_path / "clip").rename(tmp_path / "moved")
    result = run("caption", image, *options)
    assert result.status == 2
    assert f"{tmp_path}/clip" in result.err and "--pretrained" in result.err
    assert run("caption", image, *options, "--pretrained", tmp_path / "moved").out == caption
    (tmp_path / "clip").mkdir()
    make_clip(tmp_path / "clip", seed=1)
    result = run("caption", image, *options)
    assert result.status == 2
    assert str(tmp_path / "clip") in result.err and "--pretrained" in result.err


def test_a_cache_of_another_encoder_is_refused(
    tmp_path: Path, run: Any, model: list[object], tokenizer_folder: Path
) -> None:
    coco = make_coco(tmp_path / "coco", train=4)
    (tmp_path / "clip").mkdir()
    run("precompute", coco, "-o", tmp_path / "c.h5", *small_models(make_clip(tmp_path / "clip", 7), tokenizer_folder))
    result = run("caption", tmp_path / "c.h5", *model)
    assert result.status == 2
    assert str(tmp_path / "c.h5") in result.err


class RunsCode:
    """Creates a folder if Python's own reader of pickles reads it."""

    def __reduce__(self) -> Any:
        return os.mkdir, ("ran",)


def save_archives_and_pickles() -> None:
    """Save files of embeddings that cannot be captioned into the current folder."""
    names, nan = np.array(["a.jpg", "b.jpg"]), np.array([[0.0] * 16, [np.nan] * 16])
    wide = np.zeros((2, 5), dtype=np.float32)
    Path("bad.npz").write_text("no numbers")
    np.savez_compressed("damaged.npz", embedding=np.random.default_rng(0).normal(size=(9, 16)))
    damaged = bytearray(Path("damaged.npz").read_bytes())
    damaged[100:400] = bytes(300)
    Path("damaged.npz").write_bytes(damaged)
    np.savez("unknown.npz", x=wide)
    np.savez("text.npz", embedding=names)
    np.savez("wide.npz", embedding=wide)
    np.savez("scalar.npz", embedding=np.float32(3), image="a.jpg")
    np.savez("none.npz", embedding=np.zeros((0, 16)))
    np.savez("nan.npz", embedding=nan, image=names)
    np.savez("large.npz", embedding=np.full((2, 16), 1e300))
    np.savez("twice.npz", embedding=np.zeros((2, 16)), image=names[[0, 0]])
    Path("bad.pkl").write_text("no pickle")
    for name, rows in (("wide.pkl", wide), ("nan.pkl", nan)):
        Path(name).write_bytes(pickle.dumps([(f"{'ab'[i]}.jpg", row, "words") for i, row in enumerate(rows)]))
    Path("code.pkl").write_bytes(pickle.dumps(RunsCode()))


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["nowhere.jpg"], ["nowhere.jpg does not exist"]),
        (["no*.png"], ["no*.png"]),
        (["empty"], ["empty", ".jpg"]),
        (["bad.npy"], ["bad.npy"]),
        (["objects.npy"], ["objects.npy"]),
        (["text.npy"], ["text.npy", "<U1"]),
        (["wide.npy"], ["wide.npy", "(2, 5)", "(n, 16)"]),
        (["scalar.npy"], ["scalar.npy", "()"]),
        (["none.npy"], ["none.npy", "(0, 16)"]),
        (["nan.npy"], ["nan.npy", "row 1"]),
        (["zip.npy"], ["zip.npy", "no header of numpy"]),
        (["bad.npz"], ["bad.npz"]),
        (["damaged.npz"], ["damaged.npz"]),
        (["unknown.npz"], ["unknown.npz", "embeddings", "it has x"]),
        (["text.npz"], ["text.npz", "<U5"]),
        (["wide.npz"], ["wide.npz", "(2, 5)", "(n, 16)"]),
        (["scalar.npz"], ["scalar.npz", "()"]),
        (["none.npz"], ["none.npz", "(0, 16)"]),
        (["nan.npz"], ["nan.npz: b.jpg holds values that are not finite"]),
        (["large.npz"], ["large.npz: row 0 holds values that are not finite"]),
        (["twice.npz"], ["twice.npz", "a.jpg more than once"]),
        (["bad.pkl"], ["bad.pkl"]),
        (["wide.pkl"], ["wide.pkl", "(2, 5)", "(n, 16)"]),
        (["nan.pkl"], ["nan.pkl: b.jpg holds values that are not finite"]),
        (["code.pkl"], ["code.pkl names posix.mkdir", "could run code"]),
        (["wide.pkl", "--split", "val"], ["--split val", "wide.pkl"]),
        (["wide.pkl", "--save-images", "out"], ["--save-images", "wide.pkl"]),
        (["wide.pkl", "-o", "wide.pkl"], ["--output wide.pkl"]),
        (["wide.npy", "-o", "wide.npy"], ["--output wide.npy"]),
        (["wide.npy", "-o", "no/such/folder.csv"], ["no/such/folder.csv", "--output"]),
        (["wide.npy", "-o", "empty"], ["empty", "--output"]),
        (["bad.h5"], ["bad.h5"]),
        (["empty", "--split", "val"], ["--split val", "empty"]),
        (["wide.npy", "--split", "all"], ["--split all", "train, val, test"]),
        (["wide.npy", "--json", "--csv"], ["--json and --csv"]),
        (["wide.npy", "--csv", "-o", "x.jsonl"], ["x.jsonl", "--csv"]),
        (["wide.npy", "--decode", "guess"], ["--decode guess", "greedy, beam, sample"]),
        (["wide.npy", "-n", "2"], ["2", "--decode"]),
        (["wide.npy", "--model", "no/model"], ["no/model", "clipcap-train"]),
        (["wide.npy", "--model", "empty"], ["empty"]),
        (["wide.npy", "--device", "abacus"], ["--device abacus"]),
        (["wide.npy", "--normalize"], ["--normalize"]),
    ],
)
def test_errors_are_one_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    run: Any,
    model: list[object],
    arguments: list[str],
    parts: list[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    Path("bad.npy").write_text("no numbers")
    Path("bad.h5").write_text("no cache")
    np.save("objects.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    np.save("text.npy", np.array(["a", "b"]))
    np.save("wide.npy", np.zeros((2, 5), dtype=np.float32))
    np.save("scalar.npy", np.float32(3))
    np.save("nan.npy", np.array([[0.0] * 16, [np.nan] * 16]))
    np.save("none.npy", np.zeros((0, 16), dtype=np.float32))
    np.savez("zip.npz", x=np.zeros(3))
    Path("zip.npz").rename("zip.npy")
    save_archives_and_pickles()
    result = run("caption", *model, *arguments)
    assert result.status == 2
    assert all(part in result.err for part in parts), result.err
    assert len(result.err.splitlines()) == 1
    assert not Path("ran").exists()


@pytest.mark.parametrize(
    ("file", "change", "value"),
    [
        ("config.json", lambda data: b"{", "config.json"),
        ("config.json", lambda data: b"{}", "config.json"),
        ("config.json", lambda data: data.replace(b'"format_version": 1', b'"format_version": 2'), "version 2"),
        ("config.json", lambda data: data.replace(b'"prefix_length": 10', b'"prefix_length": 11'), "model.safetensors"),
        ("config.json", lambda data: data.replace(b'"prefix_length": 10', b'"prefix_length": 10.5'), "config.json"),
        ("config.json", lambda data: data.replace(b'"n_head": 4', b'"n_head": 3'), "config.json"),
        ("config.json", lambda data: data.replace(b'"n_layer": 2', b'"n_layer": "x"'), "config.json"),
        ("config.json", lambda data: data.replace(b'"width": 16', b'"width": 7'), "width"),
        ("config.json", lambda data: data.replace(b'"mlp"', b'"zzz"'), "zzz"),
        ("model.safetensors", lambda data: data[:1000], "model.safetensors"),
        ("tokenizer/tokenizer.json", lambda data: b"{}", "tokenizer"),
    ],
)
def test_the_error_of_a_damaged_checkpoint_names_it(
    tmp_path: Path, run: Any, trained: Path, small_cache: Path, file: str, change: Any, value: str
) -> None:
    shutil.copytree(trained / "best", tmp_path / "best")
    path = tmp_path / "best" / file
    path.write_bytes(change(path.read_bytes()))
    result = run("caption", small_cache, "--model", tmp_path / "best", "--device", "cpu")
    assert result.status == 2
    assert value in result.err.splitlines()[-1]
    assert "Traceback" not in result.err


def test_a_checkpoint_that_lost_its_language_model_is_refused(
    tmp_path: Path, run: Any, trained: Path, small_cache: Path
) -> None:
    shutil.copytree(trained / "best", tmp_path / "best")
    file = tmp_path / "best/model.safetensors"
    save_file({name: t for name, t in load_file(file).items() if name.startswith("clip_project.")}, file)
    result = run("caption", small_cache, "--model", tmp_path / "best", "--device", "cpu")
    assert result.status == 2
    assert "gpt.transformer.h.0.attn.c_attn.bias" in result.err


def test_a_checkpoint_without_a_tokenizer_is_refused(
    tmp_path: Path, run: Any, trained: Path, small_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(trained / "best", tmp_path / "best")
    shutil.rmtree(tmp_path / "best/tokenizer")
    monkeypatch.chdir(tmp_path)
    result = run("caption", small_cache, "--model", "best", "--device", "cpu")
    assert result.status == 2
    assert "best" in result.err and "tokenizer/" in result.err


def test_a_checkpoint_that_a_crash_set_aside_is_found(
    tmp_path: Path, run: Any, trained: Path, small_cache: Path
) -> None:
    shutil.copytree(trained, tmp_path / "run")
    options = ["--split", "val", "--device", "cpu"]
    expected = run("caption", small_cache, "--model", tmp_path / "run/best", *options)
    (tmp_path / "run/best").rename(tmp_path / "run/.best.old")
    for model in ("run", "run/best"):
        assert run("caption", small_cache, "--model", tmp_path / model, *options).out == expected.out
        assert run("inspect", tmp_path / model).status == 0
    assert (tmp_path / "run/.best.old").exists()  # a run may be using it, so it was read where it is


def test_an_encoder_with_other_preprocessing_is_refused(
    tmp_path: Path, run: Any, model: list[object], clip_folder: Path, small_cache: Path
) -> None:
    shutil.copytree(clip_folder, tmp_path / "clip")
    config = json.loads((tmp_path / "clip/open_clip_config.json").read_text())
    config["preprocess_cfg"] = {"resize_mode": "squash"}
    (tmp_path / "clip/open_clip_config.json").write_text(json.dumps(config))
    image = small_cache.parent / "coco/val2017/000000000113.jpg"
    result = run("caption", image, *model, "--pretrained", tmp_path / "clip")
    assert result.status == 2
    assert "preprocess" in result.err


@pytest.mark.slow
def test_a_closed_stdout_is_no_error(trained: Path, small_cache: Path) -> None:
    process = spawn("caption", small_cache, "--model", trained, "--device", "cpu")
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    with process.stderr as err:
        assert err.read() == ""
    assert process.wait() == 0


def test_a_file_name_that_is_not_utf_8_is_written_with_question_marks(
    tmp_path: Path, run: Any, model: list[object], small_cache: Path
) -> None:
    name = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.jpg")
    shutil.copy(small_cache.parent / "coco/val2017/000000000113.jpg", name)
    result = run("caption", tmp_path, *model, "--json", "-o", tmp_path / "out.json")
    assert result.status == 0, result.err
    assert [entry["input"] for entry in json.loads((tmp_path / "out.json").read_text())] == [f"{tmp_path}/caf?.jpg"]


def test_an_image_that_cannot_be_cropped_does_not_end_the_run(
    tmp_path: Path, run: Any, model: list[object], small_cache: Path
) -> None:
    good = small_cache.parent / "coco/val2017/000000000113.jpg"
    shutil.copy(good, tmp_path / "a.jpg")
    Image.new("RGB", (4000, 2)).save(tmp_path / "thin.png")
    (tmp_path / ".hidden.jpg").write_bytes(b"not looked at")
    result = run("caption", tmp_path, *model, "--jsonl")
    assert result.status == 0
    found = [json.loads(line) for line in result.out.splitlines()]
    assert [(entry["input"], "caption" in entry) for entry in found] == [
        (str(tmp_path / "a.jpg"), True),
        (str(tmp_path / "thin.png"), False),
    ]
    assert f"{tmp_path}/thin.png skipped: 4,000 x 2" in result.err
    assert result.err.splitlines()[1:] == ["warning: 1 input of 2 skipped"]


def test_options_of_one_strategy_choose_it(run: Any, model: list[object], small_cache: Path) -> None:
    def captions(*options: object) -> str:
        result = run("caption", small_cache, *model, "--split", "val", *options)
        assert result.status == 0, result.err
        return str(result.out)

    assert captions("--beams", 4, "-n", 2) == captions("--decode", "beam", "--beams", 4, "-n", 2)
    sampled = captions("--decode", "sample", "--temperature", 5, "--max-tokens", 5)
    assert captions("--temperature", 5, "--max-tokens", 5) == sampled != captions("--max-tokens", 5)
    for options in (["--beams", 3, "--top-k", 2], ["--decode", "greedy", "--beams", 5]):
        result = run("caption", small_cache, *model, *options)
        assert result.status == 2
        assert "--beams" in result.err


@pytest.mark.parametrize("ending", ["json", "jsonl", "csv", "JSON"])
def test_the_ending_of_the_output_chooses_the_format(
    tmp_path: Path, run: Any, model: list[object], small_cache: Path, ending: str
) -> None:
    options = [small_cache, *model, "--split", "val"]
    assert run("caption", *options, "-o", tmp_path / f"x.{ending}").status == 0
    assert (tmp_path / f"x.{ending}").read_text() == run("caption", *options, f"--{ending.lower()}").out
    assert run("caption", *options, f"--{ending.lower()}", "-o", tmp_path / f"x.{ending}").status == 0
    assert run("caption", *options, "--table", "-o", tmp_path / f"y.{ending}").status == 2


def test_one_call_captions_inputs_with_several_models(
    tmp_path: Path, trained: Path, small_cache: Path, lm_folder: Path
) -> None:
    folder = tmp_path / "images"
    shutil.copytree(small_cache.parent / "coco/val2017", folder)
    (folder / "000000000115.jpg").write_text("no image")
    files = sorted(folder.iterdir())
    settings = CaptionerSettings(device="cpu", batch_size=2)
    results = list(caption(folder, [trained / "best", trained / "last"], settings))
    assert [(found.model.name, found.number, found.image) for found in results] == [
        (name, number, file) for name in ("best", "last") for number, file in enumerate(files)
    ]
    one = Captioner.from_checkpoint(trained / "best", settings)
    assert [found.captions for found in results[:5]] == [
        [one(file)] if number != 2 else [] for number, file in enumerate(files)
    ]
    assert [found.reason is None for found in results] == [True, True, False, True, True] * 2
    assert list(caption(folder, trained, settings, start=1)) == [
        replace(found, model=trained) for found in results[1:5]
    ]
    with pytest.raises(CheckpointError):
        caption(folder, tmp_path)  # before anything is loaded or captioned
    with pytest.raises(UsageError, match="decode"):
        caption(folder, trained, decode="guess")
