"""The tokenizer: GPT-2's tokens, the end-of-text token, white space, and the hash that identifies a tokenizer."""

from pathlib import Path

import pytest

from clipcap.data.errors import ModelError
from clipcap.data.pretrained.hub import is_path
from clipcap.data.pretrained.tokenizer import encode_captions, load_tokenizer, save_tokenizer, tokenizer_sha256
from clipcap.train.model.language_model import load_language_model


def test_captions_get_the_tokens_of_gpt2_and_end_of_text(shared: Path) -> None:
    tokenizer = load_tokenizer(str(shared / "data/gpt2"))
    assert encode_captions(tokenizer, ["Hello world", "  Hello \n world ", "!"]) == [
        [15496, 995, 50256],
        [15496, 995, 50256],
        [0, 50256],
    ]


def test_a_caption_that_spells_end_of_text_does_not_end_there(tokenizer_folder: Path) -> None:
    tokenizer = load_tokenizer(str(tokenizer_folder))
    tokens = encode_captions(tokenizer, ["a <|endoftext|> b"])[0]
    assert tokens.count(tokenizer.eos_token_id) == 1
    assert tokenizer.decode(tokens[:-1]) == "a <|endoftext|> b"


def test_the_hash_does_not_depend_on_the_kind_of_file(shared: Path, tmp_path: Path) -> None:
    from_vocab = load_tokenizer(str(shared / "data/gpt2"))
    save_tokenizer(from_vocab, tmp_path)
    assert (tmp_path / "tokenizer.json").exists()
    from_json = load_tokenizer(str(tmp_path))
    assert tokenizer_sha256(from_json) == tokenizer_sha256(from_vocab)


def test_another_vocabulary_has_another_hash(shared: Path, tokenizer_folder: Path) -> None:
    real, small = load_tokenizer(str(shared / "data/gpt2")), load_tokenizer(str(tokenizer_folder))
    assert tokenizer_sha256(real) != tokenizer_sha256(small)


def test_a_folder_with_only_vocabulary_files_is_read_as_gpt2(shared: Path, tmp_path: Path) -> None:
    for name in ("vocab.json", "merges.txt"):
        (tmp_path / name).write_bytes((shared / "data/gpt2" / name).read_bytes())
    bare = load_tokenizer(str(tmp_path))
    assert encode_captions(bare, ["Hello world"]) == [[15496, 995, 50256]]
    assert tokenizer_sha256(bare) == tokenizer_sha256(load_tokenizer(str(shared / "data/gpt2")))


def test_another_pre_tokenizer_has_another_hash(shared: Path, tmp_path: Path) -> None:
    real = load_tokenizer(str(shared / "data/gpt2"))
    save_tokenizer(real, tmp_path)
    text = (tmp_path / "tokenizer.json").read_text()
    (tmp_path / "tokenizer.json").write_text(text.replace('"add_prefix_space": false', '"add_prefix_space": true', 1))
    (tmp_path / "tokenizer_config.json").write_text(
        '{"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|endoftext|>"}'
    )
    spaced = load_tokenizer(str(tmp_path))
    assert encode_captions(spaced, ["a dog"]) != encode_captions(real, ["a dog"])
    assert tokenizer_sha256(spaced) != tokenizer_sha256(real)


def test_a_tokenizer_that_cannot_be_loaded_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=str(tmp_path)):
        load_tokenizer(str(tmp_path))
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ModelError, match=str(tmp_path)):
        load_tokenizer(str(tmp_path))
    with pytest.raises(ModelError, match=r"tokenizer\.json is a file"):
        load_tokenizer(str(tmp_path / "tokenizer.json"))
    with pytest.raises(ModelError, match="no-such-name"):
        load_tokenizer("no-such-name")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("gpt2", False),
        ("openai/gpt2", False),
        ("a/b/c", True),
        ("./gpt2", True),
        ("~/gpt2", True),
        ("/models/gpt2", True),
    ],
)
def test_names_that_can_only_be_paths(name: str, expected: bool) -> None:
    assert is_path(name) is expected


def test_a_missing_folder_of_a_language_model_is_not_reported_as_a_network_problem(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"nowhere does not exist"):
        load_language_model(str(tmp_path / "nowhere"))
