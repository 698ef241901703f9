"""BERTScore equals the authors' program on small models, and errors say what is wrong with a model."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clipcap.data.errors import ModelError, UsageError
from clipcap.data.metrics import bertscore as module
from clipcap.data.metrics.bertscore import BertScorer
from clipcap.data.metrics.bootstrap import interval

CAPTIONS = ["a dog runs", "the cat", "", "two dogs on  a sofa ", "a cat"]
REFERENCES = [["a dog sits", "the dog runs on grass"], ["two cats"], ["a"], ["dogs", "a red sofa", ""], ["a cat"]]
# What bert-score 0.3.13 with transformers 4.57.3 and `num_layers` 2 gives for these captions and models.
EXPECTED = {
    "bert": [0.8991454839706421, 0.6807255148887634, 0.0, 0.8195371031761169, 1.0],
    "roberta": [0.9134437441825867, 0.813944399356842, 0.0, 0.8704530000686646, 1.0],
}
WORDS = "[PAD] [UNK] [CLS] [SEP] [MASK] a dog runs on the grass cat sits two red sofa ##s ##t"
MERGES = ["\u0120 a", "d o", "do g", "\u0120 dog", "c a", "ca t", "t h", "th e", "\u0120 the"]


def make_model(folder: Path, kind: str) -> Path:
    """Save a small `bert` or `roberta` of three layers, whose weights are the same on every machine."""
    import torch
    from tokenizers import BertWordPieceTokenizer
    from transformers import BertConfig, BertModel, RobertaConfig, RobertaModel

    folder.mkdir()
    sizes: dict[str, Any] = {
        "hidden_size": 32,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "intermediate_size": 64,
        "max_position_embeddings": 40,
    }
    model: Any
    if kind == "bert":
        words = WORDS.split()
        vocabulary = {word: index for index, word in enumerate(words)}
        BertWordPieceTokenizer(vocabulary).save(str(folder / "tokenizer.json"))
        model = BertModel(BertConfig(vocab_size=len(words), **sizes))
    else:
        letters = [*"\u0120abcdefghijklmnopqrstuvwxyz"]
        words = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", *letters, *(merge.replace(" ", "") for merge in MERGES)]
        (folder / "vocab.json").write_text(json.dumps({word: index for index, word in enumerate(words)}))
        (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *MERGES, ""]))
        model = RobertaModel(RobertaConfig(vocab_size=len(words), **sizes))
    tokenizer = {"tokenizer_class": "BertTokenizer" if kind == "bert" else "RobertaTokenizer", "model_max_length": 38}
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    with torch.no_grad():
        for place, (name, weight) in enumerate(sorted(model.named_parameters())):
            numbers = (torch.arange(weight.numel()) * 1103515245 + 12345 * (place + 1)) % 2**31 // 2**8 % 1000
            values = (numbers.float() / 500 - 1).view_as(weight)  # between -1 and 1
            weight.copy_(1 + 0.1 * values if "LayerNorm.weight" in name else 0.3 * values)
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module", params=["bert", "roberta"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small model."""
    return make_model(tmp_path_factory.mktemp("models") / request.param, request.param)


def test_figures_equal_those_of_the_authors(model: Path) -> None:
    score = BertScorer(str(model), 2)(CAPTIONS, REFERENCES)["BERTScore"]
    np.testing.assert_allclose(score.images, EXPECTED[model.name], rtol=0, atol=1e-6)
    assert score.corpus == pytest.approx(np.mean(EXPECTED[model.name]), abs=1e-6)
    low, high = interval(score)
    assert low < score.corpus < high


def test_batches_and_blocks_change_nothing(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BATCH", 2)
    monkeypatch.setattr(module, "BLOCK", 2)
    score = BertScorer(str(model), 2)(CAPTIONS, REFERENCES)["BERTScore"]
    np.testing.assert_allclose(score.images, EXPECTED[model.name], rtol=0, atol=1e-6)


def test_a_scorer_loads_its_model_once(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scorer = BertScorer(str(model), 2)
    monkeypatch.setattr(module, "_load", lambda *_: pytest.fail("the model was loaded again"))
    for order in (1, -1):
        score = scorer(CAPTIONS[::order], REFERENCES[::order])["BERTScore"]
        np.testing.assert_allclose(score.images, EXPECTED[model.name][::order], rtol=0, atol=1e-6)


def test_a_text_longer_than_the_model_is_cut(model: Path) -> None:
    score = BertScorer(str(model), 3)(["a dog " * 50], [["a dog " * 60]])["BERTScore"]
    assert score.corpus == pytest.approx(1, abs=1e-6)


def test_layers_that_the_model_does_not_have_are_an_error(model: Path) -> None:
    for layers in (0, 4):
        with pytest.raises(UsageError, match=f"{layers}.*3"):
            BertScorer(str(model), layers)
    with pytest.raises(UsageError, match="roberta-large"):
        BertScorer(str(model))


def test_a_model_that_is_missing_or_incomplete_is_an_error(model: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    with pytest.raises(ModelError, match="no-such-folder"):
        BertScorer("./no-such-folder", 2)
    folder = tmp_path / "cut"
    shutil.copytree(model, folder)
    weights = load_file(folder / "model.safetensors")
    save_file(
        {name: weight for name, weight in weights.items() if "layer.1." not in name}, folder / "model.safetensors"
    )
    with pytest.raises(ModelError, match=r"layer\.1\."):
        BertScorer(str(folder), 2)
    (folder / "config.json").unlink()
    with pytest.raises(ModelError, match="cut"):
        BertScorer(str(folder), 2)


def test_a_model_that_was_never_downloaded_is_an_error_offline() -> None:
    with pytest.raises(ModelError, match="roberta-large"):
        BertScorer()


def test_wrong_numbers_of_captions_are_an_error(model: Path) -> None:
    with pytest.raises(UsageError, match="5"):
        BertScorer(str(model), 2)(CAPTIONS, REFERENCES[:2])
