"""Loads the frozen image tower of a CLIP through open_clip."""

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from clipcap.data.errors import UsageError
from clipcap.data.memory import exhausted_memory
from clipcap.data.pretrained.remote_code import remote_code_refused
from clipcap.data.pretrained.weights import weights_sha256
from clipcap.precompute.encoders.base import Encoder, freeze, preprocessing_steps
from clipcap.precompute.encoders.clip_choice import LOCAL, EncoderChoice, choose_encoder, loading_error
from clipcap.precompute.encoders.clip_features import FEATURES
from clipcap.precompute.encoders.clip_folder import check_clip_folder

if TYPE_CHECKING:
    from clipcap.precompute.loading import Transform


def load_clip_encoder(
    name: str,
    pretrained: str | None = None,
    *,
    device: torch.device,
    precision: str = "fp32",
    features: str = "projected",
    quick_gelu: bool = False,
) -> Encoder:
    """Load the image tower of a CLIP.

    Args:
        name: an open_clip name (`ViT-B-32`), a folder with open_clip's `open_clip_config.json` and weights,
            `hf-hub:NAME`, or `demo`.
        pretrained: a tag (`openai`), a file of weights, or such a folder. The default is the tag `openai`.
        device: where the encoder runs.
        precision: as for `freeze`.
        features: `projected`, the embedding that CLIP compares with texts; `pooled`, the embedding before its
            projection; or `patches`, an embedding for each patch.
        quick_gelu: compute with QuickGELU even if name and tag do not say so; weights in a file may need it.

    Raises:
        UsageError: the tag or the kind of features is not known.
        ModelError: the architecture is not known, or its weights cannot be loaded or do not fit it.
    """
    if features not in FEATURES:
        raise UsageError(f"`features` {features} is not known; use {', '.join(FEATURES)}")
    choice, model = load_clip(name, pretrained, quick_gelu=quick_gelu)
    # Only the image tower is kept: the text tower of a large CLIP takes gigabytes.
    return freeze_tower(
        model.visual, choice.name, choice.pretrained, device=device, precision=precision, features=features
    )


def load_clip(name: str, pretrained: str | None = None, *, quick_gelu: bool = False) -> tuple[EncoderChoice, Any]:
    """Load both towers of a CLIP: an open_clip model in fp32, on the CPU.

    Args:
        name, pretrained, quick_gelu: as for `load_clip_encoder`.

    Returns:
        What was loaded, and the model.

    Raises:
        UsageError: the tag is not known.
        ModelError: the architecture is not known, or its weights cannot be loaded or do not fit it.
    """
    open_clip = importlib.import_module("open_clip")
    choice = choose_encoder(open_clip, name, pretrained)
    try:
        if choice.model_name.startswith(LOCAL):
            check_clip_folder(Path(choice.model_name.removeprefix(LOCAL)))
        with remote_code_refused():  # a folder may name a text tower that transformers loads
            model = open_clip.create_model(
                choice.model_name,
                pretrained=choice.weights,
                force_quick_gelu=quick_gelu or choice.quick_gelu,
                precision="fp32",
                device="cpu",
                require_pretrained=True,
            )
    except Exception as error:  # open_clip raises RuntimeError, OSError, KeyError, and what torch.load raises
        if exhausted_memory(error):
            raise
        raise loading_error(choice, error) from error
    return choice, model


def quick_gelu_twin(encoder: Encoder) -> str | None:
    """Return the QuickGELU twin of an architecture if its weights came from a file that may need the twin, else None.

    OpenAI trained with QuickGELU. Computed with GELU, these weights give worse embeddings and no error, and a file
    does not say which of the two it needs.
    """
    twin = f"{encoder.name}-quickgelu"
    doubtful = Path(encoder.pretrained).is_file() and not encoder.quick_gelu and encoder.name.startswith("ViT")
    return twin if doubtful and twin in importlib.import_module("open_clip").list_models() else None


def freeze_tower(
    tower: nn.Module, name: str, pretrained: str, *, device: torch.device, precision: str, features: str
) -> Encoder:
    """Make an encoder from the image tower of an open_clip model.

    Args:
        tower: `model.visual`, with its weights. It is moved and frozen, and loses what `features` leaves out.
        name, pretrained: the attributes of the encoder.
        device, precision, features: as for `load_clip_encoder`.

    Raises:
        UsageError: the tower has no features of that kind.
    """
    config: Any = tower.preprocess_cfg
    preprocess = {
        key: list(value) if isinstance(value, tuple) else value for key, value in config.items() if key != "mode"
    }
    size = preprocess["size"]
    preprocess["size"] = [size, size] if isinstance(size, int) else size
    sha256 = weights_sha256(tower)  # before the features take anything out of the tower
    forward = FEATURES[features](tower)
    return Encoder(
        name=name,
        pretrained=pretrained,
        weights_sha256=sha256,
        quick_gelu=any(type(module).__name__ == "QuickGELU" for module in tower.modules()),
        preprocess=preprocess,
        transform=_image_transform(config),
        features=features,
        **freeze(tower, device, precision),
        _forward=forward,
    )


def _image_transform(config: dict[str, Any]) -> "Transform":
    """Return open_clip's resizing and cropping."""
    transforms = importlib.import_module("open_clip.transform")
    return preprocessing_steps(transforms.image_transform_v2(transforms.PreprocessCfg(**config), is_train=False))
