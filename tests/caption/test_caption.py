"""`clipcap-caption`: inputs of every kind, outputs of every format, in order, with CLIP loaded only for pictures."""

import csv
import io
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from clipcap.caption import Captioner
from clipcap.data.cache.index import Cache
from small_world import make_clip, make_coco, small_models, spawn


@pytest.fixture
def model(trained: Path) -> list[object]:
    return ["--model", trained / "best", "--device", "cpu"]


@pytest.fixture
def no_clip(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(open_clip, "create_model", lambda *_, **__: pytest.fail("CLIP was loaded"))


def test_one_picture_is_its_caption_alone(run: Any, model: list[object], trained: Path, small_cache: Path) -> None:
    picture = small_cache.parent / "coco/val2017/000000000113.jpg"
    result = run("caption", picture, *model)
    assert result.status == 0
    assert result.out == Captioner.from_checkpoint(trained, device="cpu")(picture) + "\n"
    assert result.err == ""


def test_files_and_folders_in_the_order_given(run: Any, model: list[object], small_cache: Path) -> None:
    coco = small_cache.parent / "coco"
    last, folder = coco / "val2017/000000000117.jpg", coco / "train2017"
    result = run("caption", last, folder, *model, "--batch-size", 5, "--json")
    assert result.status == 0
    found = json.loads(result.out)
    assert [entry["input"] for entry in found] == [str(last), *map(str, sorted(folder.iterdir()))]
    assert all(set(entry) == {"input", "caption"} and entry["caption"] for entry in found)
    plain = run("caption", last, folder, *model)
    assert plain.out.splitlines() == [f"{entry['input']}: {entry['caption']}" for entry in found]


def test_patterns_and_lists_on_stdin(
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
    assert json.loads(result.out) == everything[:2]
    assert result.err == f"warning: {tmp_path}/gone.jpg skipped: there is no such file\n"
    give("")
    result = run("caption", "-", *model)
    assert (result.status, result.err) == (2, "clipcap-caption: nothing to caption: the list on stdin is empty\n")


def test_a_folder_is_decoded_by_several_processes_in_order(
    run: Any, model: list[object], small_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = small_cache.parent / "coco"
    expected = run("caption", folder, *model, "--batch-size", 2)
    assert len(expected.out.splitlines()) == 17
    started: list[int] = []
    loader = torch.utils.data.DataLoader

    def count(*arguments: Any, **options: Any) -> Any:
        started.append(options["num_workers"])
        return loader(*arguments, **options)

    monkeypatch.setattr("torch.utils.data.DataLoader", count)
    monkeypatch.setattr("clipcap.caption.inputs.choose_workers", lambda: 3)
    assert run("caption", folder, *model, "--batch-size", 2).out == expected.out
    assert run("caption", folder / "val2017", *model).status == 0
    assert started == [3, 0]  # none for a single batch


def test_a_table_is_drawn_as_captions_come(tmp_path: Path, run: Any, model: list[object], small_cache: Path) -> None:
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
def test_a_cache_and_its_splits_without_clip(run: Any, model: list[object], small_cache: Path) -> None:
    everything = json.loads(run("caption", small_cache, *model, "--json", "--batch-size", 3).out)
    paths = [path for tables in Cache.open(small_cache).tables() for path in tables.path]
    assert [entry["input"] for entry in everything] == paths
    val = json.loads(run("caption", small_cache, *model, "--split", "val", "--json").out)
    assert val == [entry for entry in everything if entry["input"].startswith("val2017/")]
    result = run("caption", small_cache, *model, "--split", "test")
    assert result.status == 2
    assert result.err.endswith("cache.h5 has no pictures of --split test; it has train, val\n")


@pytest.mark.usefixtures("no_clip")
def test_rows_without_clip(tmp_path: Path, run: Any, model: list[object], small_cache: Path) -> None:
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


def test_several_captions_of_each(run: Any, model: list[object], small_cache: Path) -> None:
    options = [*model, "--split", "val", "--decode", "beam", "--beams", 4, "-n", 3]
    found = json.loads(run("caption", small_cache, *options, "--json").out)
    assert all(set(entry) == {"input", "captions"} and len(entry["captions"]) == 3 for entry in found)
    best = json.loads(
        run("caption", small_cache, *model, "--split", "val", "--decode", "beam", "--beams", 4, "--json").out
    )
    assert [entry["captions"][0] for entry in found] == [entry["caption"] for entry in best]
    table = list(csv.reader(io.StringIO(run("caption", small_cache, *options, "--csv").out)))
    assert table[0] == ["input", "caption"]
    assert table[1:] == [[entry["input"], caption] for entry in found for caption in entry["captions"]]


def test_a_file_for_the_captions(tmp_path: Path, run: Any, model: list[object], small_cache: Path) -> None:
    result = run("caption", small_cache, *model, "--json", "-o", tmp_path / "out.json")
    assert result.status == 0
    assert result.out == ""
    assert len(json.loads((tmp_path / "out.json").read_text())) == 17


def test_a_bad_picture_is_skipped_and_the_others_captioned(
    tmp_path: Path, run: Any, model: list[object], small_cache: Path
) -> None:
    folder = tmp_path / "pictures"
    shutil.copytree(small_cache.parent / "coco/val2017", folder)
    (folder / "000000000115.jpg").write_text("no picture")
    result = run("caption", folder, *model, "--json", "--batch-size", 2)
    assert result.status == 0
    assert [Path(entry["input"]).stem[-3:] for entry in json.loads(result.out)] == ["113", "114", "116", "117"]
    assert f"warning: {folder}/000000000115.jpg skipped: not a picture of a known format" in result.err


def test_nothing_readable_is_an_error(tmp_path: Path, run: Any, model: list[object]) -> None:
    (tmp_path / "x.jpg").write_text("no picture")
    result = run("caption", tmp_path / "x.jpg", *model, "--json")
    assert result.status == 2
    assert result.err.splitlines()[-1] == "clipcap-caption: none of 1 picture could be read; see the reasons above"
    assert json.loads(result.out) == []


def test_an_encoder_that_changed_is_refused(tmp_path: Path, run: Any, tokenizer_folder: Path, lm_folder: Path) -> None:
    coco = make_coco(tmp_path / "coco", train=4)
    (tmp_path / "clip").mkdir()
    models = small_models(make_clip(tmp_path / "clip"), tokenizer_folder)
    run("precompute", coco, "-o", tmp_path / "c.h5", *models)
    run("train", tmp_path / "c.h5", "--lm", lm_folder, "-o", tmp_path / "run", "--epochs", 1, "--device", "cpu")
    picture = coco / "val2017/000000000105.jpg"
    options = ["--model", tmp_path / "run", "--device", "cpu"]
    caption = run("caption", picture, *options).out
    (tmp_path / "clip").rename(tmp_path / "moved")
    result = run("caption", picture, *options)
    assert result.status == 2
    assert f"no longer at {tmp_path}/clip; say where they are with --pretrained" in result.err
    assert run("caption", picture, *options, "--pretrained", tmp_path / "moved").out == caption
    (tmp_path / "clip").mkdir()
    make_clip(tmp_path / "clip", seed=1)
    result = run("caption", picture, *options)
    assert result.status == 2
    assert "is not the encoder that this model was trained on" in result.err


def test_a_cache_of_another_encoder_is_refused(
    tmp_path: Path, run: Any, model: list[object], tokenizer_folder: Path
) -> None:
    coco = make_coco(tmp_path / "coco", train=4)
    (tmp_path / "clip").mkdir()
    run("precompute", coco, "-o", tmp_path / "c.h5", *small_models(make_clip(tmp_path / "clip", 7), tokenizer_folder))
    result = run("caption", tmp_path / "c.h5", *model)
    assert result.status == 2
    assert "this model was trained on embeddings of another encoder than those in" in result.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere.jpg"], "nowhere.jpg does not exist; give a picture, a folder, rows (.npy) or a cache (.h5)"),
        (["empty"], "empty holds no pictures"),
        (["bad.npy"], "bad.npy holds no rows of numbers"),
        (["objects.npy"], "objects.npy holds no rows of numbers"),
        (["text.npy"], "text.npy holds <U1, not rows of numbers"),
        (["wide.npy"], "wide.npy has the shape (2, 5); this model takes rows of 16 numbers, (n, 16)"),
        (["scalar.npy"], "scalar.npy has the shape (); this model takes rows"),
        (["none.npy"], "none.npy has the shape (0, 16); this model takes rows"),
        (["nan.npy"], "nan.npy: row 1 holds values that are not finite; leave it out"),
        (["zip.npy"], "zip.npy holds an archive, not rows of numbers"),
        (["wide.npy", "-o", "wide.npy"], "-o wide.npy is an input; give another name"),
        (["bad.h5"], "bad.h5 is not an HDF5 file"),
        (["empty", "--split", "val"], "--split val is for caches; empty is none"),
        (["wide.npy", "--json", "--csv"], "--json and --csv are two formats; give one"),
        (["wide.npy", "--decode", "guess"], "--decode guess is not known; use greedy, beam, sample"),
        (["wide.npy", "-n", "2"], "greedy decoding has one caption, not 2; use --decode beam or sample"),
        (["wide.npy", "--model", "no/model"], "there is no model at no/model; train one with: clipcap-precompute"),
        (["wide.npy", "--model", "empty"], "there is no model at empty"),
    ],
)
def test_errors_are_one_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    run: Any,
    model: list[object],
    arguments: list[str],
    message: str,
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
    result = run("caption", *model, *arguments)
    assert result.status == 2
    assert message in result.err.splitlines()[-1]
    assert len(result.err.splitlines()) == 1


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("config.json", lambda data: b"{", "is damaged"),
        ("config.json", lambda data: b"{}", "is not of a clipcap checkpoint"),
        (
            "config.json",
            lambda data: data.replace(b'"format_version": 1', b'"format_version": 2'),
            "a checkpoint of version 2, this program reads version 1",
        ),
        ("config.json", lambda data: data.replace(b'"prefix_length": 10', b'"prefix_length": 11'), "is damaged"),
        ("config.json", lambda data: data.replace(b'"prefix_length": 10', b'"prefix_length": 10.5'), "is damaged"),
        ("config.json", lambda data: data.replace(b'"n_head": 4', b'"n_head": 3'), "is damaged"),
        ("config.json", lambda data: data.replace(b'"n_layer": 2', b'"n_layer": "x"'), "is damaged"),
        ("config.json", lambda data: data.replace(b'"width": 16', b'"width": 7'), "different widths"),
        ("config.json", lambda data: data.replace(b'"mlp"', b'"zzz"'), "zzz is not known"),
        ("model.safetensors", lambda data: data[:1000], "is damaged"),
        ("tokenizer/tokenizer.json", lambda data: b"{}", "cannot be read"),
    ],
)
def test_a_broken_checkpoint_is_named(
    tmp_path: Path, run: Any, trained: Path, small_cache: Path, file: str, change: Any, message: str
) -> None:
    shutil.copytree(trained / "best", tmp_path / "best")
    path = tmp_path / "best" / file
    path.write_bytes(change(path.read_bytes()))
    result = run("caption", small_cache, "--model", tmp_path / "best", "--device", "cpu")
    assert result.status == 2
    assert message in result.err.splitlines()[-1]
    assert "Traceback" not in result.err


