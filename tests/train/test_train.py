"""Training from the command line: the files of a run, the weights that train, and the errors."""

import json
import math
import re
import shutil
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from runs import assert_same_run, assert_same_weights, interrupt_in, metrics, weights
from safetensors.torch import load_file

from clipcap.train.corpus.embeddings import ResidentEmbeddings
from clipcap.train.loop import Trainer
from small_world import make_coco, make_lm, small_models

Options = list[object]


@pytest.fixture
def options(small_cache: Path, lm_folder: Path) -> Options:
    # 33 captions, 4 steps an epoch, 8 in all
    return [
        *(small_cache, "--lm", lm_folder, "--epochs", 2, "--batch-size", 9, "--lr", 1e-2),
        *("--device", "cpu", "--precision", "fp32"),
    ]


def test_a_run_writes_its_settings_metrics_log_and_two_checkpoints(tmp_path: Path, run: Any, options: Options) -> None:
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
    assert (config["format"], config["format_version"]) == ("clipcap-checkpoint", 1)
    sizes = {"embedding_width": 16, "lm_width": 32, "prefix_length": 10, "patches": 0}
    assert config["mapper"] == {"kind": "mlp", **sizes}
    assert config["encoder"]["width"] == 16
    assert config["training"]["lr"] == 0.01
    assert config["progress"] == {"step": 8, "epoch": 2, "best_val_loss": lines[3]["val_loss"]}


@pytest.mark.slow
def test_the_same_seed_gives_the_same_run_and_another_seed_does_not(tmp_path: Path, run: Any, options: Options) -> None:
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
    assert not any(".gpt." in name for name in state)  # frozen weights have no optimiser state
    # The checkpoint opens with the language model that it names ...
    image = make_coco(tmp_path / "coco") / "val2017/000000000113.jpg"
    assert run("caption", image, "--model", tmp_path / "run", "--device", "cpu").status == 0
    # ... and with no other language model of the same name.
    make_lm(tmp_path / "other", lm_folder, seed=5)
    config = json.loads((tmp_path / "run/best/config.json").read_text())
    config["language_model"]["name"] = str(tmp_path / "other")
    (tmp_path / "run/best/config.json").write_text(json.dumps(config))
    result = run("caption", image, "--model", tmp_path / "run", "--device", "cpu")
    assert result.status == 2
    assert str(tmp_path / "other") in result.err


def test_tune_all_changes_and_stores_everything(tmp_path: Path, run: Any, options: Options, lm_folder: Path) -> None:
    assert run("train", *options, "-o", tmp_path / "run").status == 0
    trained, before = weights(tmp_path / "run/last"), load_file(lm_folder / "model.safetensors")
    for name, tensor in before.items():
        assert not torch.equal(trained[f"gpt.{name}"], tensor)
    assert set(trained) - {f"gpt.{name}" for name in before} == {
        f"clip_project.model.{layer}.{kind}" for layer in (0, 2) for kind in ("weight", "bias")
    }


