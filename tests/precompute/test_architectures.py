"""The common architectures encode a batch at their full size, with random weights.

Those that fit into the memory of a small machine are loaded from a file, as downloaded ones are. For the two largest,
only the image tower gets weights.
"""

from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from safetensors.torch import save_file

from clipcap.data.pretrained.device import has_bf16
from clipcap.precompute.encoders.base import Encoder
from clipcap.precompute.encoders.clip import freeze_tower
from clipcap.precompute.encoders.clip_features import FEATURES
from clipcap.precompute.encoders.load import load_encoder

CPU = torch.device("cpu")
pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("all_cores")]


def images(encoder: Encoder) -> torch.Tensor:
    """Return noise and a white image: uint8 (2, H, W, 3)."""
    size = encoder.preprocess["size"]
    noise = torch.randint(0, 256, (*size, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return torch.stack([noise, torch.full_like(noise, 255)])


@pytest.mark.parametrize(
    ("name", "size", "width", "pooled"),
    [
        ("RN50x4", 288, 640, 2560),
        ("ViT-L-14", 224, 768, 1024),
        ("ViT-B-16-SigLIP", 224, 768, 768),
        ("ViT-B-32-256", 256, 512, 768),
    ],
)
def test_an_architecture_loaded_from_a_file_encodes_as_open_clip_does(
    name: str, size: int, width: int, pooled: int, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    model = open_clip.create_model(name)
    save_file(model.state_dict(), tmp_path / "weights.safetensors")
    encoder = load_encoder(name, str(tmp_path / "weights.safetensors"), device=CPU)
    assert encoder.preprocess["size"] == [size, size]
    assert encoder.quick_gelu is False
    batch = images(encoder)
    embedding = encoder.encode(batch)
    assert embedding.shape == (2, width)
    # open_clip encodes the same pixels, after its own normalisation.
    mean, std = (torch.tensor(encoder.preprocess[key]) for key in ("mean", "std"))
    with torch.inference_mode():
        expected = model.eval().encode_image(((batch / 255 - mean) / std).permute(0, 3, 1, 2))
    torch.testing.assert_close(embedding, expected, rtol=1e-3, atol=1e-4)
    assert not torch.allclose(embedding[0], embedding[1], rtol=1e-3, atol=1e-4)
    del model, expected
    other = load_encoder(name, str(tmp_path / "weights.safetensors"), device=CPU, features="pooled")
    assert other.shape == (pooled,)
    (tmp_path / "weights.safetensors").unlink()


@pytest.mark.parametrize(
    ("name", "parameters", "width", "patches"),
    [("ViT-g-14", 1012.65, 1024, (256, 1408)), ("ViT-bigG-14", 1844.91, 1280, (256, 1664))],
)
def test_the_largest_architectures_encode(name: str, parameters: float, width: int, patches: tuple[int, int]) -> None:
    with torch.device("meta"):
        tower: Any = open_clip.create_model(name, device="meta").visual.eval()
    with torch.inference_mode():  # a shape needs no numbers
        shown = FEATURES["patches"](tower)(torch.zeros(1, 3, 224, 224, device="meta"))
    assert shown.shape == (1, *patches)
    # In bfloat16, they take half of the memory. Where a CPU emulates it, they would take many minutes.
    dtype, precision = (torch.bfloat16, "bf16") if has_bf16(CPU) else (torch.float32, "fp32")
    tower = tower.to(dtype).to_empty(device="cpu")
    # The number of parameters in open_clip's table of models, in millions.
    assert round(sum(parameter.numel() for parameter in tower.parameters()) / 1e6, 2) == parameters
    # A prime number of random weights is repeated, which takes a tenth of the time of drawing billions.
    noise = 0.02 * torch.randn(1_000_003, generator=torch.Generator().manual_seed(0), dtype=torch.float32)
    with torch.no_grad():
        for key, parameter in tower.named_parameters():
            if parameter.ndim > 1:
                repeats = -(-parameter.numel() // len(noise))
                parameter.copy_(noise.to(dtype).repeat(repeats)[: parameter.numel()].view_as(parameter))
            else:
                parameter.fill_(float("ln" in key and key.endswith("weight")))
    encoder = freeze_tower(tower, name, "random", device=CPU, precision=precision, features="projected")
    batch = images(encoder)
    embedding = encoder.encode(batch)
    assert embedding.shape == (2, width)
    assert embedding.isfinite().all()
    assert not torch.equal(embedding[0], embedding[1])
