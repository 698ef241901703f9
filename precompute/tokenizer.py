"""The tokenizer of a cache: loaded by name, or trained on the training captions and kept beside the cache."""

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from clipcap.data.cache.atomic import make_new_folder, replace_folder
from clipcap.data.command.progress import plural
from clipcap.data.errors import ClipCapError, ModelError, SourceError, UsageError
from clipcap.data.pretrained.new_tokenizer import is_new, new_size, train_tokenizer
from clipcap.data.pretrained.tokenizer import load_tokenizer, save_tokenizer, tokenizer_sha256
from clipcap.data.records import Source, storable
from clipcap.data.texts import Texts

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)


def choose_tokenizer(name: str, source: Source, kept: Path | None = None) -> "PreTrainedTokenizerBase":
    """Load a tokenizer, or train one on the captions of a dataset's training images.

    Args:
        name: as `load_tokenizer` takes it, or `new:5000` for a new one of so many tokens.
        source: the dataset, with splits.
        kept: the folder of the new one that the cache has already. It stays, for models are trained on its tokens.

    Raises:
        UsageError: the number of tokens is not allowed.
        SourceError: the dataset has no training captions.
        ModelError: the tokenizer cannot be loaded.
    """
    if not is_new(name) or kept is not None:
        return load_tokenizer(name if kept is None else str(kept))
    size = new_size(name)
    train = (record.captions for record in source.records if record.split == "train")
    captions = Texts(storable(text) for texts in train for text in texts)
    if not captions:
        raise SourceError(f"{source.root} has no training captions to train the `tokenizer` {name} on; name another")
    tokenizer = train_tokenizer(captions, size)
    logger.info(f"trained a tokenizer of {plural(len(tokenizer), 'token')} on {plural(len(captions), 'caption')}")
    return tokenizer


def keep_tokenizer(tokenizer: "PreTrainedTokenizerBase", folder: Path) -> None:
    """Write a new tokenizer to its folder beside the cache, unless it is there already.

    Raises:
        UsageError: the folder holds something else.
        ClipCapError: it cannot be written.
    """
    try:
        if tokenizer_sha256(load_tokenizer(str(folder))) == tokenizer_sha256(tokenizer):
            return
    except ModelError:
        pass  # there is none, or a part of one
    if folder.exists() and not (folder / "tokenizer.json").is_file():
        raise UsageError(
            f"{folder} is in the way of the new tokenizer, and holds none; move it, or give another `output`"
        )
    new = folder.with_name(f".{folder.name}.partial")
    try:
        make_new_folder(new)
        save_tokenizer(tokenizer, new)
        replace_folder(new, folder)
    except Exception as error:  # OSError, and a bare Exception of the tokenizers library
        raise ClipCapError(f"the tokenizer cannot be written to {folder} ({error}); give another `output`") from error
