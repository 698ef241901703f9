"""Explains why a file of CLIP weights cannot be loaded. It is called only after loading has failed."""

import importlib
import zipfile
from pathlib import Path
from typing import Any

import torch

from clipcap.data.errors import ModelError
from clipcap.data.memory import exhausted_memory
from clipcap.data.pretrained.safetensors_file import Shapes, read_shapes


def weights_file_error(file: Path, name: str, fact: str) -> ModelError:
    """Return the error for a file that open_clip could not load as the architecture `name`.

    Args:
        file: the file of weights, which exists.
        name: open_clip's name of the architecture that was asked for.
        fact: the message of the library, on one line.
    """
    if _is_torchscript(file):
        return ModelError(
            f"{file} is a TorchScript archive, a program, which is not run; leave `pretrained` out, or save its "
            "state_dict() to a file and give that"
        )
    try:
        shapes = _shapes(file)
    except Exception as error:  # whatever the libraries raise means that the file holds no weights
        if exhausted_memory(error):
            raise
        return ModelError(f"{file} is damaged, or is not a file of weights; give a .pt or .safetensors file")
    fitting = fitting_architectures(shapes)
    if fitting:
        return ModelError(f"{file} does not hold weights of {name} but of {' or '.join(fitting)}; give that `encoder`")
    return ModelError(
        f"{file} does not hold weights of {name} ({fact[:160]}), nor of any architecture that open_clip has; give as "
        "`encoder` the architecture that it was saved from"
    )


def fitting_architectures(shapes: Shapes) -> list[str]:
    """Return the architectures of open_clip whose tensors have exactly these names and shapes, at most three.

    Args:
        shapes: the shape of every tensor in the file, by name.
    """
    open_clip = importlib.import_module("open_clip")
    fitting = []
    for name in sorted(open_clip.list_models(), key=lambda name: (len(name), name)):
        if not _may_fit(open_clip.get_model_config(name), shapes):
            continue
        with torch.device("meta"):  # uses no memory and draws no weights
            model = open_clip.create_model(name, device="meta")
        if {key: tuple(tensor.shape) for key, tensor in model.state_dict().items()} == shapes:
            fitting.append(name)
    return fitting[:3]


def _may_fit(config: dict[str, Any], shapes: Shapes) -> bool:
    """Return whether an architecture is worth building: it is of the same family, and its widths occur in the file."""
    vision, text = config["vision_cfg"], config["text_cfg"]
    if "hf_model_name" in text:  # its text tower would be downloaded
        return False
    families = {
        "visual.trunk.": "timm_model_name" in vision,
        "visual.attnpool.": isinstance(vision.get("layers"), list),
    }
    sizes = {size for shape in shapes.values() for size in shape}
    widths = {config["embed_dim"], text["width"], vision.get("width", config["embed_dim"])}
    return widths <= sizes and all(
        any(name.startswith(prefix) for name in shapes) == expected for prefix, expected in families.items()
    )


def _shapes(file: Path) -> Shapes:
    """Read the names and shapes of the tensors in a file, not their values."""
    try:
        return read_shapes(file)
    except ValueError:
        content: Any = torch.load(file, map_location="meta", weights_only=True)
    state = content.get("state_dict", content)  # as the training of open_clip saves it
    shapes = {key.removeprefix("module."): tuple(tensor.shape) for key, tensor in state.items()}
    if not shapes:
        raise ValueError(f"{file} holds no tensors")
    return shapes


def _is_torchscript(file: Path) -> bool:
    if not zipfile.is_zipfile(file):
        return False
    with zipfile.ZipFile(file) as archive:
        return any("/code/" in name for name in archive.namelist())
