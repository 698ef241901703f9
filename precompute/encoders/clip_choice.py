"""Resolves the name of an encoder and of its weights to what open_clip loads, and explains why that failed."""

import difflib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clipcap.data.errors import ModelError, UsageError, one_line
from clipcap.data.pretrained.bundled import BUNDLED_ENCODERS
from clipcap.data.pretrained.hub import use_hub_if_reachable
from clipcap.precompute.encoders.clip_weights_file import weights_file_error
from clipcap.precompute.settings import DEFAULT_PRETRAINED

LOCAL = "local-dir:"  # how open_clip's name of a model begins, before a folder


@dataclass(frozen=True, kw_only=True)
class EncoderChoice:
    """An encoder that a user chose, as the fingerprint records it and as open_clip takes it.

    Attributes:
        name, pretrained: the architecture and its weights, as the fingerprint records them.
        model_name, weights: the arguments `model_name` and `pretrained` of `open_clip.create_model`.
        quick_gelu: whether the tag says that the weights were trained with QuickGELU.
    """

    name: str
    pretrained: str
    model_name: str
    weights: str | None = None
    quick_gelu: bool = False


def choose_encoder(open_clip: Any, name: str, pretrained: str | None) -> EncoderChoice:
    """Resolve `encoder` and `pretrained`. No weights are read.

    Args:
        open_clip: the module, which the caller imports.
        name, pretrained: as `load_encoder` takes them.

    Raises:
        UsageError: the tag is not known, or weights are given to an encoder that has its own.
        ModelError: the architecture is not known.
    """
    if name.startswith("hf-hub:") or name in BUNDLED_ENCODERS:
        if pretrained not in (None, name):
            raise UsageError(f"`encoder` {name} has its own weights; leave `pretrained` {pretrained} out")
        if name in BUNDLED_ENCODERS:
            return EncoderChoice(name=name, pretrained=name, model_name=f"{LOCAL}{BUNDLED_ENCODERS[name]}")
        use_hub_if_reachable()
        return EncoderChoice(name=name, pretrained=name, model_name=name)
    known = open_clip.list_models()
    folder = Path(pretrained or name.removeprefix(LOCAL))
    if folder.is_dir() and str(folder) not in known:
        if not (folder / "open_clip_config.json").is_file():
            raise ModelError(f"{folder} has no open_clip_config.json; give a folder that open_clip saved, or a name")
        return EncoderChoice(name=folder.name, pretrained=str(folder.resolve()), model_name=f"{LOCAL}{folder}")
    name = name.replace("/", "-")  # OpenAI spells it ViT-B/32
    if name not in known:
        near = ", ".join(difflib.get_close_matches(name, known, 3, 0.4)) or "none"
        raise ModelError(f"`encoder` {name} is neither a folder nor an architecture of open_clip; near names: {near}")
    tags = open_clip.list_pretrained_tags_by_model(name)
    listed = ", ".join(tags) or "(it has none)"
    if pretrained is None and DEFAULT_PRETRAINED not in tags:
        raise UsageError(f"{name} has no default weights; give as `pretrained` a file or one of: {listed}")
    pretrained = pretrained or DEFAULT_PRETRAINED
    if Path(pretrained).is_file():
        file = str(Path(pretrained).resolve())
        return EncoderChoice(name=name, pretrained=file, model_name=name, weights=file)
    tag = open_clip.get_pretrained_cfg(name, pretrained)
    if not tag:
        raise UsageError(f"`pretrained` {pretrained} is neither a file nor a tag of {name}; its tags: {listed}")
    use_hub_if_reachable()
    # When weights that were trained with QuickGELU meet an architecture without it, open_clip only warns.
    gelu = bool(tag.get("quick_gelu"))
    return EncoderChoice(name=name, pretrained=pretrained, model_name=name, weights=pretrained, quick_gelu=gelu)


def loading_error(choice: EncoderChoice, error: Exception) -> ModelError:
    """Return the error that says why open_clip could not load the choice, from the exception that it raised."""
    fact = one_line(error)
    if Path(choice.pretrained).is_file():
        return weights_file_error(Path(choice.pretrained), choice.name, fact)
    if choice.model_name.startswith(LOCAL):
        return ModelError(f"{choice.pretrained} cannot be loaded ({fact[:200]}); give a folder with its weights")
    if use_hub_if_reachable():
        return ModelError(
            f"the weights {choice.pretrained!r} of {choice.name} cannot be loaded ({fact[:200]}); give others as "
            "`pretrained`"
        )
    return ModelError(
        f"the weights {choice.pretrained!r} of {choice.name} cannot be loaded: no network, and they were never "
        "downloaded here; connect once, or give a file of weights as `pretrained`"
    )
