"""`--init` and `--export`: files of rmokady become ours and are exported again, tensor for tensor; and fine-tuning."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import GPT2LMHeadModel

from clipcap.caption import Captioner
from clipcap.data.pretrained.tokenizer import load_tokenizer
from clipcap.train.mappers import mapper_config
from clipcap.train.mappers.module import Mapper
from clipcap.train.run.trackers import TRACKERS
from small_world import make_lm

Options = list[Any]


def save_rmokady(file: Path, lm_folder: Path, kind: str, **sizes: Any) -> dict[str, torch.Tensor]:
    """Save a checkpoint as the training of rmokady/CLIP_prefix_caption does."""
    torch.manual_seed(3)
    config = {"embedding_width": 16, "lm_width": 32, "prefix_length": 4, "clip_length": 3, "layers": 2, **sizes}
    mapper = Mapper(mapper_config(kind=kind, **config))
    lm = GPT2LMHeadModel.from_pretrained(str(lm_folder))
    state = {f"gpt.{name}": tensor for name, tensor in lm.state_dict().items()}
    state |= {f"clip_project.{name}": tensor for name, tensor in mapper.state_dict().items()}
    for block in range(2):  # buffers that GPT-2 had in the version of transformers that they used
        state[f"gpt.transformer.h.{block}.attn.bias"] = torch.ones(64, 64, dtype=torch.uint8).tril()[None, None]
        state[f"gpt.transformer.h.{block}.attn.masked_bias"] = torch.tensor(-1e4)
    if kind == "linear":
        for part in ("weight", "bias"):
            state[f"clip_project.{part}"] = state.pop(f"clip_project.linear.{part}")
    torch.save(state, file)
    return state


@pytest.fixture
def options(small_cache: Path) -> Options:
    return [small_cache, "--epochs", 1, "--batch-size", 9, "--precision", "fp32", "--device", "cpu"]


@pytest.mark.parametrize(
    ("kind", "sizes"), [("mlp", {}), ("transformer", {}), ("linear", {"tanh": False, "prefix_length": 12})]
)
def test_a_checkpoint_of_rmokady_is_exported_with_the_tensors_that_it_was_read_with(
    tmp_path: Path, run: Any, options: Options, lm_folder: Path, kind: str, sizes: dict[str, Any]
) -> None:
    state = save_rmokady(tmp_path / "rmokady.pt", lm_folder, kind, **sizes)
    # The rate is so low that no weight changes.
    frozen = ["--init", tmp_path / "rmokady.pt", "--lr", 1e-60, "--tune", "none"]
    result = run("train", *options, "-o", tmp_path / "run", *frozen)
    assert result.status == 0, result.err
    assert Captioner.from_checkpoint(tmp_path / "run").config.mapper.kind == kind
    result = run("inspect", tmp_path / "run/best", "--export", "rmokady", tmp_path / "back.pt")
    assert (result.status, result.out) == (0, f"{tmp_path}/back.pt\n")
    back = torch.load(tmp_path / "back.pt", weights_only=True)
    assert set(back) == set(state)
    for name, tensor in state.items():
        assert torch.equal(back[name], tensor), name
    again = run("inspect", tmp_path / "back.pt", "--export", "rmokady", tmp_path / "again.pt")
    assert again.status == 0
    once_more = torch.load(tmp_path / "again.pt", weights_only=True)
    assert all(torch.equal(once_more[name], tensor) for name, tensor in state.items())


def test_fine_tuning_starts_from_the_weights_of_the_checkpoint(
    tmp_path: Path, run: Any, options: Options, lm_folder: Path
) -> None:
    state = save_rmokady(tmp_path / "rmokady.pt", lm_folder, "mlp")
    result = run("train", *options, "-o", tmp_path / "run", "--init", tmp_path / "rmokady.pt", "--lr", 1e-4)
    assert result.status == 0, result.err
    moved = load_file(tmp_path / "run/best/model.safetensors")
    for name in ("clip_project.model.0.weight", "gpt.transformer.h.0.attn.c_attn.weight"):
        difference = (moved[name] - state[name]).abs().max()
        assert 1e-6 < difference < 2e-3, name
    assert json.loads((tmp_path / "run/run.json").read_text())["settings"]["prefix_length"] == 4
    # A run can also start from the checkpoint of a run of ours.
    result = run("train", *options, "-o", tmp_path / "next", "--init", tmp_path / "run", "--lr", 1e-60)
    assert result.status == 0, result.err
    last = load_file(tmp_path / "next/best/model.safetensors")
    assert all(torch.equal(last[name], tensor) for name, tensor in moved.items())


def test_captions_are_tokenized_again_for_a_checkpoint_with_another_vocabulary(
    tmp_path: Path, run: Any, options: Options, tokenizer_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A GPT-2 must not read the tokens of a cache that has another tokenizer than its own."""
    larger = make_lm(tmp_path / "larger", tokenizer_folder, vocab_size=500)
    save_rmokady(tmp_path / "rmokady.pt", larger, "mlp")
    asked = []

    def tokenizer(name: str) -> Any:
        asked.append(name)
        return load_tokenizer(str(tokenizer_folder) if name == "gpt2" else name)

    monkeypatch.setattr("clipcap.train.foreign.load_tokenizer", tokenizer)
    result = run("train", *options, "-o", tmp_path / "run", "--init", tmp_path / "rmokady.pt")
    assert result.status == 0, result.err
    assert asked == ["gpt2"]


