"""Checkpoints of other systems give the tokens of their own code, and its losses to four digits."""

import json
import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from clipcap.caption import Captioner
from clipcap.caption.decoding.lahdhirim import LahdhirimBeam
from clipcap.caption.decoding.options import DecodeOptions
from clipcap.data.errors import CheckpointError, UsageError
from clipcap.train.mappers import mapper_config
from clipcap.train.mappers.module import Mapper
from clipcap.train.model.captioning import ClipCapModel

FILES = {
    "rmokady-mlp": "rmokady-mlp.pt",
    "rmokady-transformer": "rmokady-transformer.pt",
    "jmisilo": "jmisilo-release.pt",
    "lahdhirim": "lahdhirim.pkl",
}


def golden(shared: Path, name: str) -> tuple[Captioner, dict[str, Any], "np.ndarray[Any, Any]"]:
    captioner = Captioner.from_checkpoint(
        shared / "golden" / FILES[name], tokenizer=str(shared / "data/gpt2"), device="cpu"
    )
    answers = json.loads((shared / f"golden/{name}.json").read_text())
    return captioner, answers, np.array(answers["embeddings"], dtype=np.float32)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["rmokady-mlp", "rmokady-transformer"])
def test_rmokady_gives_the_losses_greedy_and_beam_captions_of_its_own_code(shared: Path, name: str) -> None:
    captioner, answers, embeddings = golden(shared, name)
    scores = captioner.score(embeddings, answers["captions"])
    assert [len(row) for row in scores] == [len(row) for row in answers["token_nll"]]
    for found, expected in zip(scores, answers["token_nll"], strict=True):
        assert found == pytest.approx(expected, abs=1e-4)
    assert captioner(embeddings) == captioner(embeddings, decode="greedy") == answers["greedy"]
    assert captioner(embeddings, decode="beam", n=5) == answers["beam5"]
    # The captions of an image do not depend on the others in its batch.
    captioner.batch_size = 5
    assert captioner(embeddings, decode="beam", n=5) == answers["beam5"]
    assert [captioner(row, decode="beam") for row in embeddings] == [beams[0] for beams in answers["beam5"]]


def test_jmisilo_gives_the_tokens_of_its_own_code(shared: Path) -> None:
    captioner, answers, embeddings = golden(shared, "jmisilo")
    strategy = captioner.strategy(None, DecodeOptions())
    with torch.inference_mode():
        tokens = strategy.decode(captioner.model, torch.from_numpy(embeddings), captioner.tokenizer)
    assert [row for (row,) in tokens] == answers["tokens"]
    assert captioner(embeddings) == [captioner.tokenizer.decode(row[:-1]) for row in answers["tokens"]]


def test_lahdhirim_gives_the_losses_and_beam_captions_of_its_own_code(shared: Path) -> None:
    captioner, answers, embeddings = golden(shared, "lahdhirim")
    for found, expected in zip(captioner.score(embeddings, answers["tokens"]), answers["token_nll"], strict=True):
        assert found == pytest.approx(expected, abs=1e-4)
    assert captioner(embeddings) == answers["beam5_max_length_30"]


@pytest.fixture
def rows() -> "np.ndarray[Any, Any]":
    return np.random.default_rng(0).standard_normal((6, 16)).astype(np.float32)


def state(lm_folder: Path, prefix: str, mapper: Mapper, mapper_prefix: str) -> "OrderedDict[str, torch.Tensor]":
    """Weights as another system saves them: those of a mapper and of GPT-2, and the masks that GPT-2 once saved too."""
    lm = GPT2LMHeadModel.from_pretrained(str(lm_folder))
    tensors = OrderedDict((prefix + name, tensor) for name, tensor in lm.state_dict().items())
    tensors[f"{prefix}transformer.h.0.attn.bias"] = torch.ones(1, 1, 64, 64, dtype=torch.uint8)
    tensors[f"{prefix}transformer.h.0.attn.masked_bias"] = torch.tensor(-1e4)
    tensors.update((mapper_prefix + name, tensor) for name, tensor in mapper.state_dict().items())
    return tensors


def small_mapper(kind: str, embedding_width: int = 16, **more: Any) -> Mapper:
    torch.manual_seed(0)
    sizes = {"embedding_width": embedding_width, "lm_width": 32, "prefix_length": 3, **more}
    return Mapper(mapper_config(kind=kind, **sizes)).eval()


