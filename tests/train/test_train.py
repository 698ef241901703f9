"""Stage 2 from the command line: what it writes, what it refuses, and that going on ends at the very same weights."""

import json
import math
import os
import re
import shutil
import signal
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from clipcap.data.cache.index import Cache
from clipcap.train import loop
from clipcap.train import validate as validation
from clipcap.train.corpus.captions import load_corpora
from clipcap.train.corpus.embeddings import ResidentEmbeddings
from clipcap.train.loop import Trainer
from clipcap.train.model.checkpoint import load_checkpoint
from plain import plain_batch
from small_world import Crash, crash_at, make_coco, make_lm, small_models

Options = list[object]


@pytest.fixture
def options(small_cache: Path, lm_folder: Path) -> Options:
    # 33 captions, 4 steps an epoch, 8 in all
    return [
        *(small_cache, "--lm", lm_folder, "--epochs", 2, "--batch-size", 9, "--lr", 1e-2),
        *("--device", "cpu", "--precision", "fp32"),
    ]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def metrics(folder: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        line.pop("captions_per_second", None)
    return lines


def assert_same_run(one: Path, other: Path) -> None:
    for name in ("best", "last"):
        first, second = weights(one / name), weights(other / name)
        assert set(first) == set(second)
        assert all(torch.equal(first[key], second[key]) for key in first)
    assert metrics(one) == metrics(other)


def test_what_a_run_leaves(tmp_path: Path, run: Any, options: Options, small_cache: Path) -> None:
    result = run("train", *options, "-o", tmp_path / "run")
    assert result.status == 0, result.err
    assert result.out == f"{tmp_path}/run/best\n"
    assert "33 captions of 12 images (validation: 15 captions); 2 x 4 steps of 9, warm-up 0, fp32 on cpu" in result.err
    assert sorted(path.relative_to(tmp_path / "run").as_posix() for path in (tmp_path / "run").rglob("*")) == [
        "best",
        "best/config.json",
        "best/model.safetensors",
        "best/tokenizer",
        "best/tokenizer/tokenizer.json",
        "best/tokenizer/tokenizer_config.json",
        "curves.png",
        "last",
        "last/config.json",
        "last/model.safetensors",
        "last/tokenizer",
        "last/tokenizer/tokenizer.json",
        "last/tokenizer/tokenizer_config.json",
        "last/training_state.json",
        "last/training_state.safetensors",
        "metrics.jsonl",
        "run.json",
        "train.log",
    ]
    log = (tmp_path / "run/train.log").read_text().splitlines()
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d training mapper .*", log[0])
    assert any("epoch 2: validation loss" in line for line in log)
    lines = metrics(tmp_path / "run")
    assert [(line["step"], line["epoch"], "val_loss" in line) for line in lines] == [
        (4, 1, False),
        (4, 1, True),
        (8, 2, False),
        (8, 2, True),
    ]
    assert lines[3]["val_loss"] < lines[1]["val_loss"]
    assert len(lines[3]["samples"]) == 3
    assert set(lines[3]["samples"][0]) == {"path", "caption", "reference"}
    config = json.loads((tmp_path / "run/best/config.json").read_text())
    assert config["format"] == "clipcap-checkpoint"
    sizes = {"embedding_width": 16, "lm_width": 32, "prefix_length": 10, "patches": 0}
    assert config["mapper"] == {"kind": "mlp", **sizes}
    assert config["encoder"]["width"] == 16
    assert config["training"]["lr"] == 0.01
    assert config["progress"] == {"step": 8, "epoch": 2, "best_val_loss": lines[3]["val_loss"]}


@pytest.mark.slow
def test_the_same_seed_is_the_same_run_and_another_is_not(tmp_path: Path, run: Any, options: Options) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        assert run("train", *options, "-o", tmp_path / name, "--seed", seed).status == 0
    assert_same_run(tmp_path / "a", tmp_path / "b")
    assert metrics(tmp_path / "a") != metrics(tmp_path / "c")


def test_tune_none_stores_the_mapper_only_and_leaves_the_language_model(
    tmp_path: Path, run: Any, options: Options, lm_folder: Path
) -> None:
    result = run("train", *options, "-o", tmp_path / "run", "--tune", "none")
    assert result.status == 0, result.err
    assert "of GPT-2 nothing" in result.err
    assert set(weights(tmp_path / "run/best")) == {
        f"clip_project.model.{layer}.{kind}" for layer in (0, 2) for kind in ("weight", "bias")
    }
    state = load_file(tmp_path / "run/last/training_state.safetensors")
    assert not any(".gpt." in name for name in state)  # no optimiser state for what is frozen
    # The checkpoint opens with the language model that it names ...
    picture = make_coco(tmp_path / "coco") / "val2017/000000000113.jpg"
    assert run("caption", picture, "--model", tmp_path / "run", "--device", "cpu").status == 0
    # ... and with no other of the same name.
    make_lm(tmp_path / "other", lm_folder, seed=5)
    config = json.loads((tmp_path / "run/best/config.json").read_text())
    config["language_model"]["name"] = str(tmp_path / "other")
    (tmp_path / "run/best/config.json").write_text(json.dumps(config))
    result = run("caption", picture, "--model", tmp_path / "run", "--device", "cpu")
    assert result.status == 2
    assert "was trained with another" in result.err


def test_tune_all_changes_and_stores_everything(tmp_path: Path, run: Any, options: Options, lm_folder: Path) -> None:
    assert run("train", *options, "-o", tmp_path / "run").status == 0
    trained, before = weights(tmp_path / "run/last"), load_file(lm_folder / "model.safetensors")
    for name, tensor in before.items():
        # Positions that no caption reaches have no gradient, and with weight decay 0 stay as they were.
        assert not torch.equal(trained[f"gpt.{name}"], tensor)
    assert set(trained) - {f"gpt.{name}" for name in before} == {
        f"clip_project.model.{layer}.{kind}" for layer in (0, 2) for kind in ("weight", "bias")
    }


@pytest.mark.slow
@pytest.mark.parametrize("step", range(1, 9))
def test_stopped_by_ctrl_c_after_any_step_it_goes_on_to_the_same_weights(
    tmp_path: Path, run: Any, options: Options, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    assert run("train", *options, "-o", tmp_path / "undisturbed").status == 0
    original = Trainer._step

    def interrupted(self: Trainer, captions: Any) -> Any:
        if self.state.step == step - 1:
            os.kill(os.getpid(), signal.SIGINT)
        return original(self, captions)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_step", interrupted)
        result = run("train", *options, "-o", tmp_path / "run")
    assert result.status == 130
    assert result.err.splitlines()[-1] == "clipcap-train: interrupted"
    assert "--resume" in result.err
    saved = json.loads((tmp_path / "run/last/training_state.json").read_text())
    assert saved["step"] == step
    result = run("train", *options, "-o", tmp_path / "run", "--resume")
    assert result.status == 0, result.err
    assert f"after step {step} of 8" in result.err
    assert_same_run(tmp_path / "undisturbed", tmp_path / "run")


@pytest.mark.slow
def test_a_crash_at_every_change_of_the_disk(
    tmp_path: Path, run: Any, options: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "SAVE_EVERY", 0.0)  # a checkpoint after every step
    assert run("train", *options, "-o", tmp_path / "undisturbed").status == 0
    crashes = 0
    for count in range(0, 1000, 7):
        with monkeypatch.context() as patch:
            crash_at(patch, count)
            try:
                run("train", *options, "-o", tmp_path / str(count))
                crashed = False
            except (Crash, AssertionError):
                crashed = True
        if not crashed:
            break
        crashes += 1
        result = run("train", *options, "-o", tmp_path / str(count), "--resume")
        assert result.status == 0, result.err
        assert_same_run(tmp_path / "undisturbed", tmp_path / str(count))
    assert crashes > 10


def test_resume_takes_the_settings_of_the_run_and_refuses_others(
    tmp_path: Path, run: Any, options: Options, small_cache: Path, lm_folder: Path
) -> None:
    assert run("train", *options, "-o", tmp_path / "run").status == 0
    before = weights(tmp_path / "run/last")
    result = run("train", small_cache, "-o", tmp_path / "run", "--resume", "--device", "cpu")
    assert result.status == 0
    assert "is finished: 2 epochs" in result.err
    result = run("train", small_cache, "-o", tmp_path / "run", "--resume", "--lr", 5e-3)
    assert result.status == 2
    assert "was started with --lr 0.01, not 0.005" in result.err
    after = weights(tmp_path / "run/last")
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_run_of_an_older_version_is_not_gone_on_with(tmp_path: Path, run: Any, options: Options) -> None:
    assert run("train", *options, "-o", tmp_path / "run", "--epochs", 1).status == 0
    file = tmp_path / "run/run.json"
    content = json.loads(file.read_text())
    del content["settings"]["sampling"]
    file.write_text(json.dumps(content))
    result = run("train", *options, "-o", tmp_path / "run", "--resume")
    assert result.status == 2
    assert "run.json is of an older version, with other steps; start again with --overwrite" in result.err


def test_a_folder_with_a_run_is_not_touched_unasked(tmp_path: Path, run: Any, options: Options) -> None:
    assert run("train", *options, "-o", tmp_path / "run").status == 0
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*")}
    result = run("train", *options, "-o", tmp_path / "run")
    assert result.status == 2
    assert "holds a run already (run.json); go on with it with --resume, replace it with --overwrite" in result.err
    assert run("train", *options, "-o", tmp_path / "run", "--resume", "--overwrite").status == 2
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*")} == before
    (tmp_path / "run/notes.txt").write_text("mine")
    assert run("train", *options, "-o", tmp_path / "run", "--overwrite", "--epochs", 1).status == 0
    assert [line["epoch"] for line in metrics(tmp_path / "run")] == [1, 1]
    assert (tmp_path / "run/notes.txt").read_text() == "mine"


def test_resume_of_nothing_begins(tmp_path: Path, run: Any, options: Options) -> None:
    result = run("train", *options, "-o", tmp_path / "run", "--resume")
    assert result.status == 0
    assert "holds no checkpoint yet; starting from the beginning" in result.err


def test_another_cache_is_refused_on_resume(
    tmp_path: Path, run: Any, options: Options, clip_folder: Path, tokenizer_folder: Path, lm_folder: Path
) -> None:
    assert run("train", *options, "-o", tmp_path / "run").status == 0
    make_coco(tmp_path / "coco", train=4)
    models = small_models(clip_folder, tokenizer_folder)
    assert run("precompute", tmp_path / "coco", "-o", tmp_path / "c.h5", *models).status == 0
    result = run("train", tmp_path / "c.h5", "-o", tmp_path / "run", "--resume")
    assert result.status == 2
    assert "another cache" in result.err


def test_without_val_the_newest_is_the_best(
    tmp_path: Path, run: Any, clip_folder: Path, tokenizer_folder: Path, lm_folder: Path
) -> None:
    coco = make_coco(tmp_path / "coco", train=4)
    (coco / "annotations/captions_val2017.json").unlink()
    models = small_models(clip_folder, tokenizer_folder)
    run("precompute", coco, "-o", tmp_path / "c.h5", *models, "--val-fraction", 0)
    result = run(
        "train", tmp_path / "c.h5", "--lm", lm_folder, "-o", tmp_path / "run", "--epochs", 2, "--device", "cpu"
    )
    assert result.status == 0, result.err
    assert "has no validation split" in result.err
    best, last = weights(tmp_path / "run/best"), weights(tmp_path / "run/last")
    assert all(torch.equal(best[name], last[name]) for name in best)


def test_a_language_model_without_a_tokenizer_takes_the_caches(
    tmp_path: Path, run: Any, small_cache: Path, lm_folder: Path
) -> None:
    bare = make_lm(tmp_path / "lm", lm_folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (bare / name).unlink()
    result = run("train", small_cache, "--lm", bare, "-o", tmp_path / "run", "--epochs", 1, "--device", "cpu")
    assert result.status == 0, result.err


@pytest.mark.slow
def test_another_tokenizer_is_told_and_the_captions_tokenised_again(
    shared: Path, tmp_path: Path, run: Any, small_cache: Path
) -> None:
    real = make_lm(tmp_path / "lm", shared / "data/gpt2")
    result = run("train", small_cache, "--lm", real, "-o", tmp_path / "run", "--epochs", 1, "--device", "cpu")
    assert result.status == 0, result.err
    assert "has another tokenizer than the cache" in result.err


def broken_lm(folder: Path, lm: Path, drop: str) -> Path:
    """A copy of a language model whose file lacks a tensor."""
    from safetensors.torch import save_file

    folder.mkdir()
    for file in lm.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    tensors = load_file(lm / "model.safetensors")
    tensors.pop(drop)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def test_a_language_model_with_a_weight_missing_is_refused(
    tmp_path: Path, run: Any, small_cache: Path, lm_folder: Path
) -> None:
    lm = broken_lm(tmp_path / "lm", lm_folder, "transformer.h.1.attn.c_attn.bias")
    result = run("train", small_cache, "--lm", lm, "-o", tmp_path / "run")
    assert result.status == 2
    assert "lacks 1 weights (as transformer.h.1.attn.c_attn.bias)" in result.err.splitlines()[-1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--tune", "some"], "--tune 'some'"),
        (["--mapper", "perceiver"], "--mapper perceiver"),
        (["--prefix-length", 63], "--prefix-length 63"),
        (["--precision", "fp8"], "--precision fp8"),
        (["--sampling", "word"], "--sampling word"),
        (["--lm", "no-such-model"], "the language model 'no-such-model' could not be had"),
        (["--lm", "/"], "holds no config.json"),
        (["--lr", 0], "--lr"),
        (["--device", "cuda:99"], "--device cuda:99: this machine"),
    ],
)
def test_errors_are_one_line_and_write_nothing(
    tmp_path: Path, run: Any, options: Options, arguments: list[Any], message: str
) -> None:
    result = run("train", *options, "-o", tmp_path / "run", *arguments)
    assert result.status == 2
    assert message in result.err.splitlines()[-1]
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "does not exist; make a cache with: clipcap-precompute"), (b"x", "is not an HDF5 file")],
)
def test_a_wrong_cache(tmp_path: Path, run: Any, content: bytes | None, message: str) -> None:
    if content is not None:
        (tmp_path / "cache.h5").write_bytes(content)
    result = run("train", tmp_path / "cache.h5", "-o", tmp_path / "run")
    assert result.status == 2
    assert message in result.err.splitlines()[-1]


