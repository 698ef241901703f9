"""Opening checkpoints of the systems before ours. One file a system; a new one is its file and its line in `SYSTEMS`.

Nothing in such a file is run: they are read as tensors, texts and numbers, and refused where they name anything else.
"""

import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from clipcap.data.cache.fingerprint import Fingerprint
from clipcap.data.errors import CheckpointError, SourceError, one_line
from clipcap.data.pretrained.tokenizer import load_tokenizer, tokenizer_sha256
from clipcap.data.safe_pickle import read_pickle, read_torch
from clipcap.train.foreign.base import ForeignCheckpoint, ForeignModel, State, System
from clipcap.train.foreign.jmisilo import Jmisilo
from clipcap.train.foreign.lahdhirim import STUBS, Lahdhirim
from clipcap.train.foreign.rmokady import Rmokady
from clipcap.train.model.checkpoint import CheckpointConfig, LanguageModelConfig

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TOKENIZER = "gpt2"
SYSTEMS: dict[str, System] = {
    "rmokady": Rmokady(),
    "jmisilo": Jmisilo(),
    "lahdhirim": Lahdhirim(),
}
# Where a file that holds more than weights has them.
_WEIGHTS = ("model_state_dict", "caption_model_state_dict", "state_dict")


def open_foreign(path: Path, heads: int | None = None) -> ForeignCheckpoint:
    """Read a checkpoint of another system.

    Args:
        path: a `.pt` or `.pkl` file.
        heads: of GPT-2's attention, where they are not those of a published size.

    Raises:
        CheckpointError: it cannot be read, would run code, or is of no system that is known here.
    """
    try:
        state = _weights(_read(path))
    except SourceError as error:
        raise CheckpointError(str(error)) from error
    for system in SYSTEMS.values():
        if state and system.recognises(state):
            try:
                return system.convert(state, heads)
            except CheckpointError as error:
                raise CheckpointError(f"{path}: {error}") from error
            except (IndexError, KeyError, ValueError, RuntimeError) as error:  # tensors of shapes that nobody expects
                raise CheckpointError(f"{path}: its tensors have odd shapes ({one_line(error)[:120]})") from error
    raise CheckpointError(
        f"{path} is a checkpoint of no system that is known here ({', '.join(SYSTEMS)}); give the folder that "
        "clipcap-train wrote, or a file of theirs"
    )


def load_foreign(
    path: Path, *, tokenizer: str | None = None, normalize: bool = False, heads: int | None = None
) -> "tuple[ForeignModel, PreTrainedTokenizerBase, CheckpointConfig]":
    """A checkpoint of another system as `load_checkpoint` gives ours: float32, on the CPU, in evaluation mode.

    Args:
        path: a `.pt` or `.pkl` file.
        tokenizer: name or folder; by default GPT-2's, which all of them use.
        normalize: whether it was trained on rows of length 1, which the file does not say.
        heads: of GPT-2's attention, where they are not those of a published size.

    Raises:
        CheckpointError: it cannot be read, would run code, is incomplete, or of no system that is known here.
        ModelError: the tokenizer cannot be had.
    """
    found = open_foreign(path, heads)
    words = load_tokenizer(tokenizer or TOKENIZER)
    if len(words) > found.lm_config["vocab_size"]:
        fact = f"{path} knows {found.lm_config['vocab_size']:,} tokens, the tokenizer has {len(words):,}"
        raise CheckpointError(f"{fact}; name the one that belongs to it with --tokenizer")
    end = words.eos_token_id
    assert isinstance(end, int), end
    try:
        model = found.build(end)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error
    config = CheckpointConfig(
        mapper=found.mapper,
        language_model=LanguageModelConfig(
            name=str(path), tuned=True, sha256="", config=model.gpt.config.to_diff_dict()
        ),
        encoder=Fingerprint.unchecked(
            encoder=found.encoder,
            pretrained=found.pretrained,
            features=found.features,
            width=found.mapper.embedding_width,
            normalized=normalize,
            quick_gelu=found.pretrained == "openai",
            tokenizer=tokenizer or TOKENIZER,
            tokenizer_sha256=tokenizer_sha256(words),
        ),
        training={},
        progress={},
        system=found.system,
    )
    return model, words, config


def _read(path: Path) -> Any:
    if zipfile.is_zipfile(path):
        return read_torch(path)
    content = read_pickle(path, STUBS)
    return read_torch(path) if isinstance(content, int) else content  # a number begins what torch wrote before 1.6


def _weights(content: Any) -> State:
    """The tensors in what was read; none where it holds none."""
    if not isinstance(content, dict):
        return {}
    inner = next((content[name] for name in _WEIGHTS if isinstance(content.get(name), dict)), content)
    tensors = {
        name: value
        for name, value in inner.items()
        if isinstance(value, torch.Tensor) and value.layout == torch.strided and not value.is_quantized
    }
    return {str(name).removeprefix("module."): value for name, value in tensors.items()}


__all__ = ["SYSTEMS", "ForeignCheckpoint", "load_foreign", "open_foreign"]
