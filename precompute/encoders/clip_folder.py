"""Checks a folder that open_clip saved before open_clip builds a model from its numbers.

open_clip allocates the model that open_clip_config.json describes, before it looks at the weights. So the numbers are
bounded, and a lower bound of the weights that they describe is compared with the size of the files.
"""

from pathlib import Path
from typing import Any

from clipcap.data.files import as_object, read_json_object
from clipcap.data.pretrained.model_folder import check_model_folder

CONFIG = "open_clip_config.json"
_LARGEST = {"layers": 1000, "depth": 1000, "context_length": 1 << 12, "vocab_size": 1 << 24, "mlp_ratio": 64}
_LARGEST_SIZE = 1 << 14  # of everything else, such as widths, and sizes of images in pixels
_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth")


def check_clip_folder(folder: Path) -> None:
    """Check the files of a folder, and that its configuration describes no more weights than they can hold.

    Raises:
        OSError: a file is of another kind, too large, or cannot be read.
        ValueError: the configuration is not what it must be, or a number is too large.
    """
    check_model_folder(folder)
    content = read_json_object(folder / CONFIG)
    _check_preprocessing(as_object(content.get("preprocess_cfg", {})))
    model = as_object(content.get("model_cfg"))
    _check_numbers("model_cfg", model)
    towers = [as_object(model.get(name)) for name in ("vision_cfg", "text_cfg")]
    count = sum(_weights(tower, _number(model.get("embed_dim"))) for tower in towers)
    stored = sum(file.stat().st_size for file in folder.iterdir() if file.suffix in _WEIGHTS)
    if count > stored:  # each number takes a byte or more
        raise ValueError(f"{CONFIG} describes {count:,} weights or more, the files of weights have {stored:,} bytes")


def _weights(tower: dict[str, Any], embedding_width: int) -> int:
    """Return how many weights a tower has at least, as far as its numbers say."""
    width, layers = _number(tower.get("width")), tower.get("layers")
    if isinstance(layers, list):  # a ResNet, whose last maps have 32 times the width
        return 576 * width**2
    patch = _number(tower.get("patch_size"))
    patches = (_number(tower.get("image_size")) // (patch or 32)) ** 2
    others = [_number(tower.get(name)) for name in ("vocab_size", "context_length")]
    return width * (4 * width * _number(layers) + 3 * patch**2 + patches + embedding_width + sum(others))


def _number(value: Any) -> int:
    return value if isinstance(value, int) else 0


def _check_preprocessing(config: dict[str, Any]) -> None:
    _check_numbers("preprocess_cfg", config)
    for name in ("mean", "std"):
        value = config.get(name, [1, 1, 1])
        if not isinstance(value, list) or len(value) != 3 or not all(type(each) in (int, float) for each in value):
            raise ValueError(f"{CONFIG} has {name} {str(value)[:40]}, not three numbers")
        if name == "std" and not all(value):
            raise ValueError(f"{CONFIG} has a std of 0")
    size = config.get("size", 1)
    sides = size if isinstance(size, list) and len(size) == 2 else [size]
    if not all(type(side) is int and side > 0 for side in sides):
        raise ValueError(f"{CONFIG} has size {str(size)[:40]}, not a size in pixels")
    for name in ("interpolation", "resize_mode", "mode"):
        if not isinstance(config.get(name, ""), str):
            raise ValueError(f"{CONFIG} has {name} {str(config[name])[:40]}, not a text")


def _check_numbers(name: str, value: Any) -> None:
    """Check the numbers in a configuration, at any depth.

    Args:
        name: of the value.
        value: of any type.

    Raises:
        ValueError: one is too large or negative where a size is expected, or is no number.
    """
    if isinstance(value, dict):
        for key, item in value.items():
            _check_numbers(key, item)
    elif isinstance(value, list):
        for item in value:
            _check_numbers(name, item)
    elif isinstance(value, int | float) and not -_LARGEST_SIZE <= value <= _LARGEST.get(name, _LARGEST_SIZE):
        raise ValueError(f"{CONFIG} has {name} {str(value)[:40]}")
    elif name in ("width", "layers", "vocab_size", "context_length") and type(value) is not int:
        raise ValueError(f"{CONFIG} has {name} {str(value)[:40]}, not a number")
