"""Stage 1 encodes real photographs with a full-size ViT-B-32, whose random weights are loaded from a file."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from clipcap.data.cache.index import Cache
from clipcap.precompute.encoders.load import load_encoder

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the same weights in two files, weights.pt and weights.safetensors."""
    torch.manual_seed(0)
    state = open_clip.create_model("ViT-B-32", pretrained=None).state_dict()
    folder = tmp_path_factory.mktemp("vit")
    torch.save(state, folder / "weights.pt")
    save_file(state, folder / "weights.safetensors")
    return folder


Encode = Callable[[tuple[str, ...]], torch.Tensor]


@pytest.fixture(scope="module")
def open_clip_encode(shared: Path, folder: Path) -> Encode:
    """A function that encodes photographs with open_clip itself, the same ones only once."""
    model, _, transform = open_clip.create_model_and_transforms("ViT-B-32", pretrained=str(folder / "weights.pt"))
    model.eval()

    @functools.cache
    def encode(paths: tuple[str, ...]) -> torch.Tensor:
        found = []
        for start in range(0, len(paths), 53):
            photographs = [Image.open(shared / "data/coco" / path) for path in paths[start : start + 53]]
            with torch.inference_mode():
                found.append(model.encode_image(torch.stack([transform(image) for image in photographs])))
        return torch.cat(found)

    return encode


@pytest.mark.usefixtures("all_cores")
@pytest.mark.parametrize("kind", ["pt", "safetensors"])
def test_embeddings_of_photographs_equal_those_of_open_clip(
    shared: Path, folder: Path, kind: str, open_clip_encode: Encode, tmp_path: Path, run: Any
) -> None:
    coco, index, weights = shared / "data/coco", tmp_path / "cache.h5", folder / f"weights.{kind}"
    options = ["--pretrained", weights, "--tokenizer", shared / "data/gpt2", "--precision", "fp32", "--device", "cpu"]
    result = run("precompute", coco, "-o", index, *options)
    assert result.status == 0, result.err
    assert any("ViT-B-32-quickgelu" in line and str(weights) in line for line in result.err.splitlines())
    cache = Cache.open(index)
    assert (cache.images, cache.captions, len(cache.shards)) == (159, 795, 1)
    tables = next(cache.tables())
    assert [int((tables.split == split).sum()) for split in range(3)] == [80, 79, 0]
    assert tables.failure_path == []
    assert tables.embedding.shape == (159, 512)

    expected = open_clip_encode(tuple(tables.path))
    cosine = torch.cosine_similarity(torch.from_numpy(tables.embedding).float(), expected)
    assert cosine.min() >= 0.9999
    # Embeddings of different photographs differ, so the comparison above means something.
    shifted = torch.cosine_similarity(torch.from_numpy(tables.embedding).float().roll(1, 0), expected)
    assert shifted.max() < 0.9999


@pytest.mark.usefixtures("all_cores")
def test_weights_of_openai_compute_with_quick_gelu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tag `openai` says so, and for a file the name of the architecture does."""
    torch.manual_seed(0)
    model = open_clip.create_model("ViT-B-32-quickgelu").eval()
    file = tmp_path / "weights.safetensors"
    save_file(model.state_dict(), file)
    fetched = []

    def download(tag: dict[str, Any], **_: Any) -> str:
        fetched.append(tag["quick_gelu"])
        return str(file)

    monkeypatch.setattr("open_clip.factory.download_pretrained", download)
    pixels = torch.randint(0, 256, (2, 224, 224, 3), dtype=torch.uint8)
    by_tag = load_encoder("ViT-B-32", "openai", device=torch.device("cpu"))
    assert fetched == [True]
    by_file = load_encoder("ViT-B-32-quickgelu", str(file), device=torch.device("cpu"))
    without = load_encoder("ViT-B-32", str(file), device=torch.device("cpu"))
    assert [encoder.quick_gelu for encoder in (by_tag, by_file, without)] == [True, True, False]
    mean, std = (torch.tensor(by_tag.preprocess[key]) for key in ("mean", "std"))
    with torch.inference_mode():
        expected = model.encode_image(((pixels / 255 - mean) / std).permute(0, 3, 1, 2))
    for encoder in (by_tag, by_file):
        torch.testing.assert_close(encoder.encode(pixels), expected, rtol=1e-4, atol=1e-5)
    assert (without.encode(pixels) - expected).abs().max() > 1e-3
