"""A folder of a stranger's tokenizer or model is checked before a library reads it, which could end the process."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from clipcap.data.errors import ModelError
from clipcap.data.pretrained import tokenizer as module
from clipcap.data.pretrained.model_folder import check_tokenizer_files
from clipcap.data.pretrained.tokenizer import load_tokenizer
from small_world import change_json

Change = Callable[[dict[str, Any]], object]


@pytest.fixture
def folder(tokenizer_folder: Path, tmp_path: Path) -> Path:
    """A copy of the small tokenizer, to be changed."""
    shutil.copytree(tokenizer_folder, tmp_path / "tokenizer")
    return tmp_path / "tokenizer"


def vocabulary(**tokens: Any) -> Change:
    return lambda content: content["model"]["vocab"].update(tokens)


CHANGES: list[tuple[Change, str]] = [
    (vocabulary(a=2**31), "the token 'a' has the id 2147483648"),
    (vocabulary(a=-1), "the token 'a' has the id -1"),
    (vocabulary(a="1"), "the token 'a' has the id 1, not a number"),
    (vocabulary(a=None), "the token 'a' has the id None"),
    (vocabulary(new=5), "two tokens have the same id"),
    (lambda c: c["model"].update(vocab=[]), "it holds a list, not an object"),
    (lambda c: c["model"]["merges"].append(["a", "qqq"]), "needs the token 'qqq'"),
    (lambda c: c["model"]["merges"].append(["a"]), "is not a pair of tokens"),
    (lambda c: c["model"]["merges"].append(7), "is not a pair of tokens"),
    (lambda c: c["model"].update(merges={}), "its merges are no list"),
    (lambda c: c["model"].update(continuing_subword_prefix="ge"), "continuing_subword_prefix"),
    (lambda c: c.update(model=None), "it holds a NoneType, not an object"),
    (lambda c: c.update(added_tokens=5), "its added_tokens are no list"),
    (lambda c: c["added_tokens"][0].update(id="7"), "has the id 7, not a number"),
    (lambda c: c["added_tokens"][0].update(content=""), "an added token has no text"),
    (lambda c: c.update(padding={"strategy": {"Fixed": 10**12}}), "it holds the number 1000000000000"),
    (lambda c: c.update(normalizer={"type": "Precompiled", "precompiled_charsmap": "/////wAA"}), "Precompiled"),
    (lambda c: c.update(normalizer={"type": "Replace", "pattern": {"String": ""}, "content": "x"}), "an empty pattern"),
    (
        lambda c: c.update(
            post_processor={"single": [{"SpecialToken": {"id": "x", "type_id": 0}}], "pair": [], "special_tokens": {}}
        ),
        "names the token 'x'",
    ),
]


@pytest.mark.parametrize(("edit", "message"), CHANGES)
def test_a_tokenizer_that_the_library_may_not_survive_is_refused(folder: Path, edit: Change, message: str) -> None:
    change_json(folder / "tokenizer.json", edit)
    with pytest.raises(ModelError) as found:
        load_tokenizer(str(folder))
    assert str(found.value).startswith(f"the tokenizer in {folder} cannot be read (")
    assert message in str(found.value)


@pytest.mark.parametrize("edit", [lambda c: c.update(a=-1), lambda c: c.update(a="1"), lambda c: c.update(a=2**31)])
def test_a_vocabulary_alone_is_checked_too(folder: Path, edit: Change) -> None:
    for name in ("config.json", "tokenizer_config.json", "tokenizer.json"):
        (folder / name).unlink()
    change_json(folder / "vocab.json", edit)
    with pytest.raises(ModelError, match=r"vocab\.json: the token 'a' has the id"):
        load_tokenizer(str(folder))


def test_a_tokenizer_nested_deep_is_refused(folder: Path) -> None:
    (folder / "tokenizer.json").write_text('{"model":' * 50_000)
    with pytest.raises(ModelError, match="cannot be read"):
        load_tokenizer(str(folder))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs a system with FIFOs")
def test_any_fifo_in_the_folder_is_named(folder: Path) -> None:
    os.mkfifo(folder / "chat_template.jinja")
    with pytest.raises(ModelError, match="a FIFO, not a file"):
        load_tokenizer(str(folder))


def test_a_text_of_many_gigabytes_is_not_read(folder: Path) -> None:
    with (folder / "merges.txt").open("r+b") as file:
        file.truncate(1 << 40)
    with pytest.raises(ModelError, match="it has more than 134,217,728 bytes"):
        load_tokenizer(str(folder))


def test_a_panic_of_the_library_is_one_line(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    panic = type("PanicException", (BaseException,), {})

    def fail(_: object) -> None:
        raise panic("index out of bounds")

    monkeypatch.setattr(module, "_try", fail)
    with pytest.raises(ModelError, match=r"cannot be read \(index out of bounds\)"):
        load_tokenizer(str(folder))


def test_published_tokenizers_pass(shared: Path, folder: Path) -> None:
    check_tokenizer_files(shared / "data/gpt2")
    check_tokenizer_files(folder)
    assert load_tokenizer("demo").eos_token_id is not None
