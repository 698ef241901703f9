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
from safetensors.torch import save_file

from clipcap.data.cache.atomic import make_new_folder, replace_folder
from clipcap.data.cache.fingerprint import Fingerprint
from clipcap.data.errors import CheckpointError, ClipCapError, one_line
from clipcap.data.files import as_object, read_json_object
from clipcap.data.memory import exhausted_memory
from clipcap.data.pretrained.safetensors_file import read_shapes, read_tensors
from clipcap.data.pretrained.tokenizer import load_tokenizer, save_tokenizer
from clipcap.data.pretrained.weights import weights_sha256
from clipcap.data.settings import check_type
from clipcap.train.mappers import MapperConfig, mapper_config
from clipcap.train.mappers.module import Mapper
from clipcap.train.model.captioning import ClipCapModel
from clipcap.train.model.gpt2_config import check_shapes, gpt2_config
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
        tensors = _stored(model, config.language_model.tuned)
        save_file({name: tensor.contiguous().cpu() for name, tensor in tensors.items()}, new / "model.safetensors")
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
        if exhausted_memory(error):
            raise
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
        content = read_json_object(file)
        if content.get("format") != FORMAT:
            fact = f"{file} does not belong to a clipcap checkpoint"
            raise CheckpointError(f"{fact}; give the folder that clipcap-train wrote")
        check_version(file, content["format_version"], FORMAT_VERSION)
        config = CheckpointConfig(
            mapper=mapper_config(**content["mapper"]),
            language_model=_language_model(as_object(content["language_model"])),
            encoder=Fingerprint.from_json(json.dumps(content["encoder"])),
            training=as_object(content["training"]),
            progress=as_object(content["progress"]),
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
        model = _empty_model(folder, config)
    except ClipCapError:
        raise
    except Exception as error:  # whatever a wrong number or name in config.json causes
        if exhausted_memory(error):
            raise
        fact = f"{type(error).__name__}: {one_line(error)}"
        raise CheckpointError(f"{folder / 'config.json'} is damaged ({fact[:200]}); use another checkpoint") from error
    load_trained(folder, model, with_lm=config.language_model.tuned)
    tokenizer = load_tokenizer(str(folder / "tokenizer"))
    try:
        check_fit(model, tokenizer)
    except ValueError as error:
        raise CheckpointError(f"the parts of {folder} do not fit each other: {error}; use another") from error
    return model.eval(), tokenizer, config


def check_fit(model: ClipCapModel, tokenizer: "PreTrainedTokenizerBase") -> None:
    """Check the parts of a model against each other, and let the tokenizer decide which token ends a text.

    Raises:
        ValueError: the language model lacks tokens of the tokenizer, has another width than the mapper, or no positions
            behind its prefix.
    """
    mapper, lm = model.clip_project.config, model.gpt.config
    largest = max(tokenizer.get_vocab().values())
    if largest >= lm.vocab_size:
        raise ValueError(f"the tokenizer has a token {largest:,}, the language model has {lm.vocab_size:,} tokens")
    if mapper.lm_width != lm.n_embd:
        raise ValueError(f"the mapper is for a width of {mapper.lm_width:,}, the language model has {lm.n_embd:,}")
    if mapper.prefix_length >= lm.n_positions:
        fact = f"a prefix of {mapper.prefix_length:,} leaves no positions for captions"
        raise ValueError(f"{fact}, since the language model has {lm.n_positions:,}")
    lm.eos_token_id = tokenizer.eos_token_id


def _language_model(content: dict[str, Any]) -> LanguageModelConfig:
    """Read the language model of a config.json.

    Raises:
        TypeError, ClipCapError, ValueError: a field is missing, not known or of another type.
    """
    config = LanguageModelConfig(**content)
    for name, kind in (("name", str), ("tuned", bool), ("sha256", str)):
        check_type(name, getattr(config, name), kind)
    as_object(config.config)
    return config


def _empty_model(folder: Path, config: CheckpointConfig) -> ClipCapModel:
    """Build the model that a checkpoint describes, without its weights; load a language model that was not tuned.

    Nothing of the described size is allocated before the shapes of the weights in the file are known to be the same.
    """
    from transformers import GPT2LMHeadModel

    described = config.language_model
    if not described.tuned:
        with torch.device("meta"):  # skips drawing random weights, which the file replaces
            mapper = Mapper(config.mapper)
        _check_weights(folder, {f"clip_project.{name}": tensor for name, tensor in mapper.state_dict().items()})
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
        return ClipCapModel(mapper.to_empty(device="cpu"), lm)
    with torch.device("meta"):
        model = ClipCapModel(Mapper(config.mapper), GPT2LMHeadModel(gpt2_config(described.config)))
    if model.gpt.lm_head.weight is not model.gpt.transformer.wte.weight:
        raise CheckpointError(
            "this checkpoint describes a GPT-2 whose output layer is not its input embedding; use another checkpoint"
        )
    _check_weights(folder, _stored(model, with_lm=True))
    model.to_empty(device="cpu")
    model.gpt.tie_weights()
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
    _check_weights(folder, _stored(model, with_lm))
    file = folder / "model.safetensors"
    try:
        model.load_state_dict(read_tensors(file), strict=False)
    except (OSError, ValueError, RuntimeError) as error:
        if exhausted_memory(error):
            raise
        raise CheckpointError(f"{file} is damaged ({one_line(error)}); use another checkpoint") from error


def _check_weights(folder: Path, expected: dict[str, torch.Tensor]) -> None:
    """Check the shapes of the weights in a checkpoint, without reading them.

    Args:
        folder: of the checkpoint.
        expected: what its model.safetensors must have, by name; tensors on any device.

    Raises:
        CheckpointError: the file is missing or damaged, or does not fit.
    """
    file = folder / "model.safetensors"
    if not file.exists():
        raise CheckpointError(f"{file} is missing; copy the whole folder that clipcap-train wrote")
    try:
        found = read_shapes(file)
    except (OSError, ValueError) as error:
        if exhausted_memory(error):
            raise
        fact = getattr(error, "strerror", None) or one_line(error)
        raise CheckpointError(f"{file} is damaged ({fact}); use another checkpoint") from error
    try:
        check_shapes({name: tuple(tensor.shape) for name, tensor in expected.items()}, found)
    except ValueError as error:
        raise CheckpointError(
            f"{file} has other weights than its config.json says ({error}); use another checkpoint"
        ) from error


def read_state(folder: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Read the tensors and the numbers of the training state in a checkpoint.

    Raises:
        CheckpointError: there is none (`best` has none), or it is damaged.
    """
    try:
        numbers = read_json_object(folder / "training_state.json")
        return read_tensors(folder / "training_state.safetensors"), numbers
    except (OSError, ValueError) as error:
        if exhausted_memory(error):
            raise
        fact = f"{folder} holds no training state to resume from ({one_line(error)})"
        raise CheckpointError(f"{fact}; start again with `overwrite`") from error


def _stored(model: ClipCapModel, with_lm: bool) -> dict[str, torch.Tensor]:
    """Return the tensors of a checkpoint, by name. The output layer is the input embedding, and stored once."""
    return {
        name: tensor
        for name, tensor in model.state_dict().items()
        if name.startswith("clip_project.") or (with_lm and name != "gpt.lm_head.weight")
    }