def prefix(captioner: Captioner, rows: Any) -> torch.Tensor:
    with torch.inference_mode():
        found: torch.Tensor = captioner.model.clip_project(torch.from_numpy(rows))
    return found


def opened(file: Path, tokenizer_folder: Path, **more: Any) -> Captioner:
    return Captioner.from_checkpoint(file, tokenizer=str(tokenizer_folder), device="cpu", **more)


def test_a_checkpoint_of_rmokady_with_a_linear_mapper_opens(
    tmp_path: Path, lm_folder: Path, tokenizer_folder: Path, rows: Any
) -> None:
    mapper = small_mapper("linear", tanh=False)
    tensors = state(lm_folder, "gpt.", mapper, "clip_project.")
    for part in ("weight", "bias"):
        tensors[f"clip_project.{part}"] = tensors.pop(f"clip_project.linear.{part}")
    torch.save(tensors, tmp_path / "latest.pt", _use_new_zipfile_serialization=False)  # as torch wrote before 1.6
    captioner = opened(tmp_path / "latest.pt", tokenizer_folder)
    assert (captioner.config.system, captioner.config.mapper.kind) == ("rmokady", "linear")
    with torch.inference_mode():
        torch.testing.assert_close(prefix(captioner, rows), mapper(torch.from_numpy(rows)))
    assert all(len(some) == 4 for some in captioner(rows, decode="beam", beams=4, n=4))


@pytest.mark.parametrize("embedding_width", [32, 16])
def test_training_checkpoints_of_jmisilo_open_with_and_without_the_linear_of_the_fork(
    tmp_path: Path, lm_folder: Path, tokenizer_folder: Path, embedding_width: int
) -> None:
    mapper = small_mapper("encoder", embedding_width, layers=2)
    tensors = state(lm_folder, "td.model.", mapper, "mp.")
    tensors["ie.model.embeddings.class_embedding"] = torch.zeros(8)
    kept = {"epoch": 3, "model_state_dict": tensors, "optimizer_state_dict": {"state": {}}, "tloss": [1.5, 1.0]}
    torch.save(kept, tmp_path / "epoch_3.pt")
    captioner = opened(tmp_path / "epoch_3.pt", tokenizer_folder)
    assert captioner.config.mapper.embedding_width == embedding_width
    assert captioner.config.encoder.features == "pooled"
    rows = np.random.default_rng(1).standard_normal((3, embedding_width)).astype(np.float32)
    with torch.inference_mode():
        torch.testing.assert_close(prefix(captioner, rows), mapper(torch.from_numpy(rows)))
    captions = captioner(rows)
    assert captions == [captioner(row) for row in rows]  # no image depends on another
    assert all(text[:1] == text[:1].upper() for text in captions)
    model: Any = captioner.model
    with torch.inference_mode():
        start = model.start(torch.from_numpy(rows[:1]))
        tokens: list[int] = []
        expected = []
        for _ in range(5):
            logits = model.next_logits(start, torch.tensor([tokens], dtype=torch.long))[0, -1]
            tokens.append(int(logits.argmax()))
            expected.append(-float(logits.log_softmax(dim=-1).max()))
    assert captioner.score(rows[:1], [tokens])[0] == pytest.approx(expected, abs=1e-4)
    with pytest.raises(UsageError, match="`decode` beam of a jmisilo checkpoint"):
        captioner(rows, decode="beam")


def test_normalize_scales_embeddings_to_length_one(
    tmp_path: Path, lm_folder: Path, tokenizer_folder: Path, rows: Any
) -> None:
    torch.save(state(lm_folder, "gpt.", small_mapper("mlp"), "clip_project."), tmp_path / "m.pt")
    raw = opened(tmp_path / "m.pt", tokenizer_folder)
    scaled = opened(tmp_path / "m.pt", tokenizer_folder, normalize=True)
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    captions = ["A red square", "a bird"] * 3
    for a, b in zip(scaled.score(7 * rows, captions), raw.score(unit, captions), strict=True):
        assert a == pytest.approx(b, abs=1e-5)
    assert raw.score(rows, captions)[0] != pytest.approx(raw.score(unit, captions)[0], abs=1e-3)


class Spiteful:
    """Makes a folder when its pickle is read."""

    def __init__(self, call: Any, *arguments: Any) -> None:
        self.call, self.arguments = call, arguments

    def __reduce__(self) -> Any:
        return self.call, self.arguments


