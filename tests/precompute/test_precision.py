"""The precision of an image encoder: what `auto` takes, and that its weights are cast, not its images alone."""

from pathlib import Path

import open_clip
import pytest
import torch
from torch import nn

from clipcap.precompute.encoders import base
from clipcap.precompute.encoders.base import freeze
from clipcap.precompute.encoders.load import load_encoder

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("has_bf16", "tower", "expected"),
    [
        (True, nn.Linear(2, 2), "bf16"),
        (False, nn.Linear(2, 2), "fp32"),
        (True, nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)), "fp32"),
    ],
)
def test_auto_takes_bf16_where_the_device_has_it_except_for_batch_normalisation(
    monkeypatch: pytest.MonkeyPatch, has_bf16: bool, tower: nn.Module, expected: str
) -> None:
    monkeypatch.setattr(base, "has_bf16", lambda _: has_bf16)
    assert freeze(tower, CPU, "auto")["precision"] == expected
    dtype = {"bf16": torch.bfloat16, "fp32": torch.float32}[expected]
    assert {parameter.dtype for parameter in tower.parameters()} == {dtype}
    assert not any(parameter.requires_grad for parameter in tower.parameters())
    assert not any(module.training for module in tower.modules())


@pytest.mark.parametrize(("precision", "bound"), [("bf16", 0.999), ("fp16", 0.9999)])
def test_half_precision_is_near_fp32_and_has_the_weights_of_fp32_in_its_hash(
    clip_folder: Path, precision: str, bound: float
) -> None:
    encoders = [load_encoder(str(clip_folder), device=CPU, precision=name) for name in ("fp32", precision)]
    exact, half = encoders
    size = exact.preprocess["size"]
    pixels = torch.randint(0, 256, (8, *size, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    expected, found = exact.encode(pixels), half.encode(pixels)
    assert found.dtype == torch.float32
    assert not torch.equal(found, expected)
    assert float(torch.cosine_similarity(found, expected).min()) > bound
    assert half.weights_sha256 == exact.weights_sha256
    assert half.precision == precision


def test_fp32_is_to_the_last_digits_what_open_clip_computes(clip_folder: Path) -> None:
    encoder = load_encoder(str(clip_folder), device=CPU)
    pixels = torch.full((1, *encoder.preprocess["size"], 3), 200, dtype=torch.uint8)
    mean, std = (torch.tensor(encoder.preprocess[key]).view(3, 1, 1) for key in ("mean", "std"))
    model = open_clip.create_model(f"local-dir:{clip_folder}")
    with torch.inference_mode():
        expected = model.eval().encode_image((pixels.permute(0, 3, 1, 2) / 255 - mean) / std)
    torch.testing.assert_close(encoder.encode(pixels), expected, rtol=1e-5, atol=1e-6)