def test_a_checkpoint_that_does_not_fit_the_cache_or_the_options_is_refused(
    tmp_path: Path, run: Any, options: Options, lm_folder: Path, trained: Path
) -> None:
    save_rmokady(tmp_path / "wide.pt", lm_folder, "mlp", embedding_width=24)
    common = [*options, "-o", tmp_path / "run"]
    cases = {
        "24 numbers": ["--init", tmp_path / "wide.pt"],
        "--prefix-length 4, not 5": [
            "--init", tmp_path / "wide.pt", "--prefix-length", 5,
        ],
        "leave --lm out": ["--init", trained, "--lm", lm_folder],
        f"{tmp_path}/nothing": ["--init", tmp_path / "nothing"],
    }  # fmt: skip
    for fact, more in cases.items():
        result = run("train", *common, *more)
        assert result.status == 2
        assert fact in result.err.splitlines()[-1], result.err
        assert not (tmp_path / "run").exists()


def test_exports_that_are_impossible_are_refused(
    tmp_path: Path, run: Any, trained: Path, small_cache: Path, options: Options
) -> None:
    run("train", *options, "-o", tmp_path / "run", "--lm", trained.parent.parent / "lm0", "--mapper", "encoder")
    cases = [
        ([trained, "--export", "openai", tmp_path / "x.pt"], "openai"),
        ([small_cache, "--export", "rmokady", tmp_path / "x.pt"], str(small_cache)),
        ([trained, "--export", "rmokady", small_cache], str(small_cache)),
    ]
    for arguments, fact in cases:
        result = run("inspect", *arguments)
        assert result.status == 2
        assert fact in result.err


def test_inspect_reports_the_system_and_the_mapper_of_a_foreign_file(tmp_path: Path, run: Any, lm_folder: Path) -> None:
    save_rmokady(tmp_path / "rmokady.pt", lm_folder, "transformer")
    facts = json.loads(run("inspect", tmp_path / "rmokady.pt", "--json").out)
    assert facts["kind"] == "checkpoint of rmokady"
    assert (facts["mapper"]["kind"], facts["mapper"]["clip_length"], facts["mapper"]["layers"]) == ("transformer", 3, 2)


def test_settings_that_are_not_stored_survive_init(
    tmp_path: Path, run: Any, small_cache: Path, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[int] = []

    class Recorder:
        package = "json"

        def __init__(self, folder: Path, recipe: dict[str, Any]) -> None:
            pass

        def log(self, metrics: dict[str, float], step: int) -> None:
            steps.append(step)

        def close(self) -> None:
            pass

    monkeypatch.setitem(TRACKERS, "recorder", Recorder)
    options = [small_cache, "--init", trained, "-o", tmp_path / "run", "--epochs", 1, "--device", "cpu"]
    result = run("train", *options, "--log-to", "recorder")
    assert result.status == 0, result.err
    assert steps