def test_without_a_validation_split_the_newest_checkpoint_is_the_best(
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
    assert_same_weights(tmp_path / "run/best", tmp_path / "run/last")


def test_a_language_model_without_a_tokenizer_uses_the_one_of_the_cache(
    tmp_path: Path, run: Any, small_cache: Path, lm_folder: Path
) -> None:
    bare = make_lm(tmp_path / "lm", lm_folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (bare / name).unlink()
    result = run("train", small_cache, "--lm", bare, "-o", tmp_path / "run", "--epochs", 1, "--device", "cpu")
    assert result.status == 0, result.err


@pytest.mark.slow
def test_captions_are_tokenized_again_for_a_language_model_with_another_tokenizer(
    shared: Path, tmp_path: Path, run: Any, small_cache: Path
) -> None:
    real = make_lm(tmp_path / "lm", shared / "data/gpt2")
    result = run("train", small_cache, "--lm", real, "-o", tmp_path / "run", "--epochs", 1, "--device", "cpu")
    assert result.status == 0, result.err
    assert "has another tokenizer than the cache" in result.err


def broken_lm(folder: Path, lm: Path, drop: str) -> Path:
    """Copy a language model without one of its tensors."""
    from safetensors.torch import save_file

    folder.mkdir()
    for file in lm.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    tensors = load_file(lm / "model.safetensors")
    tensors.pop(drop)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def test_a_language_model_that_lacks_a_weight_is_refused(
    tmp_path: Path, run: Any, small_cache: Path, lm_folder: Path
) -> None:
    lm = broken_lm(tmp_path / "lm", lm_folder, "transformer.h.1.attn.c_attn.bias")
    result = run("train", small_cache, "--lm", lm, "-o", tmp_path / "run")
    assert result.status == 2
    assert "transformer.h.1.attn.c_attn.bias" in result.err.splitlines()[-1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--tune", "some"], "--tune 'some'"),
        (["--mapper", "perceiver"], "--mapper perceiver"),
        (["--prefix-length", 63], "--prefix-length 63"),
        (["--precision", "fp8"], "--precision fp8"),
        (["--sampling", "word"], "--sampling word"),
        (["--lm", "no-such-model"], "no-such-model"),
        (["--lm", "/"], "config.json"),
        (["--lr", 0], "--lr"),
        (["--device", "cuda:99"], "--device cuda:99"),
        (["--log-to", "nothing"], "--log-to nothing"),
    ],
)
def test_errors_are_one_line_and_write_nothing(
    tmp_path: Path, run: Any, options: Options, arguments: list[Any], message: str
) -> None:
    result = run("train", *options, "-o", tmp_path / "run", *arguments)
    assert result.status == 2
    assert message in result.err.splitlines()[-1]
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("content", [None, b"x"])
def test_a_cache_that_is_missing_or_no_hdf5_file_is_refused(tmp_path: Path, run: Any, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "cache.h5").write_bytes(content)
    result = run("train", tmp_path / "cache.h5", "-o", tmp_path / "run")
    assert result.status == 2
    assert f"{tmp_path}/cache.h5" in result.err.splitlines()[-1]
    assert not (tmp_path / "run").exists()


def test_a_run_writes_safetensors_json_text_and_png_but_no_pickle(tmp_path: Path, run: Any, options: Options) -> None:
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


def test_a_loss_that_is_not_finite_ends_the_run_and_keeps_the_earlier_checkpoints(
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
    assert "at step 6 the loss is nan" in result.err.splitlines()[-1]
    assert "a lower --lr than 0.01" in result.err
    for name in ("best", "last"):
        assert all(tensor.isfinite().all() for tensor in weights(tmp_path / "run" / name).values())
    assert [line["step"] for line in metrics(tmp_path / "run")] == [4, 4]


@pytest.mark.parametrize("interrupted", [False, True])
def test_a_model_that_is_not_finite_is_not_saved(
    tmp_path: Path, run: Any, options: Options, interrupted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loss of the only step is finite; the step itself ruins the weights."""
    if interrupted:  # then there is no validation that could notice
        interrupt_in(monkeypatch, Trainer, "_step")
        weight_after_step(monkeypatch, math.nan)
    diverging = ["--lr", 1e6, "--epochs", 1, "--batch-size", 400, "--warmup", 0]
    result = run("train", *options, *diverging, "-o", tmp_path / "run")
    assert result.status == 2
    assert "diverged" in result.err.splitlines()[-1]
    assert [path.name for path in (tmp_path / "run").iterdir() if path.is_dir()] == []
    lines = metrics(tmp_path / "run")
    assert [(line["step"], math.isfinite(line["train_loss"])) for line in lines] == [(1, True)][: len(lines)]


def weight_after_step(monkeypatch: pytest.MonkeyPatch, value: float) -> None:
    """Set a weight to a value after each step."""
    step = Trainer._step

    def ruining(self: Trainer, captions: Any) -> Any:
        result = step(self, captions)
        with torch.no_grad():
            self.model.gpt.transformer.ln_f.bias[3] = value
        return result

    monkeypatch.setattr(Trainer, "_step", ruining)


def test_the_generation_config_of_a_language_model_does_not_change_the_samples(
    tmp_path: Path, run: Any, options: Options, lm_folder: Path
) -> None:
    odd = make_lm(tmp_path / "odd", lm_folder)
    (odd / "generation_config.json").write_text('{"repetition_penalty": 5.0, "no_repeat_ngram_size": 1}')
    samples = []
    for name, lm in (("a", lm_folder), ("b", odd)):
        assert run("train", *options, "--lm", lm, "-o", tmp_path / name).status == 0
        samples.append([line["samples"] for line in metrics(tmp_path / name) if "samples" in line])
    assert samples[0] == samples[1]


def test_a_language_model_with_an_output_layer_of_its_own_is_refused(
    tmp_path: Path, run: Any, options: Options, lm_folder: Path
) -> None:
    lm = make_lm(tmp_path / "lm", lm_folder, tie_word_embeddings=False)
    result = run("train", *options, "--lm", lm, "-o", tmp_path / "run")
    assert result.status == 2
    assert str(lm) in result.err.splitlines()[-1]


def test_a_tokenizer_that_changed_since_the_cache_was_made_is_refused(
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
    assert str(tmp_path / "tokenizer") in result.err


def test_a_full_disk_while_saving_is_an_error_and_leaves_no_partial_checkpoint(
    tmp_path: Path, run: Any, options: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise Exception("No space left on device (os error 28)")  # as the tokenizers library raises it

    monkeypatch.setattr("clipcap.train.model.checkpoint.save_tokenizer", full)
    result = run("train", *options, "-o", tmp_path / "run")
    assert result.status == 2
    assert "No space left on device (os error 28)" in result.err.splitlines()[-1]
    assert not list((tmp_path / "run").glob(".*"))
