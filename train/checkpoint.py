"""A checkpoint: a folder that rebuilds a captioning model from itself alone.

    config.json          what it is: mapper, language model, encoder of its embeddings, settings of its run
    model.safetensors    what was trained, under ClipCap's names: `clip_project.*`, and `gpt.*` where the language
                         model was tuned
    tokenizer/           the language model's tokenizer

A language model that was not tuned is not in the folder: config.json names it, with the sum of its weights.
"""

import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from clipcap.data.atomic import recover_folder, replace_folder
from clipcap.data.errors import CheckpointError, ClipCapError, one_line
from clipcap.data.fingerprint import Fingerprint
from clipcap.data.tokenizer import load_tokenizer, save_tokenizer
from clipcap.data.weights import weights_sha256
from clipcap.train.language_model import load_language_model
from clipcap.train.mappers import MapperConfig, build_mapper
from clipcap.train.model import ClipCapModel

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

FORMAT = "clipcap-checkpoint"
FORMAT_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class LanguageModelConfig:
    """The language model of a checkpoint.

    Attributes:
        name: name or folder that it was loaded from.
        tuned: whether its weights are in the checkpoint.
        sha256: of the weights that it was loaded with.
        config: GPT-2's own configuration.
    """

    name: str
    tuned: bool
    sha256: str
    config: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class CheckpointConfig:
    """What config.json holds.

    Attributes:
        mapper: sizes of the mapper.
        language_model: which GPT-2.
        encoder: the fingerprint of the cache: what its embeddings came from.
        training: the settings of the run.
        progress: step, epoch, validation loss and the like, when it was saved.
    """

    mapper: MapperConfig
    language_model: LanguageModelConfig
    encoder: Fingerprint
    training: dict[str, Any]
    progress: dict[str, Any]


def save_checkpoint(
    folder: Path,
    model: ClipCapModel,
    tokenizer: "PreTrainedTokenizerBase",
    config: CheckpointConfig,
    state: tuple[dict[str, torch.Tensor], dict[str, Any]] | None = None,
) -> None:
    """Write a checkpoint, whole or not at all; an older one in its place goes when the new one is complete.

    Args:
        folder: where to.
        model, tokenizer, config: the checkpoint.
        state: tensors and JSON of the training state, for a checkpoint that training goes on from.

    Raises:
        CheckpointError: it cannot be written. The older one stays.
    """
    new = folder.with_name(f".{folder.name}.partial")
    try:
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir(parents=True)
        save_file(_trained(model), new / "model.safetensors")
        save_tokenizer(tokenizer, new / "tokenizer")
        if state is not None:
            save_file(state[0], new / "training_state.safetensors")
            (new / "training_state.json").write_text(json.dumps(state[1]))
        content = {"format": FORMAT, "format_version": FORMAT_VERSION, **asdict(config)}
        (new / "config.json").write_text(json.dumps(content, indent=1))
        replace_folder(new, folder)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(new, ignore_errors=True)
        raise CheckpointError(
            f"the checkpoint {folder} cannot be written ({one_line(error)}); mend that and go on with --resume"
        ) from error


def read_config(folder: Path) -> CheckpointConfig:
    """Read what a checkpoint is, without its weights.

    Raises:
        CheckpointError: there is none, it is foreign, broken, or of an unknown version.
    """
    recover_folder(folder)
    file = folder / "config.json"
    if not file.is_file():
        raise CheckpointError(f"{folder} holds no checkpoint (config.json); make one with: clipcap-train cache.h5")
    try:
        content = json.loads(file.read_text())
        if content.get("format") != FORMAT:
            raise CheckpointError(f"{file} is not of a clipcap checkpoint; give the folder that clipcap-train wrote")
        if content["format_version"] != FORMAT_VERSION:
            raise CheckpointError(
                f"{folder} is a checkpoint of version {content['format_version']}, this program reads "
                f"{FORMAT_VERSION}; "
                "install a newer one: pip install --upgrade clipcap-cache"
            )
        return CheckpointConfig(
            mapper=MapperConfig(**content["mapper"]),
            language_model=LanguageModelConfig(**content["language_model"]),
            encoder=Fingerprint.from_json(json.dumps(content["encoder"])),
            training=content["training"],
            progress=content["progress"],
        )
    except CheckpointError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, OSError, ClipCapError) as error:
        raise CheckpointError(f"{file} is damaged ({type(error).__name__}: {one_line(error)}); use another") from error


def load_checkpoint(folder: Path) -> tuple[ClipCapModel, "PreTrainedTokenizerBase", CheckpointConfig]:
    """Rebuild a model from its checkpoint, in float32, on the CPU, in evaluation mode.

    Raises:
        CheckpointError: there is none, it is broken, or the language model that it names has changed.
        ModelError: the language model that it names cannot be had.
    """
    from transformers import GPT2Config, GPT2LMHeadModel

    config = read_config(folder)
    if config.language_model.tuned:
        with torch.device("meta"):  # no time for random weights that the file replaces
            lm = GPT2LMHeadModel(GPT2Config(**config.language_model.config))
            mapper = build_mapper(config.mapper)
        model = ClipCapModel(mapper, lm).to_empty(device="cpu")
        model.gpt.tie_weights()
    else:
        lm = load_language_model(config.language_model.name)
        if weights_sha256(lm) != config.language_model.sha256:
            raise CheckpointError(
                f"{folder} was trained with another {config.language_model.name} than the one that is there now; "
                "put the right one back"
            )
        model = ClipCapModel(build_mapper(config.mapper), lm)
    load_trained(folder, model)
    return model.eval(), load_tokenizer(str(folder / "tokenizer")), config


def load_trained(folder: Path, model: ClipCapModel) -> None:
    """Put the trained weights of a checkpoint into a model of its shape.

    Raises:
        CheckpointError: they are missing, broken, or do not fit.
    """
    file = folder / "model.safetensors"
    try:
        tensors = load_file(file)
        expected = {name for name in model.state_dict() if name != "gpt.lm_head.weight"}
        if not any(name.startswith("gpt.") for name in tensors):
            expected = {name for name in expected if name.startswith("clip_project.")}
        if set(tensors) != expected:
            difference = sorted(set(tensors) ^ expected)
            raise CheckpointError(
                f"{file} has other weights than its config.json says (as {difference[0]}); use another"
            )
        model.load_state_dict(tensors, strict=False)
    except (SafetensorError, OSError, RuntimeError) as error:
        raise CheckpointError(f"{file} is damaged ({one_line(error)}); use another checkpoint") from error


def read_state(folder: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Read the training state beside a checkpoint.

    Raises:
        CheckpointError: there is none (as in `best`), or it is broken.
    """
    try:
        state = json.loads((folder / "training_state.json").read_text())
        return load_file(folder / "training_state.safetensors"), state
    except (OSError, ValueError, SafetensorError) as error:
        raise CheckpointError(f"{folder} holds no training state to go on from ({one_line(error)})") from error


def _trained(model: ClipCapModel) -> dict[str, torch.Tensor]:
    """What trains, and with a tuned language model all of it.

    The output layer is the input embedding and stored once.
    """
    tuned = any(parameter.requires_grad for parameter in model.gpt.parameters())
    return {
        name: tensor.detach().contiguous().cpu()
        for name, tensor in model.state_dict().items()
        if name.startswith("clip_project.") or (tuned and name != "gpt.lm_head.weight")
    }
