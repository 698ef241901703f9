"""A stranger's checkpoint takes no memory before its shapes are checked, and each fault is one line with its file."""

import json
import os
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel

from clipcap.data.cache.fingerprint import Fingerprint
from clipcap.data.errors import CheckpointError
from clipcap.train.mappers import mapper_config
from clipcap.train.mappers.module import Mapper
from clipcap.train.model import checkpoint as module
from clipcap.train.model.captioning import ClipCapModel
from clipcap.train.model.checkpoint import (
    CheckpointConfig,
    LanguageModelConfig,
    load_checkpoint,
    read_config,
    read_state,
    save_checkpoint,
)
from clipcap.train.model.find import find_checkpoint
from clipcap.train.run.state import TrainState, from_files, to_files
from small_world import change_json

Change = Callable[[dict[str, Any]], object]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory, tokenizer_folder: Path) -> Path:
    """A small checkpoint with a training state. Tests must only read it."""
    tokenizer = AutoTokenizer.from_pretrained(str(tokenizer_folder), trust_remote_code=False)
    end = tokenizer.eos_token_id
    sizes: dict[str, Any] = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, "vocab_size": len(tokenizer)}
    lm = GPT2LMHeadModel(GPT2Config(bos_token_id=end, eos_token_id=end, **sizes))
    mapper = mapper_config(kind="encoder", embedding_width=16, lm_width=32, prefix_length=4, layers=2)
    config = CheckpointConfig(
        mapper=mapper,
        language_model=LanguageModelConfig(name="small", tuned=True, sha256="", config=lm.config.to_diff_dict()),
        encoder=Fingerprint.unchecked(encoder="ViT-B-32", width=16),
        training={"epochs": 1},
        progress={"step": 4},
    )
    loop = {**TrainState(step=4).__dict__}
    engine = {"micro_batches": 1, "loss_scale": 1.0, "good_steps": 0, "tensors": {"a": torch.zeros(1)}}
    folder = tmp_path_factory.mktemp("saved") / "last"
    save_checkpoint(
        folder, ClipCapModel(Mapper(mapper), lm), tokenizer, config, to_files({"loop": loop, "engine": engine})
    )
    return folder


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    """A copy of the checkpoint, to be changed."""
    shutil.copytree(saved, tmp_path / "last")
    return tmp_path / "last"


def put(*path: Any) -> Change:
    """Return what sets a value of an object: all but the last of `path` are keys."""
    *keys, last, value = path

    def edit(content: dict[str, Any]) -> None:
        for key in keys:
            content = content[key]
        content[last] = value

    return edit


def lm(name: str, value: Any) -> Change:
    return put("language_model", "config", name, value)


CONFIGS = [
    *(lm("n_layer", value) for value in (10**9, "2", None, [2], 2.5, -1, 0, True)),
    *(lm(name, 2**41) for name in ("n_embd", "n_head", "n_positions", "vocab_size", "n_inner", "hidden_size")),
    lm("n_layer", 900),
    lm("n_head", 0),
    lm("n_head", 5),
    lm("attn_pdrop", float("nan")),
    lm("activation_function", 1),
    lm("tie_word_embeddings", False),
    put("language_model", "config", []),
    put("language_model", "tuned", "yes"),
    put("language_model", "name", 3),
    put("language_model", "extra", 3),
    *(put("mapper", "layers", value) for value in ([2], 2**70, 10**400, 2.5, None, "2", 900)),
    *(put("mapper", "dropout", value) for value in (float("nan"), None, "0.1", 2**70)),
    *(put("mapper", name, 2**70) for name in ("embedding_width", "lm_width", "prefix_length", "patches", "heads")),
    *(put("mapper", "prefix_length", value) for value in (None, 4.0, "4", 5, True)),
    put("mapper", "kind", ["mlp"]),
    put("mapper", "extra", 3),
    *(put("encoder", "width", value) for value in (None, "16", -1, 10**9, 2**70, 17)),
    put("encoder", "encoder", 7),
    put("encoder", "preprocess", [1]),
    put("training", [1]),
    put("progress", None),
    put("format_version", 2**70),
    lambda content: content.pop("mapper"),
]


@pytest.mark.parametrize("edit", CONFIGS)
def test_a_config_with_an_odd_value_is_refused_in_one_line_with_its_file(folder: Path, edit: Change) -> None:
    change_json(folder / "config.json", edit)
    with pytest.raises(CheckpointError) as found:
        load_checkpoint(folder)
    assert str(folder) in str(found.value) or "output layer" in str(found.value)
    assert "\n" not in str(found.value)


