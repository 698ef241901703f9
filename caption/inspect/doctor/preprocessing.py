"""Checks that images were preprocessed as the weights of the encoder were published."""

import importlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from clipcap.caption.inspect.doctor.content import CacheContent
from clipcap.caption.inspect.doctor.finding import Facts, Finding
from clipcap.data.files import read_json_object

COMPARED = ("mean", "std", "interpolation", "resize_mode")  # the size is that of the architecture
ROUNDED = 1e-3  # difference of means and deviations of pixels, from 0 to 1, that rounding explains


def check_preprocessing(content: CacheContent, facts: Facts) -> Iterator[Finding]:
    """Find preprocessing that no published weights of the encoder's architecture have."""
    recorded = content.fingerprint
    if not recorded.preprocess:
        facts["preprocessing"] = "not known: the embeddings were imported"
        return
    published = published_preprocessing(recorded.encoder, recorded.pretrained)
    if not published:
        facts["preprocessing"] = f"not compared: open_clip publishes no weights of {recorded.encoder}"
        return
    differing = {tag: _differences(recorded.preprocess, known) for tag, known in published.items()}
    facts["preprocessing"] = {"compared_with": list(published), "equal": [tag for tag, d in differing.items() if not d]}
    if all(differing.values()):
        tag = min(differing, key=lambda tag: len(differing[tag]))
        yield _finding(content, tag, differing[tag], published[tag])


def published_preprocessing(encoder: str, pretrained: str) -> dict[str, dict[str, Any]]:
    """Return how published weights of an architecture preprocess images, by tag.

    Args:
        encoder, pretrained: as a fingerprint records them. For the tag of published weights, only its preprocessing is
            returned; for weights from a file or a folder, that of all tags of the architecture.
    """
    open_clip = importlib.import_module("open_clip")
    known = open_clip.list_models()
    if Path(pretrained).is_dir():
        encoder = _architecture(open_clip, Path(pretrained)) or encoder
    if encoder not in known:
        return {}
    tags: list[str] = open_clip.list_pretrained_tags_by_model(encoder)
    chosen = [pretrained] if pretrained in tags else tags
    return {tag: open_clip.get_pretrained_cfg(encoder, tag) for tag in chosen}


def _architecture(open_clip: Any, folder: Path) -> str | None:
    """Return the architecture of a folder that open_clip saved, if open_clip has one of exactly its sizes."""
    try:
        config = read_json_object(folder / "open_clip_config.json")["model_cfg"]
    except (OSError, ValueError, KeyError):
        return None
    return next((name for name in open_clip.list_models() if open_clip.get_model_config(name) == config), None)


def _differences(recorded: dict[str, Any], published: dict[str, Any]) -> list[str]:
    return [
        f"{name} {recorded[name]}, not {_plain(published[name])}"
        for name in COMPARED
        if name in recorded and published.get(name) is not None and not _equal(recorded[name], published[name])
    ]


def _equal(first: Any, second: Any) -> bool:
    numbers = [
        isinstance(one, list | tuple) and all(isinstance(n, int | float) for n in one) for one in (first, second)
    ]
    if not all(numbers):
        return bool(first == second)
    return len(first) == len(second) and bool(np.allclose(first, second, rtol=0, atol=ROUNDED))


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _finding(content: CacheContent, tag: str, differences: list[str], published: dict[str, Any]) -> Finding:
    recorded = content.fingerprint
    config = json.dumps({name: _plain(published[name]) for name in COMPARED if name in published})
    return Finding(
        check="preprocessing",
        count=len(differences),
        total=len(COMPARED),
        message=f"images were preprocessed with {'; '.join(differences)} as the weights {tag} of {recorded.encoder} "
        "were published",
        cause="weights from a file: a file does not hold the preprocessing, and the architecture's default is CLIP's",
        fix=content.command(pretrained=tag)
        + "; or give as `encoder` a folder with the file as open_clip_model.safetensors and an open_clip_config.json, "
        f'with the "model_cfg" of {recorded.encoder} and the "preprocess_cfg" {config}',
    )
