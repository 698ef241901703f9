"""Checks a folder of a model before a library reads it, which would wait for a FIFO and take memory for any size.

tokenizer.json and vocab.json are also checked for numbers and types at which the tokenizers library ends the process.
"""

import errno
import os
from pathlib import Path
from typing import Any

from clipcap.data.files import MAX_TEXT_BYTES, as_object, open_file, read_json_object

TEXTS = (".json", ".txt", ".jinja", ".model")  # what libraries read whole
MAX_TOKENS = 1 << 24  # ids of tokens; the largest vocabulary that is known has 256,000


def check_model_folder(folder: Path) -> None:
    """Check that a folder holds regular files and folders alone, and no text of more than `MAX_TEXT_BYTES`.

    Raises:
        OSError: it does not, or cannot be read. `strerror` is always set.
    """
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir():
                continue
            with open_file(Path(entry.path)) as file:
                size = os.fstat(file.fileno()).st_size
            if size > MAX_TEXT_BYTES and entry.name.endswith(TEXTS):
                raise OSError(errno.EFBIG, f"it has more than {MAX_TEXT_BYTES:,} bytes", entry.path)


def check_tokenizer_files(folder: Path) -> None:
    """Check tokenizer.json and vocab.json of a folder, where they exist.

    Raises:
        OSError: as `read_json_object`.
        ValueError: tokenizer.json or vocab.json is damaged, or holds what the library does not survive.
    """
    for name, check in (("tokenizer.json", _check_tokenizer), ("vocab.json", check_vocabulary)):
        file = folder / name
        if file.is_file():
            try:
                check(read_json_object(file))
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from error


def check_vocabulary(tokens: dict[str, Any]) -> None:
    """Check the ids of tokens, by their texts.

    Raises:
        ValueError: one is no number, negative, too large or that of another token.
    """
    for text, number in tokens.items():
        if type(number) is not int or not 0 <= number < MAX_TOKENS:
            raise ValueError(
                f"the token {text[:40]!r} has the id {str(number)[:40]}, not a number below {MAX_TOKENS:,}"
            )
    if len(set(tokens.values())) < len(tokens):
        raise ValueError("two tokens have the same id")


def _check_tokenizer(content: dict[str, Any]) -> None:
    model = as_object(content.get("model"))
    vocabulary = model.get("vocab")
    if isinstance(vocabulary, dict):  # a list of pairs where the model is a Unigram
        check_vocabulary(vocabulary)
    if "merges" in model:
        _check_merges(model, as_object(vocabulary))
    added = content.get("added_tokens") or []
    if not isinstance(added, list):
        raise ValueError("its added_tokens are no list")
    for token in map(as_object, added):
        text, number = token.get("content"), token.get("id")
        if not isinstance(text, str) or not text:
            raise ValueError("an added token has no text")
        check_vocabulary({text: number})
    _check_parts({name: value for name, value in content.items() if name != "model"})
    _check_parts({name: value for name, value in model.items() if name not in ("vocab", "merges")})


def _check_merges(model: dict[str, Any], vocabulary: dict[str, Any]) -> None:
    """Check that each merge of a BPE joins two tokens to a third."""
    merges = model["merges"]
    if not isinstance(merges, list):
        raise ValueError("its merges are no list")
    if model.get("continuing_subword_prefix"):
        raise ValueError("it has a continuing_subword_prefix, which is not supported")
    for merge in merges:
        pair = merge.split(" ") if isinstance(merge, str) else merge
        if not isinstance(pair, list) or len(pair) != 2 or not all(isinstance(part, str) for part in pair):
            raise ValueError(f"the merge {str(merge)[:40]!r} is not a pair of tokens")
        for text in (*pair, "".join(pair)):
            if text not in vocabulary:
                raise ValueError(f"the merge {str(merge)[:40]!r} needs the token {text[:40]!r}, which is not there")


def _check_parts(value: Any) -> None:
    """Check the normalizer, the decoder and so on, at any depth, for what the library does not survive.

    Raises:
        ValueError: a number is too large, a pattern is empty, a template names a token that it does not define, or a
            part is Precompiled, whose content the library trusts.
    """
    if isinstance(value, list):
        for item in value:
            _check_parts(item)
    elif isinstance(value, dict):
        kind = value.get("type")
        if kind == "Precompiled" or "precompiled_charsmap" in value:
            raise ValueError("it has a Precompiled normalizer, which is not supported")
        if value.get("String") == "" or value.get("Regex") == "":
            raise ValueError("it has an empty pattern")
        if "special_tokens" in value:  # a TemplateProcessing, though its type may be missing
            _check_template(value)
        for item in value.values():
            _check_parts(item)
    elif isinstance(value, int) and abs(value) > MAX_TOKENS:
        raise ValueError(f"it holds the number {str(value)[:40]}")


def _check_template(template: dict[str, Any]) -> None:
    defined = as_object(template["special_tokens"])
    for side in ("single", "pair"):
        pieces = template.get(side)
        for piece in map(as_object, pieces if isinstance(pieces, list) else ()):
            named = piece.get("SpecialToken")
            if isinstance(named, dict) and named.get("id") not in defined:
                raise ValueError(
                    f"its template names the token {str(named.get('id'))[:40]!r}, which it does not define"
                )