def test_a_checkpoint_is_safetensors_json_and_tokenizer_and_no_pickle(
    tmp_path: Path, run: Any, options: Options
) -> None:
    assert run("train", *options, "-o", tmp_path / "run", "--epochs", 1).status == 0
    for file in (tmp_path / "run").rglob("*.safetensors"):
        with file.open("rb") as handle:
            (size,) = struct.unpack("<Q", handle.read(8))
            json.loads(handle.read(size))
    assert len({path.stat().st_mode for path in (tmp_path / "run").rglob("*") if path.is_file()}) == 1
    assert {path.suffix for path in (tmp_path / "run").rglob("*") if path.is_file()} == {
        ".json",
        ".jsonl",
        ".log",
        ".png",
        ".safetensors",
    }


def interrupt_in(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str) -> None:
    """Press Ctrl-C when a function is called for the first time."""
    original = getattr(owner, name)
    pressed = False

    def pressing(*arguments: Any, **options: Any) -> Any:
        nonlocal pressed
        if not pressed:
            pressed = True
            os.kill(os.getpid(), signal.SIGINT)
        return original(*arguments, **options)

    monkeypatch.setattr(owner, name, pressing)


@pytest.mark.slow
def test_ctrl_c_in_a_validation_stops_there_and_makes_it_again_on_resume(
    tmp_path: Path, run: Any, options: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run("train", *options, "-o", tmp_path / "undisturbed").status == 0
    with monkeypatch.context() as patch:
        interrupt_in(patch, loop, "validate")
        assert run("train", *options, "-o", tmp_path / "run").status == 130
    assert [line["step"] for line in metrics(tmp_path / "run")] == [4]
    assert not (tmp_path / "run/best").exists()
    assert run("train", *options, "-o", tmp_path / "run", "--resume").status == 0
    assert_same_run(tmp_path / "undisturbed", tmp_path / "run")


@pytest.mark.slow
def test_what_overwrite_took_away_does_not_come_back_on_resume(
    tmp_path: Path, run: Any, options: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run("train", *options, "-o", tmp_path / "undisturbed", "--seed", 3).status == 0
    assert run("train", *options, "-o", tmp_path / "run").status == 0
    (tmp_path / "run/last").rename(tmp_path / "run/.last.old")  # as a crash between two renames leaves it
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "run", lambda self: (_ for _ in ()).throw(Crash()))
        with pytest.raises(Crash):
            run("train", *options, "-o", tmp_path / "run", "--seed", 3, "--overwrite")
    result = run("train", *options, "-o", tmp_path / "run", "--seed", 3, "--resume")
    assert result.status == 0
    assert "starting from the beginning" in result.err
    assert_same_run(tmp_path / "undisturbed", tmp_path / "run")


def test_a_language_model_that_changed_is_refused_on_resume(
    tmp_path: Path, run: Any, small_cache: Path, lm_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lm = make_lm(tmp_path / "lm", lm_folder)
    options = [small_cache, "--lm", lm, "--tune", "none", "-o", tmp_path / "run", "--device", "cpu", "--batch-size", 9]
    with monkeypatch.context() as patch:
        interrupt_in(patch, Trainer, "_step")
        assert run("train", *options).status == 130
    make_lm(lm, lm_folder, seed=8)
    result = run("train", *options, "--resume")
    assert result.status == 2
    assert "is not the language model that" in result.err


def test_a_run_that_diverges_says_so_and_keeps_what_was_good(
    tmp_path: Path, run: Any, options: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    step, read = Trainer._step, ResidentEmbeddings.__getitem__

    def poisoned(self: Trainer, captions: Any) -> Any:
        if self.state.step == 5:
            monkeypatch.setattr(ResidentEmbeddings, "__getitem__", lambda self, images: read(self, images) * math.inf)
        return step(self, captions)

    monkeypatch.setattr(Trainer, "_step", poisoned)
    result = run("train", *options, "-o", tmp_path / "run")
    assert result.status == 2
    assert "the loss is nan" in result.err.splitlines()[-1]
    assert "at step 6: training has diverged; start again with a lower --lr (it was 0.01)" in result.err
    for name in ("best", "last"):
        assert all(tensor.isfinite().all() for tensor in weights(tmp_path / "run" / name).values())
    assert [line["step"] for line in metrics(tmp_path / "run")] == [4, 4]


def test_a_folders_own_way_of_generating_does_not_change_what_greedy_means(
    tmp_path: Path, run: Any, options: Options, lm_folder: Path, small_cache: Path
) -> None:
    odd = make_lm(tmp_path / "odd", lm_folder)
    (odd / "generation_config.json").write_text('{"repetition_penalty": 5.0, "no_repeat_ngram_size": 1}')
    said = []
    for name, lm in (("a", lm_folder), ("b", odd)):
        assert run("train", *options, "--lm", lm, "-o", tmp_path / name).status == 0
        said.append([line["samples"] for line in metrics(tmp_path / name) if "samples" in line])
    assert said[0] == said[1]


def test_an_output_layer_of_its_own_is_refused(tmp_path: Path, run: Any, options: Options, lm_folder: Path) -> None:
    lm = make_lm(tmp_path / "lm", lm_folder, tie_word_embeddings=False)
    result = run("train", *options, "--lm", lm, "-o", tmp_path / "run")
    assert result.status == 2
    assert "has an output layer of its own (tie_word_embeddings: false)" in result.err


def test_a_tokenizer_that_changed_under_the_cache_is_refused(
    tmp_path: Path, run: Any, clip_folder: Path, tokenizer_folder: Path, lm_folder: Path
) -> None:
    shutil.copytree(tokenizer_folder, tmp_path / "tokenizer")
    coco = make_coco(tmp_path / "coco", train=4)
    run("precompute", coco, "-o", tmp_path / "c.h5", *small_models(clip_folder, tmp_path / "tokenizer"))
    bare = make_lm(tmp_path / "lm", lm_folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (bare / name).unlink()
    file = tmp_path / "tokenizer/tokenizer.json"
    content = json.loads(file.read_text())
    vocabulary = content["model"]["vocab"]
    vocabulary["A"], vocabulary["B"] = vocabulary["B"], vocabulary["A"]
    file.write_text(json.dumps(content))
    result = run("train", tmp_path / "c.h5", "--lm", bare, "-o", tmp_path / "run")
    assert result.status == 2
    assert "is no longer the tokenizer that made" in result.err


def test_pictures_without_captions_are_not_validated_on(
    tmp_path: Path, run: Any, clip_folder: Path, tokenizer_folder: Path, lm_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    coco = make_coco(tmp_path / "coco", train=4, val=6)
    file = coco / "annotations/captions_val2017.json"
    content = json.loads(file.read_text())
    captioned = [image["id"] for image in content["images"]][1::2]
    content["annotations"] = [a for a in content["annotations"] if a["image_id"] in captioned]
    file.write_text(json.dumps(content))
    run("precompute", coco, "-o", tmp_path / "c.h5", *small_models(clip_folder, tokenizer_folder))
    options = [tmp_path / "c.h5", "--lm", lm_folder, "--epochs", 1, "--device", "cpu"]
    monkeypatch.setattr(validation, "IMAGES", 2)
    monkeypatch.setattr(validation, "SAMPLES", 2)
    result = run("train", *options, "-o", tmp_path / "run")
    assert result.status == 0, result.err
    samples = metrics(tmp_path / "run")[-1]["samples"]
    assert [sample["path"][-7:] for sample in samples] == ["106.jpg", "108.jpg"]
    assert all(sample["reference"] for sample in samples)


def test_one_picture_to_validate_on_has_no_gap_and_raises_no_alarm(
    tmp_path: Path, run: Any, clip_folder: Path, tokenizer_folder: Path, lm_folder: Path
) -> None:
    coco = make_coco(tmp_path / "coco", train=4, val=1)
    run("precompute", coco, "-o", tmp_path / "c.h5", *small_models(clip_folder, tokenizer_folder))
    options = [tmp_path / "c.h5", "--lm", lm_folder, "--epochs", 1, "--device", "cpu"]
    result = run("train", *options, "-o", tmp_path / "run")
    assert result.status == 0, result.err
    assert "image gap unknown (one picture)" in result.err
    assert "hardly looks" not in result.err
    assert metrics(tmp_path / "run")[-1]["image_gap"] is None


def test_the_image_gap_is_the_loss_with_exchanged_embeddings_minus_the_real_one(
    trained: Path, small_cache: Path
) -> None:
    model, _, _ = load_checkpoint(trained / "last")
    corpus = load_corpora(Cache.open(small_cache), 54)["val"]
    embedding, tokens, lengths = plain_batch(corpus, range(len(corpus)))
    images = np.arange(len(corpus.embedding))
    other = corpus.embedding[np.roll(images, len(images) // 2)[corpus.image]]
    with torch.no_grad():
        real = model.token_losses(embedding, tokens, lengths).mean().item()
        exchanged = model.token_losses(other, tokens, lengths).mean().item()
    line = metrics(trained)[-1]
    assert line["val_loss"] == pytest.approx(real, rel=1e-5)
    assert line["image_gap"] == pytest.approx(exchanged - real, abs=1e-5)
    assert line["image_gap"] > 0


def test_a_full_disk_while_saving_is_one_clear_error(
    tmp_path: Path, run: Any, options: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise Exception("No space left on device (os error 28)")  # as the tokenizers library has it

    monkeypatch.setattr("clipcap.train.model.checkpoint.save_tokenizer", full)
    result = run("train", *options, "-o", tmp_path / "run")
    assert result.status == 2
    assert "cannot be written (No space left on device (os error 28)); mend that and go on with --resume" in result.err
    assert not list((tmp_path / "run").glob(".*"))
