"""Loads the tokenizer of the language model, encodes captions with it, and identifies it by a hash.

Stage 1 encodes the captions, stage 2 stores the tokenizer in the checkpoint, and captioning decodes with it.
"""

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clipcap.data.errors import ModelError, one_line
from clipcap.data.memory import exhausted_memory
from clipcap.data.pretrained.bundled import locate_language_model
from clipcap.data.pretrained.hub import is_path, use_hub_if_reachable
from clipcap.data.pretrained.model_folder import check_model_folder, check_tokenizer_files, check_vocabulary

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def load_tokenizer(name: str) -> "PreTrainedTokenizerBase":
    """Load a tokenizer by its name on the hub, or from a folder.

    Args:
        name: `gpt2`, `demo`, or a folder with `tokenizer.json`, or with `vocab.json` and `merges.txt`.

    Raises:
        ModelError: it cannot be loaded, or has no end-of-text token.
    """
    from transformers import AutoTokenizer, GPT2Tokenizer

    name = locate_language_model(name)
    folder = Path(name)
    if folder.is_dir():
        if not ((folder / "tokenizer.json").is_file() or (folder / "vocab.json").is_file()):
            raise ModelError(f"{name} holds no tokenizer (tokenizer.json, or vocab.json and merges.txt); name another")
    elif folder.exists():
        raise ModelError(f"`tokenizer` {name} is a file; give the folder that holds it")
    elif is_path(name):
        raise ModelError(f"`tokenizer` {name} does not exist; give a folder with tokenizer.json, or a name as gpt2")
    else:
        use_hub_if_reachable()
    # A folder with only vocabulary files does not name a class, so it is taken for GPT-2's.
    bare = folder.is_dir() and not any((folder / file).is_file() for file in ("config.json", "tokenizer_config.json"))
    kind: Any = GPT2Tokenizer if bare else AutoTokenizer
    try:
        if folder.is_dir():
            check_model_folder(folder)
            check_tokenizer_files(folder)
        tokenizer: PreTrainedTokenizerBase = kind.from_pretrained(name, trust_remote_code=False)
        _try(tokenizer)
    except BaseException as error:  # the library raises OSError, ValueError, KeyError, and panics of Rust
        if not (isinstance(error, Exception) or is_panic(error)) or exhausted_memory(error):
            raise
        if folder.is_dir():
            raise ModelError(f"the tokenizer in {name} cannot be read ({one_line(error)}); name another") from error
        raise ModelError(
            f"the tokenizer {name!r} cannot be loaded: no network, or no such name, and it was never downloaded here; "
            "connect once, or give a folder that holds it as `tokenizer`"
        ) from error
    if tokenizer.eos_token_id is None:
        raise ModelError(f"the tokenizer {name!r} has no end-of-text token, so captions could not end; use GPT-2's")
    return tokenizer


def is_panic(error: BaseException) -> bool:
    """Return whether an exception is a panic of a library in Rust, which is no `Exception`."""
    return type(error).__name__ == "PanicException"


def _try(tokenizer: "PreTrainedTokenizerBase") -> None:
    """Encode and decode a text, which raises whatever the library raises for a damaged tokenizer."""
    check_vocabulary(tokenizer.get_vocab())
    tokenizer.decode(tokenizer("A dog's ball, 12 cm.", split_special_tokens=True, verbose=False)["input_ids"])
    if not isinstance(tokenizer.eos_token_id, int | None):
        raise ValueError(f"its end-of-text token has the id {tokenizer.eos_token_id}")


def encode_captions(tokenizer: "PreTrainedTokenizerBase", texts: list[str]) -> list[list[int]]:
    """Return the tokens of each caption as the model is trained on them, with the end-of-text token last.

    Every run of white space becomes one space, and none is left at either end. A caption that spells `<|endoftext|>`
    gets the tokens of these letters, not the end-of-text token.
    """
    tidy = [" ".join(text.split()) for text in texts]
    if not tidy:
        return []
    encoded = tokenizer(tidy, add_special_tokens=False, split_special_tokens=True, verbose=False)["input_ids"]
    end = tokenizer.eos_token_id
    return [[*tokens, end] for tokens in encoded]


def tokenizer_sha256(tokenizer: "PreTrainedTokenizerBase") -> str:
    """Return a SHA-256 over what decides the tokens, as hexadecimal digits.

    That is the vocabulary, the merges, the normalizer, the pre-tokenizer and the end-of-text token. Files of different
    kinds that hold the same tokenizer have the same hash.
    """
    backend = json.loads(tokenizer.backend_tokenizer.to_str()) if tokenizer.is_fast else {"model": {}}
    merges = [merge.split(" ") if isinstance(merge, str) else merge for merge in backend["model"].get("merges", [])]
    before = [backend.get("normalizer"), backend.get("pre_tokenizer")]
    parts = [sorted(tokenizer.get_vocab().items()), merges, before, tokenizer.eos_token_id]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def save_tokenizer(tokenizer: "PreTrainedTokenizerBase", folder: Path) -> None:
    """Write the files of a tokenizer into a folder that `load_tokenizer` reads."""
    tokenizer.save_pretrained(str(folder))
