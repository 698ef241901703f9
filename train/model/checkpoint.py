"""A checkpoint is a folder from which a captioning model can be rebuilt.

    config.json          mapper, language model, encoder of the embeddings, settings and progress of the run
    model.safetensors    the trained weights under ClipCap's names: `clip_project.*`, and `gpt.*` if the language model
                         was tuned
    tokenizer/           the language model's tokenizer

    training_state.json, training_state.safetensors    only in `last`: see train/run/state.py

A language model that was not tuned is not in the folder: config.json has its name and the sum of its weights.
"""

import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from clipcap.data.cache.atomic import make_new_folder, replace_folder
from clipcap.data.cache.fingerprint import Fingerprint
from clipcap.data.errors import CheckpointError, ClipCapError, one_line
from clipcap.data.pretrained.tokenizer import load_tokenizer, save_tokenizer
from clipcap.data.pretrained.weights import weights_sha256
from clipcap.train.mappers import MapperConfig, mapper_config
from clipcap.train.mappers.module import Mapper
from clipcap.train.model.captioning import ClipCapModel
from clipcap.train.model.language_model import load_language_model

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
        sha256: SHA-256 of the weights that it was loaded with.
        config: GPT-2's own configuration.
    """

    name: str
    tuned: bool
    sha256: str
    config: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class CheckpointConfig:
    """The content of config.json.

    Attributes:
        mapper: kind and sizes of the mapper.
        language_model: the GPT-2.
        encoder: fingerprint of the cache, which says what made the embeddings.
        training: settings of the run.
        progress: `step`, `epoch` and `best_val_loss`, the lowest so far; where a metric of captions chooses the best
            checkpoint, also its name, `metric`, and the highest score so far, such as `best_val_cider`.
        system: the system that trained the model, which decides how it is decoded: `clipcap`, or one of `SYSTEMS` in
            train/foreign. It is not stored.
    """

    mapper: MapperConfig
    language_model: LanguageModelConfig
    encoder: Fingerprint
    training: dict[str, Any]
    progress: dict[str, Any]
    system: str = "clipcap"


def save_checkpoint(
    folder: Path,
    model: ClipCapModel,
    tokenizer: "PreTrainedTokenizerBase",
    config: CheckpointConfig,
    state: tuple[dict[str, torch.Tensor], dict[str, Any]] | None = None,
) -> None:
    """Write a checkpoint, whole or not at all. It replaces an older one when it is complete.

    Args:
        folder: folder of the checkpoint.
        model: its model, on any device.
        tokenizer: its tokenizer.
        config: the content of its config.json.
        state: tensors and numbers of the training state, for a checkpoint that can be resumed from.

    Raises:
        CheckpointError: it cannot be written. The older one stays.
    """
    new = folder.with_name(f".{folder.name}.partial")
    try:
        make_new_folder(new)
        tensors = model.state_dict()
        names = _stored_names(model, config.language_model.tuned)
        save_file({name: tensors[name].contiguous().cpu() for name in names}, new / "model.safetensors")
        save_tokenizer(tokenizer, new / "tokenizer")
        if state is not None:
            save_file(state[0], new / "training_state.safetensors")
            (new / "training_state.json").write_text(json.dumps(state[1]), encoding="utf-8")
        content = {"format": FORMAT, "format_version": FORMAT_VERSION, **asdict(config)}
        (new / "config.json").write_text(json.dumps(content, indent=1), encoding="utf-8")
        for file in new.glob("*.safetensors"):  # safetensors makes them readable for their owner only
            shutil.copymode(new / "config.json", file)
        replace_folder(new, folder)
    except Exception as error:  # OSError, SafetensorError, and a bare Exception of the tokenizers library
        shutil.rmtree(new, ignore_errors=True)
        raise CheckpointError(
            f"the checkpoint {folder} cannot be written ({one_line(error)}); fix that and continue with `resume`"
        ) from error


def check_version(file: Path, found: object, known: int) -> None:
    """Check the version that a file states against the one that this program reads.

    Raises:
        CheckpointError: they differ.
    """
    if found != known:
        fact = f"{file} has version {found}, and this program reads version {known}"
        raise CheckpointError(f"{fact}; install a newer one: pip install --upgrade clipcap-cache")


def read_config(folder: Path) -> CheckpointConfig:
    """Read the config.json of a checkpoint.

    Raises:
        CheckpointError: it is missing, damaged, of another program or of an unknown version.
    """
    file = folder / "config.json"
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        if content.get("format") != FORMAT:
            fact = f"{file} does not belong to a clipcap checkpoint"
            raise CheckpointError(f"{fact}; give the folder that clipcap-train wrote")
        check_version(file, content["format_version"], FORMAT_VERSION)
        config = CheckpointConfig(
            mapper=mapper_config(**content["mapper"]),
            language_model=LanguageModelConfig(**content["language_model"]),
            encoder=Fingerprint.from_json(json.dumps(content["encoder"])),
            training=content["training"],
            progress=content["progress"],
        )
        if config.encoder.width != config.mapper.embedding_width:
            raise CheckpointError(f"{file} is damaged (encoder and mapper have different widths); use another")
        return config
    except CheckpointError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, OSError, ClipCapError) as error:
        raise CheckpointError(f"{file} is damaged ({type(error).__name__}: {one_line(error)}); use another") from error


def load_checkpoint(folder: Path) -> tuple[ClipCapModel, "PreTrainedTokenizerBase", CheckpointConfig]:
    """Rebuild a model from its checkpoint, in float32, on the CPU, in evaluation mode.

    Raises:
        CheckpointError: it is missing or damaged, or the language model that it names has changed.
        ModelError: the language model that it names cannot be loaded.
    """
    config = read_config(folder)
    if not (folder / "tokenizer").is_dir():
        raise CheckpointError(f"{folder} has no tokenizer/; copy the whole folder that clipcap-train wrote")
    try:
        model = _empty_model(config)
    except ClipCapError:
        raise
    except Exception as error:  # whatever a wrong number or name in config.json causes
        fact = f"{type(error).__name__}: {one_line(error)}"
        raise CheckpointError(f"{folder / 'config.json'} is damaged ({fact[:200]}); use another checkpoint") from error
    load_trained(folder, model, with_lm=config.language_model.tuned)
    return model.eval(), load_tokenizer(str(folder / "tokenizer")), config


def _empty_model(config: CheckpointConfig) -> ClipCapModel:
    """Build the model that a checkpoint describes, without its weights; load a language model that was not tuned."""
    from transformers import GPT2Config, GPT2LMHeadModel

    described = config.language_model
    if not described.tuned:
        if Path(described.name).is_absolute() and not Path(described.name).exists():
            raise CheckpointError(
                f"the language model of this checkpoint is no longer at {described.name}; put it back, or write its "
                "place into config.json (language_model: name)"
            )
        lm = load_language_model(described.name)
        if weights_sha256(lm) != described.sha256:
            raise CheckpointError(
                f"this checkpoint was trained with another {described.name} than the one that is there now; put the "
                "right one back"
            )
        return ClipCapModel(Mapper(config.mapper), lm)
    with torch.device("meta"):  # skips drawing random weights, which the file replaces
        model = ClipCapModel(Mapper(config.mapper), GPT2LMHeadModel(GPT2Config(**described.config)))
    model.to_empty(device="cpu")
    model.gpt.tie_weights()
    if model.gpt.lm_head.weight is not model.gpt.transformer.wte.weight:
        raise CheckpointError(
            "this checkpoint describes a GPT-2 whose output layer is not its input embedding; use another checkpoint"
        )
    return model


def load_trained(folder: Path, model: ClipCapModel, *, with_lm: bool) -> None:
    """Load the trained weights of a checkpoint into a model of its shape.

    Args:
        folder: folder of the checkpoint.
        model: the model, which is changed in place.
        with_lm: whether the checkpoint must have the weights of the language model, because it was tuned.

    Raises:
        CheckpointError: they are missing, damaged, or do not fit.
    """
    file = folder / "model.safetensors"
    if not file.exists():
        raise CheckpointError(f"{file} is missing; copy the whole folder that clipcap-train wrote")
    try:
        tensors = load_file(file)
        expected = set(_stored_names(model, with_lm))
        if set(tensors) != expected:
            difference = sorted(set(tensors) ^ expected)
            raise CheckpointError(
                f"{file} has other weights than its config.json says (such as {difference[0]}); use another checkpoint"
            )
        model.load_state_dict(tensors, strict=False)
    except (SafetensorError, OSError, RuntimeError) as error:
        raise CheckpointError(f"{file} is damaged ({one_line(error)}); use another checkpoint") from error


def read_state(folder: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Read the tensors and the numbers of the training state in a checkpoint.

    Raises:
        CheckpointError: there is none (`best` has none), or it is damaged.
    """
    try:
        numbers = json.loads((folder / "training_state.json").read_text(encoding="utf-8"))
        if not isinstance(numbers, dict):
            raise ValueError("training_state.json is not an object")
        return load_file(folder / "training_state.safetensors"), numbers
    except (OSError, ValueError, SafetensorError) as error:
        fact = f"{folder} holds no training state to resume from ({one_line(error)})"
        raise CheckpointError(f"{fact}; start again with `overwrite`") from error


def _stored_names(model: ClipCapModel, with_lm: bool) -> list[str]:
    """Return the names of the tensors in a checkpoint. The output layer is the input embedding, and stored once."""
    return [
        name
        for name in model.state_dict()
        if name.startswith("clip_project.") or (with_lm and name != "gpt.lm_head.weight")
    ]
