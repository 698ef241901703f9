"""Loads image encoders of timm as `timm:NAME`: frozen models of photographs that know no text.

The model runs as timm runs it, without its classifier. B images, d numbers in an embedding, t patches.
"""

import difflib
import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from clipcap.data.errors import ModelError, UsageError, one_line
from clipcap.data.memory import exhausted_memory
from clipcap.data.pretrained.hub import use_hub_if_reachable
from clipcap.data.pretrained.weights import weights_sha256
from clipcap.precompute.encoders.base import Encoder, Forward, freeze, preprocessing_steps
from clipcap.precompute.settings import TIMM


def load_timm_encoder(
    name: str, pretrained: str | None = None, *, device: torch.device, precision: str = "fp32", features: str = "pooled"
) -> Encoder:
    """Load a model of timm, with the preprocessing that timm publishes for it.

    Args:
        name: `timm:` and timm's name of the architecture, with or without the tag of its weights
            (`timm:vit_small_patch14_dinov2.lvd142m`).
        pretrained: a tag, or a file of weights: safetensors or a state dict. Default: the tag in the name, or timm's
            default weights.
        device, precision: as for `load_encoder`.
        features: `pooled`, what the classifier would get; or `patches`, the cells of the last feature map.

    Raises:
        UsageError: the tag is not known, or timm's models have no features of that kind.
        ModelError: the architecture is not known, or its weights cannot be loaded or do not fit it.
    """
    if features not in FEATURES:
        raise UsageError(f"`features` {features}: {name} knows no text to project to; use {' or '.join(FEATURES)}")
    timm = importlib.import_module("timm")
    model_name = _model_name(timm, name.removeprefix(TIMM), pretrained)
    file = Path(pretrained).resolve() if pretrained is not None and Path(pretrained).is_file() else None
    try:
        model = _load(timm, model_name, file)
    except Exception as error:  # RuntimeError, OSError, KeyError, and what torch.load and safetensors raise
        if exhausted_memory(error):
            raise
        raise _loading_error(model_name, file, error) from error
    model.reset_classifier(0)
    sha256 = weights_sha256(model)
    config = timm.data.resolve_model_data_config(model)
    transform = timm.data.create_transform(**config, is_training=False)
    return Encoder(
        name=TIMM + model_name,
        pretrained=str(file) if file is not None else model.pretrained_cfg.get("tag") or TIMM + model_name,
        weights_sha256=sha256,
        quick_gelu=False,
        preprocess={
            "size": list(config["input_size"][1:]),
            "mean": list(config["mean"]),
            "std": list(config["std"]),
            "interpolation": config["interpolation"],
            "crop_mode": config["crop_mode"],
            "crop_pct": config["crop_pct"],
        },
        transform=preprocessing_steps(transform),
        features=features,
        **freeze(model, device, precision),
        _forward=FEATURES[features](model),
    )


def timm_names(name: str, pretrained: str | None) -> tuple[str, str | None]:
    """Return the name and the weights that a loaded model would have as an encoder; None for its default weights.

    Raises:
        UsageError, ModelError: as `load_timm_encoder`.
    """
    model_name = _model_name(importlib.import_module("timm"), name.removeprefix(TIMM), pretrained)
    is_file = pretrained is not None and Path(pretrained).is_file()
    return TIMM + model_name, str(Path(str(pretrained)).resolve()) if is_file else None


def _load(timm: Any, name: str, file: Path | None) -> Any:
    """Load a model with all of its weights. timm is strict only where a file has as many classes as the model."""
    if file is None:
        use_hub_if_reachable()
        return timm.create_model(name, pretrained=True)
    # The file takes the place of the published weights, and is read as tensors alone.
    overlay: dict[str, Any] = {"file": str(file), "custom_load": False}
    try:
        return timm.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay)
    except RuntimeError as error:
        try:  # the file may have been saved without a classifier
            overlay["num_classes"] = 0
            return timm.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay, num_classes=0)
        except RuntimeError:
            raise error from None


def _pooled(model: Any) -> Forward:
    return lambda batch: model.forward_head(model.forward_features(batch), pre_logits=True)


def _patches(model: Any) -> Forward:
    """Class and register tokens are left out; the cells of a map come row by row."""

    def forward(batch: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = model.forward_features(batch)
        if found.ndim == 3:  # (B, tokens, d)
            return found[:, getattr(model, "num_prefix_tokens", 0) :]
        if getattr(model, "output_fmt", "NCHW") == "NHWC":
            return found.flatten(1, 2)
        return found.flatten(2).transpose(1, 2)

    return forward


FEATURES: dict[str, Callable[[Any], Forward]] = {"pooled": _pooled, "patches": _patches}


def _model_name(timm: Any, name: str, pretrained: str | None) -> str:
    """Return the name under which timm has an architecture, with the tag of its weights if one is given.

    Raises:
        UsageError: the tag is not known, or two are given.
        ModelError: the architecture is not known.
    """
    architecture, _, tag = name.partition(".")
    known = timm.list_models()
    if architecture not in known:
        near = ", ".join(difflib.get_close_matches(architecture, known, 3, 0.4)) or "none"
        raise ModelError(f"`encoder` {TIMM}{name} is no architecture of timm; near names: {near}")
    # Weights without a tag are recorded under the name of the encoder.
    is_tag = pretrained not in (None, TIMM + name) and not Path(str(pretrained)).is_file()
    if tag and is_tag and tag != pretrained:
        raise UsageError(f"`encoder` {TIMM}{name} names the weights {tag}; leave `pretrained` {pretrained} out")
    tag = tag or (pretrained if is_tag and pretrained is not None else "")
    published = [full.partition(".") for full in timm.list_pretrained(f"{architecture}*")]
    tags = [tag for found, _, tag in published if found == architecture]
    if tag and tag not in tags:
        listed = ", ".join(filter(None, tags)) or "(it has none)"
        raise UsageError(f"`pretrained` {tag} is neither a file nor a tag of {TIMM}{architecture}; its tags: {listed}")
    if not tag and not tags and pretrained is None:
        raise UsageError(f"{TIMM}{architecture} has no published weights; give a file as `pretrained`")
    return f"{architecture}.{tag}" if tag else architecture


def _loading_error(name: str, file: Path | None, error: Exception) -> ModelError:
    fact = one_line(error)[:200]
    if file is not None:
        return ModelError(
            f"{file} does not hold weights of {TIMM}{name} ({fact}); give the `encoder` that it was saved from"
        )
    if use_hub_if_reachable():
        return ModelError(f"the weights of {TIMM}{name} cannot be loaded ({fact}); give a file as `pretrained`")
    return ModelError(
        f"the weights of {TIMM}{name} cannot be loaded: no network, and they were never downloaded here; connect "
        "once, or give a file of weights as `pretrained`"
    )