@pytest.mark.parametrize("value", [[1, 2], None, "x", 2**40])
def test_the_tokenizer_decides_which_token_ends_a_text(folder: Path, value: Any) -> None:
    change_json(folder / "config.json", lm("eos_token_id", value))
    model, tokenizer, _ = load_checkpoint(folder)
    assert model.end == tokenizer.eos_token_id


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, "[]", "1", "", "\ud800", "{", '{"format": NaN}'])
def test_a_config_that_is_no_object_or_nested_deep_is_refused(folder: Path, text: str) -> None:
    (folder / "config.json").write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(CheckpointError, match=r"config\.json"):
        read_config(folder)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs a system with FIFOs")
@pytest.mark.parametrize(
    "name", ["config.json", "model.safetensors", "training_state.json", "tokenizer/x", "tokenizer/tokenizer.json"]
)
@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("/dev/zero")])
def test_a_file_that_is_a_fifo_or_a_device_is_named_and_not_waited_for(
    folder: Path, name: str, make: Callable[[Path], None]
) -> None:
    (folder / name).unlink(missing_ok=True)
    make(folder / name)
    with pytest.raises(Exception, match=r"a FIFO, not a file|a device, not a file|holds no tokenizer"):
        read_state(folder) if name == "training_state.json" else load_checkpoint(folder)


def safetensors(header: bytes, data: bytes = b"\0" * 8, length: int | None = None) -> bytes:
    return struct.pack("<Q", len(header) if length is None else length) + header + data


def tensor(shape: list[int], offsets: list[int], dtype: str = "F32") -> bytes:
    return json.dumps({"a": {"dtype": dtype, "shape": shape, "data_offsets": offsets}}).encode()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\0" * 8,
        safetensors(b"{}", length=2**63),
        safetensors(b"{}", length=100),
        safetensors(b'{"a":' * 1000),
        safetensors(tensor([2], [0, 16])),
        safetensors(tensor([2], [4, 12])),
        safetensors(tensor([2**40, 2**40], [0, 8])),
        safetensors(tensor([2], [0, 8], "X7")),
        safetensors(tensor([2], [0, 8])),
    ],
)
def test_weights_that_are_damaged_or_of_another_shape_are_refused_with_their_file(folder: Path, content: bytes) -> None:
    (folder / "model.safetensors").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"model\.safetensors (is damaged|has other weights)"):
        load_checkpoint(folder)
    (folder / "training_state.safetensors").write_bytes(content)
    if content != safetensors(tensor([2], [0, 8])):
        with pytest.raises(CheckpointError, match="holds no training state to resume from"):
            read_state(folder)


def test_weights_that_are_not_finite_are_loaded(folder: Path) -> None:
    file = folder / "model.safetensors"
    save_file({name: torch.full_like(tensor, torch.nan) for name, tensor in load_file(file).items()}, file)
    assert load_checkpoint(folder)[0].gpt.transformer.wte.weight.isnan().all()


@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried")]
)
def test_memory_that_runs_out_is_not_called_damage(
    folder: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(_: Path) -> None:
        raise error

    monkeypatch.setattr(module, "read_tensors", fail)
    with pytest.raises(type(error)):
        load_checkpoint(folder)
    with pytest.raises(type(error)):
        read_state(folder)


@pytest.mark.parametrize(
    "name", ["step", "epoch", "batch", "loss_sum", "loss_tokens", "stale", "parts", "loss_scale", "best"]
)
@pytest.mark.parametrize("value", ["1", [], float("nan"), 2**70, {}])
def test_a_training_state_with_an_odd_value_is_refused_with_its_folder(folder: Path, name: str, value: Any) -> None:
    change_json(folder / "training_state.json", put(name, value))
    with pytest.raises(CheckpointError, match=f"the training state in {folder} is damaged"):
        from_files(folder)


def test_a_training_state_is_read_as_it_was_written(folder: Path) -> None:
    assert from_files(folder)["loop"]["step"] == 4


def test_the_current_folder_and_the_root_are_looked_into(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    assert find_checkpoint(Path()) == Path()
    folder.rename(folder.with_name(".run.old"))
    (folder.with_name("run")).mkdir()
    monkeypatch.chdir(folder.with_name("run"))
    assert find_checkpoint(Path()) == folder.with_name(".run.old")
    with pytest.raises(CheckpointError, match="there is no model at /"):
        find_checkpoint(Path("/"))
