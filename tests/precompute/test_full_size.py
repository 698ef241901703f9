"""Stage 1 on real photographs with a full-size ViT-B-32.

Its random weights were saved to disk and are loaded as downloaded ones are.
"""

from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from clipcap.data.cache import Cache


@pytest.fixture(scope="module", params=["pt", "safetensors"])
def weights(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    model = open_clip.create_model("ViT-B-32", pretrained=None)
    file = tmp_path_factory.mktemp("vit") / f"weights.{request.param}"
    if request.param == "pt":
        torch.save(model.state_dict(), file)
    else:
        save_file(model.state_dict(), file)
    return file


@pytest.mark.usefixtures("all_cores")
def test_real_photographs(shared: Path, weights: Path, tmp_path: Path, run: Any) -> None:
    coco, index = shared / "data/coco", tmp_path / "cache.h5"
    options = ["--pretrained", weights, "--tokenizer", shared / "data/gpt2", "--precision", "fp32", "--device", "cpu"]
    result = run("precompute", coco, "-o", index, *options)
    assert result.status == 0, result.err
    cache = Cache.open(index)
    assert (cache.images, cache.captions, len(cache.shards)) == (159, 795, 1)
    tables = next(cache.tables())
    assert [int((tables.split == split).sum()) for split in range(3)] == [80, 79, 0]
    assert tables.failure_path == []
    assert tables.embedding.shape == (159, 512)

    model, _, transform = open_clip.create_model_and_transforms("ViT-B-32", pretrained=str(weights))
    model.eval()
    with torch.inference_mode():
        expected = torch.cat(
            [
                model.encode_image(torch.stack([transform(Image.open(coco / path)) for path in paths]))
                for paths in (tables.path[i : i + 53] for i in range(0, 159, 53))
            ]
        )
    cosine = torch.cosine_similarity(torch.from_numpy(tables.embedding).float(), expected)
    assert cosine.min() >= 0.9999
    # ... and not because all photos look the same to a random network: shifted by one, they differ.
    shifted = torch.cosine_similarity(torch.from_numpy(tables.embedding).float().roll(1, 0), expected)
    assert shifted.max() < 0.9999
