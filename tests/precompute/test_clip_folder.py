"""A folder of a stranger's CLIP is refused by its numbers, before open_clip builds a model of their size."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from clipcap.data.cache.fingerprint import Fingerprint
from clipcap.data.errors import ModelError
from clipcap.data.pretrained.bundled import BUNDLED_ENCODERS
from clipcap.precompute.encoders.clip_folder import check_clip_folder
from clipcap.precompute.encoders.clip_text import load_text_tower
from clipcap.precompute.encoders.load import load_encoder
from small_world import change_json

Change = Callable[[dict[str, Any]], object]


@pytest.fixture
def folder(clip_folder: Path, tmp_path: Path) -> Path:
    """A copy of the small CLIP, to be changed."""
    shutil.copytree(clip_folder, tmp_path / "clip")
    return tmp_path / "clip"


def set_in(part: str, **values: Any) -> Change:
    return lambda content: content["model_cfg"][part].update(values)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (set_in("vision_cfg", layers=10**9), "layers 1000000000"),
        (set_in("vision_cfg", layers="2"), "layers 2, not a number"),
        (set_in("vision_cfg", layers=[1, 1, 1, 10**9]), "layers 1000000000"),
        (set_in("vision_cfg", width=None), "width None, not a number"),
        (set_in("vision_cfg", width=16384, layers=1000), "weights or more, the files of weights have"),
        (set_in("vision_cfg", width=16384, layers=[3, 4, 6, 3]), "weights or more, the files of weights have"),
        (set_in("vision_cfg", image_size=16384, patch_size=1), "weights or more, the files of weights have"),
        (set_in("text_cfg", vocab_size=2**31), "vocab_size 2147483648"),
        (set_in("text_cfg", context_length=10**6), "context_length 1000000"),
        (set_in("text_cfg", width=float("nan")), "width nan"),
        (lambda content: content.update(model_cfg=[]), "it holds a list, not an object"),
        (lambda content: content.update(preprocess_cfg={"mean": 5}), "mean 5, not three numbers"),
        (lambda content: content.update(preprocess_cfg={"std": [1, 0, 1]}), "a std of 0"),
        (lambda content: content.update(preprocess_cfg={"size": [224, None]}), "size [224, None], not a size"),
        (lambda content: content.update(preprocess_cfg={"size": 10**9}), "size 1000000000"),
        (lambda content: content.update(preprocess_cfg={"interpolation": []}), "interpolation [], not a text"),
    ],
)
def test_a_configuration_with_an_odd_value_is_refused_in_one_line(folder: Path, edit: Change, message: str) -> None:
    file = folder / "open_clip_config.json"
    change_json(file, edit)
    with pytest.raises(ModelError) as found:
        load_encoder(str(folder), device=torch.device("cpu"))
    assert str(found.value).startswith(f"{folder} cannot be loaded (")
    assert message in str(found.value)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs a system with FIFOs")
def test_weights_that_are_a_fifo_are_named_and_not_waited_for(folder: Path) -> None:
    (folder / "open_clip_model.safetensors").unlink()
    os.mkfifo(folder / "open_clip_model.safetensors")
    with pytest.raises(ModelError, match="a FIFO, not a file"):
        load_encoder(str(folder), device=torch.device("cpu"))


def test_a_tokenizer_that_is_not_supported_ends_the_text_tower_and_not_the_image_tower(folder: Path) -> None:
    """The folders of the first SigLIP hold such a tokenizer, which images do not need."""
    tokenizer = {"model": {"type": "Unigram", "vocab": []}, "normalizer": {"type": "Precompiled"}}
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    encoder = load_encoder(str(folder), device=torch.device("cpu"))
    fingerprint = Fingerprint.unchecked(encoder=str(folder), width=encoder.shape[-1])
    with pytest.raises(ModelError, match=r"tokenizer of the text tower .* Precompiled normalizer, which is not supp"):
        load_text_tower(fingerprint, device=torch.device("cpu"))


def test_a_folder_as_it_was_saved_passes(folder: Path) -> None:
    check_clip_folder(folder)
    check_clip_folder(BUNDLED_ENCODERS["demo"])
