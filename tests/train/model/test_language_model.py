"""A GPT-2 of a stranger is refused by its numbers, before a model of their size is built."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from clipcap.data.errors import ModelError
from clipcap.train.model import language_model as module
from clipcap.train.model.gpt2_config import gpt2_config, parameter_count
from clipcap.train.model.language_model import load_language_model
from small_world import make_lm


@pytest.fixture
def lm(tmp_path: Path, tokenizer_folder: Path) -> Path:
    return make_lm(tmp_path / "lm", tokenizer_folder)


def edit(lm: Path, **values: Any) -> None:
    content = json.loads((lm / "config.json").read_text())
    (lm / "config.json").write_text(json.dumps({**content, **values}))


@pytest.mark.parametrize("value", [10**9, "2", None, [2], 2.5, -1, 0])
def test_a_number_of_layers_that_is_none_is_refused(lm: Path, value: Any) -> None:
    edit(lm, n_layer=value)
    with pytest.raises(ModelError) as found:
        load_language_model(str(lm))
    assert str(found.value).startswith(f"`lm` {lm} cannot be loaded (n_layer is {value}, not from 1 to 1,000)")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"n_layer": 1000, "n_embd": 16384}, "config.json describes 3,221,"),
        ({"n_head": 0}, "n_head is 0"),
        ({"n_embd": 2**41}, "n_embd is 2199023255552"),
        ({"n_head": 3}, "n_head is 3, which does not divide n_embd, 32"),
        ({"resid_pdrop": float("nan")}, "resid_pdrop is nan"),
        ({"vocab_size": 2**31}, "vocab_size is 2147483648"),
    ],
)
def test_sizes_that_fit_no_weights_are_refused(lm: Path, values: dict[str, Any], message: str) -> None:
    edit(lm, **values)
    with pytest.raises(ModelError) as found:
        load_language_model(str(lm))
    assert f"`lm` {lm} cannot be loaded (" in str(found.value)
    assert message in str(found.value)


@pytest.mark.parametrize("value", [[1, 2], None])
def test_an_end_of_text_that_is_no_number_is_left_to_the_tokenizer(lm: Path, value: Any) -> None:
    edit(lm, eos_token_id=value)
    assert isinstance(load_language_model(str(lm)).config.eos_token_id, int)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs a system with FIFOs")
@pytest.mark.parametrize("name", ["model.safetensors", "generation_config.json"])
def test_a_fifo_in_the_folder_is_named_and_not_waited_for(lm: Path, name: str) -> None:
    (lm / name).unlink()
    os.mkfifo(lm / name)
    with pytest.raises(ModelError, match="a FIFO, not a file"):
        load_language_model(str(lm))


def test_the_number_of_weights_is_that_of_the_model(lm: Path) -> None:
    model = load_language_model(str(lm))
    assert parameter_count(model.config) == sum(weight.numel() for weight in model.parameters())


def test_what_does_not_decide_the_model_is_left_out() -> None:
    config = gpt2_config({"n_layer": 2, "_attn_implementation": "flash_attention_2", "hidden_size": 64, "n_head": 2})
    assert (config.n_layer, config.n_embd) == (2, 64)
    assert config._attn_implementation is None


def test_memory_that_runs_out_is_not_the_fault_of_the_folder(lm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: Path) -> None:
        raise MemoryError

    monkeypatch.setattr(module, "_check_folder", fail)
    with pytest.raises(MemoryError):
        load_language_model(str(lm))
