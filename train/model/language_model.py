"""Loads a GPT-2 of any size by name or from a folder, and refuses one with missing weights."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from clipcap.data.errors import ModelError, one_line
from clipcap.data.files import read_json_object
from clipcap.data.memory import exhausted_memory
from clipcap.data.pretrained.bundled import locate_language_model
from clipcap.data.pretrained.hub import is_path, use_hub_if_reachable
from clipcap.data.pretrained.model_folder import check_model_folder
from clipcap.data.pretrained.tokenizer import load_tokenizer
from clipcap.train.model.gpt2_config import gpt2_config, parameter_count

if TYPE_CHECKING:
    from transformers import GPT2LMHeadModel, PreTrainedTokenizerBase


def load_language_model(name: str) -> "GPT2LMHeadModel":
    """Load GPT-2 by its name on the hub (`gpt2`, `gpt2-medium`, ...), from a folder that transformers saved, or `demo`.

    Returns:
        The model in float32, on the CPU.

    Raises:
        ModelError: it cannot be loaded, is not a GPT-2, or weights are missing or have another shape.
    """
    import torch
    from transformers import AutoConfig, GPT2LMHeadModel
    from transformers.utils import logging

    logging.disable_progress_bar()
    name = locate_language_model(name)
    folder = Path(name)
    if folder.is_dir() and not (folder / "config.json").is_file():
        raise ModelError(f"`lm` {name} holds no config.json; give a folder that transformers saved a GPT-2 to")
    if not folder.is_dir() and is_path(name):
        raise ModelError(
            f"`lm` {name} does not exist; give a folder that transformers saved a GPT-2 to, or a name as gpt2"
        )
    if not folder.is_dir():
        use_hub_if_reachable()
    try:
        if folder.is_dir():
            _check_folder(folder)
        config = AutoConfig.from_pretrained(name, trust_remote_code=False)
        if config.model_type != "gpt2":
            raise ModelError(
                f"`lm` {name} is a {config.model_type}; give a GPT-2 (gpt2, gpt2-medium, gpt2-large, gpt2-xl)"
            )
        loaded: Any = GPT2LMHeadModel.from_pretrained(
            name,
            config=gpt2_config(config.to_dict()),
            output_loading_info=True,
            dtype=torch.float32,
            trust_remote_code=False,
        )
    except ModelError:
        raise
    except Exception as error:  # the library raises OSError, ValueError, RuntimeError and the errors of safetensors
        if exhausted_memory(error):
            raise
        if folder.is_dir():
            raise ModelError(
                f"`lm` {name} cannot be loaded ({one_line(error)[:200]}); give a complete GPT-2"
            ) from error
        raise ModelError(
            f"the language model {name!r} cannot be loaded: no network, or no such name, and it was never downloaded "
            "here; connect once, or give as `lm` a folder that transformers saved a GPT-2 to"
        ) from error
    model: GPT2LMHeadModel = loaded[0]
    loading: dict[str, Any] = loaded[1]
    if model.lm_head.weight is not model.transformer.wte.weight:
        raise ModelError(
            f"`lm` {name} has an untied output layer (tie_word_embeddings: false); give a GPT-2 as published"
        )
    wrong = sorted({*loading["missing_keys"], *(str(key) for key in loading["mismatched_keys"])} - {"lm_head.weight"})
    if wrong:
        raise ModelError(f"`lm` {name} lacks {len(wrong)} weights (as {wrong[0]}); give a complete GPT-2")
    return model


def _check_folder(folder: Path) -> None:
    """Check the files of a folder before a library reads them, and that config.json describes no more than they hold.

    Raises:
        OSError, ValueError: a file is of another kind, a size is no number or too large, or the weights are too few.
    """
    check_model_folder(folder)
    content = read_json_object(folder / "config.json")
    if content.get("model_type", "gpt2") != "gpt2":
        return  # which the caller says
    count = parameter_count(gpt2_config(content))
    stored = sum(file.stat().st_size for file in folder.iterdir() if file.suffix in (".safetensors", ".bin"))
    if count > stored:  # each number takes a byte or more
        raise ValueError(f"config.json describes {count:,} weights, the files of weights have {stored:,} bytes")


def load_own_tokenizer(name: str) -> "PreTrainedTokenizerBase | None":
    """Load the tokenizer that comes with a language model, or return None if its folder has none."""
    name = locate_language_model(name)
    if Path(name).is_dir() and not any((Path(name) / file).is_file() for file in ("tokenizer.json", "vocab.json")):
        return None
    return load_tokenizer(name)
