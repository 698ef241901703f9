"""Opens checkpoints of other captioning systems. A new system is one file with a `System`, and its line in `SYSTEMS`.

A `System` recognises its weights by their names, reads all sizes from their shapes, and renames them to ours (base.py).
How it decodes is a strategy in caption/decoding/. Nothing in a file is run: it is read as tensors, texts and numbers,
and refused if it names anything else.
"""

import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from clipcap.data.cache.fingerprint import Fingerprint
from clipcap.data.errors import CheckpointError, SourceError, UsageError, one_line, unreadable
from clipcap.data.files import open_file
from clipcap.data.memory import exhausted_memory
from clipcap.data.pretrained.tokenizer import load_tokenizer, tokenizer_sha256
from clipcap.data.safe_pickle import read_pickle, read_torch
from clipcap.train.foreign.base import ForeignCheckpoint, ForeignModel, State, System
from clipcap.train.foreign.jmisilo import Jmisilo
from clipcap.train.foreign.lahdhirim import STUBS, Lahdhirim
from clipcap.train.foreign.rmokady import Rmokady
from clipcap.train.model.checkpoint import CheckpointConfig, LanguageModelConfig, check_fit

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TOKENIZER = "gpt2"
SYSTEMS: dict[str, System] = {
    "rmokady": Rmokady(),
    "jmisilo": Jmisilo(),
    "lahdhirim": Lahdhirim(),
}
# Keys under which files that hold more than weights have them.
_WEIGHTS = ("model_state_dict", "caption_model_state_dict", "state_dict")


def open_foreign(path: Path, heads: int | None = None) -> ForeignCheckpoint:
    """Read a checkpoint of another system.

    Args:
        path: a `.pt` or `.pkl` file.
        heads: of GPT-2's attention, if it does not have a published size.

    Raises:
        CheckpointError: it cannot be read, would run code, or belongs to no system in `SYSTEMS`.
    """
    try:
        state = _weights(_read(path))
    except SourceError as error:
        raise CheckpointError(str(error) if str(path) in str(error) else f"{path}: {error}") from error
    for system in SYSTEMS.values():
        if state and system.recognises(state):
            try:
                return system.convert(state, heads)
            except CheckpointError as error:
                raise CheckpointError(f"{path}: {error}") from error
            except UsageError as error:  # sizes that no mapper has
                raise CheckpointError(f"{path}: {str(error).replace('`', '')}; use another") from error
            except (IndexError, KeyError, ValueError, RuntimeError) as error:  # tensors with unexpected shapes
                if exhausted_memory(error):
                    raise
                raise CheckpointError(
                    f"{path}: its tensors have unexpected shapes ({one_line(error)[:120]}); use another"
                ) from error
    raise CheckpointError(
        f"{path} is not a checkpoint of a known system ({', '.join(SYSTEMS)}); give one of those, or the folder that "
        "clipcap-train wrote"
    )


def load_foreign(
    path: Path, *, tokenizer: str | None = None, normalize: bool = False, heads: int | None = None
) -> "tuple[ForeignModel, PreTrainedTokenizerBase, CheckpointConfig]":
    """Load a checkpoint of another system, as `load_checkpoint` loads ours: float32, on the CPU, in evaluation mode.

    Args:
        path: a `.pt` or `.pkl` file.
        tokenizer: name or folder; by default GPT-2's, which all of these systems use.
        normalize: whether the model was trained on embeddings of length 1, which the file does not say.
        heads: of GPT-2's attention, if it does not have a published size.

    Raises:
        CheckpointError: it cannot be read, would run code, is incomplete, or belongs to no system in `SYSTEMS`.
        ModelError: the tokenizer cannot be loaded.
    """
    found = open_foreign(path, heads)
    loaded = load_tokenizer(tokenizer or TOKENIZER)
    if len(loaded) > found.lm_config["vocab_size"]:
        fact = f"{path} has {found.lm_config['vocab_size']:,} tokens, the tokenizer has {len(loaded):,}"
        raise CheckpointError(f"{fact}; give the tokenizer of the checkpoint as `tokenizer`")
    end = loaded.eos_token_id
    assert isinstance(end, int), end
    try:
        model = found.build(end)
        check_fit(model, loaded)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error
    except (ValueError, RuntimeError) as error:  # sizes of which torch makes no tensor, too
        if exhausted_memory(error):
            raise
        raise CheckpointError(f"{path} holds no model that can be built ({one_line(error)}); use another") from error
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
            tokenizer_sha256=tokenizer_sha256(loaded),
        ),
        training={},
        progress={},
        system=found.system,
    )
    return model, loaded, config


def _read(path: Path) -> Any:
    try:
        with open_file(path) as file:
            is_archive = zipfile.is_zipfile(file)
    except (OSError, zipfile.BadZipFile) as error:
        raise unreadable(path, error, "give another file") from error
    if is_archive:
        return read_torch(path)
    content = read_pickle(path, STUBS)
    return read_torch(path) if isinstance(content, int) else content  # files of torch before 1.6 begin with a number


def _weights(content: Any) -> State:
    """The tensors by name in what was read; empty if it holds none."""
    if not isinstance(content, dict):
        return {}
    inner = next((content[name] for name in _WEIGHTS if isinstance(content.get(name), dict)), content)
    tensors = {
        name: value
        for name, value in inner.items()
        if isinstance(value, torch.Tensor) and value.layout == torch.strided and not value.is_quantized
    }
    for name, value in tensors.items():  # views may repeat a few numbers without end
        if value.numel() * value.element_size() > value.untyped_storage().nbytes():
            raise SourceError(f"the tensor {str(name)[:80]} has more numbers than the file holds; give another file")
    return {str(name).removeprefix("module."): value for name, value in tensors.items()}


__all__ = ["SYSTEMS", "ForeignCheckpoint", "load_foreign", "open_foreign"]