def test_a_tuned_model_without_its_language_model_is_refused(
    tmp_path: Path, run: Any, trained: Path, small_cache: Path
) -> None:
    shutil.copytree(trained / "best", tmp_path / "best")
    file = tmp_path / "best/model.safetensors"
    save_file({name: t for name, t in load_file(file).items() if name.startswith("clip_project.")}, file)
    result = run("caption", small_cache, "--model", tmp_path / "best", "--device", "cpu")
    assert result.status == 2
    assert "has other weights than its config.json says (as gpt.transformer.h.0.attn.c_attn.bias)" in result.err


def test_a_checkpoint_without_a_tokenizer_asks_nobody_else_for_one(
    tmp_path: Path, run: Any, trained: Path, small_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(trained / "best", tmp_path / "best")
    shutil.rmtree(tmp_path / "best/tokenizer")
    monkeypatch.chdir(tmp_path)
    result = run("caption", small_cache, "--model", "best", "--device", "cpu")
    assert result.status == 2
    assert result.err == "clipcap-caption: best has no tokenizer/; copy the whole folder that clipcap-train wrote\n"


def test_a_best_that_a_crash_set_aside_is_found(tmp_path: Path, run: Any, trained: Path, small_cache: Path) -> None:
    shutil.copytree(trained, tmp_path / "run")
    options = ["--split", "val", "--device", "cpu"]
    expected = run("caption", small_cache, "--model", tmp_path / "run/best", *options)
    (tmp_path / "run/best").rename(tmp_path / "run/.best.old")
    for model in ("run", "run/best"):
        assert run("caption", small_cache, "--model", tmp_path / model, *options).out == expected.out
        assert run("inspect", tmp_path / model).status == 0
    assert (tmp_path / "run/.best.old").exists()  # it was read where it lies: a run may be going on


def test_an_encoder_with_other_preprocessing_is_refused(
    tmp_path: Path, run: Any, model: list[object], clip_folder: Path, small_cache: Path
) -> None:
    shutil.copytree(clip_folder, tmp_path / "clip")
    config = json.loads((tmp_path / "clip/open_clip_config.json").read_text())
    config["preprocess_cfg"] = {"resize_mode": "squash"}
    (tmp_path / "clip/open_clip_config.json").write_text(json.dumps(config))
    picture = small_cache.parent / "coco/val2017/000000000113.jpg"
    result = run("caption", picture, *model, "--pretrained", tmp_path / "clip")
    assert result.status == 2
    assert "is not the encoder that this model was trained on (preprocess: " in result.err


@pytest.mark.slow
def test_a_reader_that_goes_away_is_no_error(trained: Path, small_cache: Path) -> None:
    process = spawn("caption", small_cache, "--model", trained, "--device", "cpu")
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    with process.stderr as err:
        assert err.read() == ""
    assert process.wait() == 0


def test_a_name_that_is_not_utf_8(tmp_path: Path, run: Any, model: list[object], small_cache: Path) -> None:
    name = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.jpg")
    shutil.copy(small_cache.parent / "coco/val2017/000000000113.jpg", name)
    result = run("caption", tmp_path, *model, "--json", "-o", tmp_path / "out.json")
    assert result.status == 0, result.err
    assert [entry["input"] for entry in json.loads((tmp_path / "out.json").read_text())] == [f"{tmp_path}/caf?.jpg"]


def test_an_odd_picture_does_not_end_a_folder(tmp_path: Path, run: Any, model: list[object], small_cache: Path) -> None:
    good = small_cache.parent / "coco/val2017/000000000113.jpg"
    shutil.copy(good, tmp_path / "a.jpg")
    Image.new("RGB", (4000, 2)).save(tmp_path / "thin.png")
    (tmp_path / ".hidden.jpg").write_bytes(b"not looked at")
    result = run("caption", tmp_path, *model, "--jsonl")
    assert result.status == 0
    assert [json.loads(line)["input"] for line in result.out.splitlines()] == [str(tmp_path / "a.jpg")]
    assert result.err == (
        f"warning: {tmp_path}/thin.png skipped: 4,000 x 2 pixels: too narrow to be cropped to a square\n"
    )


@pytest.mark.parametrize("name", ["cache-00001.h5", "photo.png", "best/config.json", "best/model.safetensors"])
def test_what_is_no_captions_is_never_written_over(tmp_path: Path, run: Any, trained: Path, name: str) -> None:
    shutil.copytree(trained / "best", tmp_path / "best")
    for other in ("cache-00001.h5", "photo.png"):
        (tmp_path / other).write_bytes(b"work")
    np.save(tmp_path / "rows.npy", np.zeros((2, 16), dtype=np.float32))
    before = (tmp_path / name).read_bytes()
    result = run("caption", tmp_path / "rows.npy", "--model", tmp_path / "best", "-o", tmp_path / name)
    assert result.status == 2
    assert "is there and does not look like captions; give another name, or delete it first" in result.err
    assert (tmp_path / name).read_bytes() == before


def test_captions_replace_older_ones_only_when_they_are_all_there(
    tmp_path: Path, run: Any, model: list[object]
) -> None:
    np.save(tmp_path / "good.npy", np.zeros((3, 16), dtype=np.float32))
    np.save(tmp_path / "bad.npy", np.full((2, 16), np.inf, dtype=np.float32))
    output = tmp_path / "captions.jsonl"
    output.write_text("precious\n")
    result = run("caption", tmp_path / "good.npy", tmp_path / "bad.npy", *model, "--jsonl", "-o", output)
    assert result.status == 2
    assert output.read_text() == "precious\n"
    kept = tmp_path / "captions.jsonl.partial"
    assert f"the captions so far are in {kept}\n" in result.err
    assert len(kept.read_text().splitlines()) == 3
    assert run("caption", tmp_path / "good.npy", *model, "--jsonl", "-o", output).status == 0
    assert len(output.read_text().splitlines()) == 3
    assert not kept.exists()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_full_disk_is_nothing_of_ours(tmp_path: Path, run: Any, model: list[object]) -> None:
    np.save(tmp_path / "rows.npy", np.zeros((2, 16), dtype=np.float32))
    result = run("caption", tmp_path / "rows.npy", *model, "-o", "/dev/full")
    assert result.status == 2
    assert result.err == "clipcap-caption: the disk is full: make room, then run the same command again\n"