def test_a_checkpoint_that_would_run_code_is_refused(
    tmp_path: Path, run: Any, lm_folder: Path, tokenizer_folder: Path, small_cache: Path
) -> None:
    import os

    made = tmp_path / "made"
    tensors = state(lm_folder, "gpt.", small_mapper("mlp"), "clip_project.")
    bad = Spiteful(os.mkdir, str(made))
    torch.save({**tensors, "clip_project.extra": bad}, tmp_path / "zip.pt")
    torch.save({**tensors, "clip_project.extra": bad}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    (tmp_path / "plain.pkl").write_bytes(pickle.dumps({"caption_model_state_dict": tensors, "x": bad}))
    with pytest.raises(FileNotFoundError):  # the pickle does call os.mkdir
        pickle.loads(pickle.dumps(Spiteful(os.mkdir, str(tmp_path / "nowhere/made"))))  # noqa: S301
    for name in ("zip.pt", "old.pt", "plain.pkl"):
        options = ["--model", tmp_path / name, "--tokenizer", tokenizer_folder, "--device", "cpu"]
        result = run("caption", small_cache, *options)
        assert result.status == 2
        assert len(result.err.splitlines()) == 1
        assert "posix.mkdir" in result.err
    assert not made.exists()


@pytest.mark.parametrize(
    ("change", "fact"),
    [
        (lambda t: t.pop("gpt.transformer.ln_f.bias"), "gpt.transformer.ln_f.bias"),
        (lambda t: t.update({"gpt.transformer.wpf.weight": torch.ones(1)}), "gpt.transformer.wpf.weight"),
        (lambda t: t.pop("gpt.transformer.wte.weight"), "GPT-2 under gpt.*"),
        (lambda t: t.pop("clip_project.model.2.weight"), "clip_project.model.0.weight"),
        (lambda t: t.update({"gpt.lm_head.weight": torch.ones(2, 2)}), "output layer"),
        (lambda t: [t.pop(name) for name in list(t) if name.startswith("clip")], "rmokady, jmisilo, lahdhirim"),
        (lambda t: t.update({"gpt.transformer.wte.weight": torch.ones(1).expand(2**41, 32)}), "more numbers than the"),
        (
            lambda t: t.update({"gpt.transformer.wte.weight": torch.ones(0, 2**41)}),
            "no multiple of the width 2199023255552",
        ),
        (lambda t: t.update({"gpt.transformer.wte.weight": torch.ones(9, 0)}), "a width of 0"),
        (lambda t: t.update({"gpt.transformer.wte.weight": torch.ones(9, 2)}), "4 heads do not divide the width 2"),
        (lambda t: t.update({"gpt.transformer.wpe.weight": torch.ones(3, 32)}), "leaves no positions for captions"),
    ],
)
def test_the_error_names_what_is_wrong_with_a_checkpoint(
    tmp_path: Path, lm_folder: Path, tokenizer_folder: Path, change: Any, fact: str
) -> None:
    tensors = state(lm_folder, "gpt.", small_mapper("mlp"), "clip_project.")
    change(tensors)
    torch.save(tensors, tmp_path / "m.pt")
    with pytest.raises(CheckpointError) as caught:
        opened(tmp_path / "m.pt", tokenizer_folder)
    assert fact in str(caught.value)
    assert str(caught.value).startswith(str(tmp_path / "m.pt"))


def test_options_of_foreign_checkpoints_are_refused_for_ours(
    trained: Path, tmp_path: Path, run: Any, small_cache: Path
) -> None:
    with pytest.raises(UsageError, match="tokenizer"):
        Captioner.from_checkpoint(trained, normalize=True)
    (tmp_path / "m.bin").write_bytes(b"x")
    result = run("caption", small_cache, "--model", tmp_path / "m.bin")
    assert result.status == 2
    assert str(tmp_path / "m.bin") in result.err


def test_the_limit_of_lahdhirim_leaves_at_least_one_token_after_a_long_prefix() -> None:
    sizes = {"embedding_width": 8, "lm_width": 16}
    for prefix_length, limit in ((5, 25), (29, 1), (31, 1)):
        mapper = Mapper(mapper_config("linear", prefix_length=prefix_length, **sizes))
        model = ClipCapModel(mapper, GPT2LMHeadModel(GPT2Config(n_embd=16, n_layer=1, n_head=2, vocab_size=20)))
        assert LahdhirimBeam().max_tokens(model) == limit
