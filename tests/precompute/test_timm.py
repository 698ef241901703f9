"""Encoders of timm: their features equal timm's own, and go through all three stages."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from clipcap.data.cache.index import Cache
from clipcap.data.errors import ModelError, UsageError
from clipcap.precompute.encoders.load import load_encoder
from clipcap.precompute.images import open_image
from clipcap.precompute.loading import to_pixels
from clipcap.precompute.settings import PrecomputeSettings

CPU = torch.device("cpu")
SMALL = ["test_vit", "test_vit4", "test_convnext", "test_efficientnet", "test_resnet", "test_mambaout"]
LARGE = [
    "vit_small_patch16_224",
    "vit_small_patch14_reg4_dinov2",
    "vit_base_patch16_siglip_224",
    "vit_base_patch16_siglip_224.v2_webli",
    "efficientnet_b0",
    "convnext_tiny",
    "swin_tiny_patch4_window7_224",
]


def save_weights(folder: Path, name: str) -> Path:
    """Save random weights of a model with its classifier, as files of published weights have it."""
    torch.manual_seed(0)
    file = folder / "model.safetensors"
    save_file(timm.create_model(name).state_dict(), file)
    return file


def own_model(name: str, file: Path) -> Any:
    """Return the model as timm itself loads it."""
    return timm.create_model(name, pretrained=True, pretrained_cfg_overlay={"file": str(file)}).eval()


def own_features(model: Any, images: list[Image.Image]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return what timm itself computes: `forward_features`, and `forward_head` before the classifier."""
    data: Any = timm.data
    transform = data.create_transform(**data.resolve_model_data_config(model), is_training=False)
    with torch.inference_mode():
        found = model.forward_features(torch.stack([transform(image) for image in images]))
        return found, model.forward_head(found, pre_logits=True)


def check_features(tmp_path: Path, name: str) -> None:
    file = save_weights(tmp_path, name)
    random = np.random.default_rng(0)
    images = [Image.fromarray(random.integers(256, size=(90, 130, 3), dtype=np.uint8)) for _ in range(2)]
    features, pooled = own_features(own_model(name, file), images)
    for kind in ("pooled", "patches"):
        encoder = load_encoder(f"timm:{name}", str(file), device=CPU, features=kind)
        found = encoder.encode(torch.stack([to_pixels(image, encoder.transform) for image in images]))
        if kind == "pooled":
            torch.testing.assert_close(found, pooled, atol=1e-4, rtol=1e-4)
            continue
        assert found.shape == (2, *encoder.shape)
        tokens = features.shape[1] * features.shape[2] if features.shape[-1] == found.shape[-1] else None
        if features.ndim == 3:
            torch.testing.assert_close(found, features[:, -found.shape[1] :], atol=1e-4, rtol=1e-4)
            grid = int(found.shape[1] ** 0.5)
            assert grid**2 == found.shape[1]  # only cells of the image are left
        elif tokens == found.shape[1]:
            torch.testing.assert_close(found, features.flatten(1, 2), atol=1e-4, rtol=1e-4)
        else:
            torch.testing.assert_close(found[:, 1], features[:, :, 0, 1], atol=1e-4, rtol=1e-4)  # row by row


@pytest.mark.parametrize("name", SMALL)
def test_features_equal_those_of_timm(tmp_path: Path, name: str) -> None:
    check_features(tmp_path, name)


@pytest.mark.slow
@pytest.mark.parametrize("name", LARGE)
def test_features_of_published_architectures_equal_those_of_timm(tmp_path: Path, name: str) -> None:
    check_features(tmp_path, name)


def test_embeddings_of_200_photographs_equal_those_of_timm(shared: Path) -> None:
    file = shared / "data" / "encoders" / "tf_efficientnet_lite2.safetensors"
    paths = sorted((shared / "data" / "coco").glob("*2017/*.jpg"))[:200]  # of many sizes, so that cropping matters
    assert len(paths) == 200
    encoders = [
        load_encoder("timm:tf_efficientnet_lite2", str(file), device=CPU, features=features)
        for features in ("pooled", "patches")
    ]
    assert encoders[0].preprocess["size"] == [260, 260]
    model = own_model("tf_efficientnet_lite2", file)
    lowest = 1.0
    for start in range(0, 200, 8):
        photos = [open_image(path) for path in paths[start : start + 8]]
        features, pooled = own_features(model, photos)
        cells = features.flatten(2).transpose(1, 2)
        for encoder, expected in zip(encoders, (pooled, cells), strict=True):
            found = encoder.encode(torch.stack([to_pixels(photo, encoder.transform) for photo in photos]))
            assert found.shape == expected.shape
            nothing = expected.norm(dim=-1) == 0  # a cell may have no feature, and then no direction either
            assert not found[nothing].any()
            cosine = torch.cosine_similarity(found, expected, dim=-1)[~nothing]
            lowest = min(lowest, float(cosine.min()))
    assert lowest > 0.9999, lowest


@pytest.mark.slow
def test_a_timm_encoder_goes_through_all_stages(
    run: Any, coco: Path, tmp_path: Path, lm_folder: Path, tokenizer_folder: Path
) -> None:
    file = save_weights(tmp_path, "test_vit")
    index = tmp_path / "cache.h5"
    made = run(
        "precompute",
        coco,
        "-o",
        index,
        "--encoder",
        "timm:test_vit",
        "--pretrained",
        file,
        "--tokenizer",
        tokenizer_folder,
    )
    assert made.status == 0, made.err
    fingerprint = Cache.open(index).fingerprint
    assert (fingerprint.encoder, fingerprint.features, fingerprint.width) == ("timm:test_vit", "pooled", 64)
    assert fingerprint.pretrained == str(file)
    trained = run("train", index, "-o", tmp_path / "run", "--lm", lm_folder, "--epochs", 1, "--device", "cpu")
    assert trained.status == 0, trained.err
    image = coco / "val2017/000000000113.jpg"
    captioned = run("caption", image, "--model", tmp_path / "run", "--device", "cpu")
    assert captioned.status == 0, captioned.err
    torch.manual_seed(1)
    save_file(timm.create_model("test_vit").state_dict(), file)
    other = run("caption", image, "--model", tmp_path / "run", "--device", "cpu")
    assert other.status == 2
    assert str(file) in other.err


def test_pooled_is_the_default_and_projected_is_an_error() -> None:
    assert PrecomputeSettings(encoder="timm:test_vit").features_for("coco") == "pooled"
    assert PrecomputeSettings(encoder="ViT-B-32").features_for("coco") == "projected"
    with pytest.raises(UsageError, match=r"projected.*pooled or patches"):
        load_encoder("timm:test_vit", device=CPU, features="projected")


def test_wrong_names_and_weights_are_errors(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="vit_small_patch16_224"):
        load_encoder("timm:vit_smal_patch16_224", device=CPU, features="pooled")
    with pytest.raises(UsageError, match=r"lvd142m"):
        load_encoder("timm:vit_small_patch14_dinov2", "nonsense", device=CPU, features="pooled")
    with pytest.raises(UsageError, match="other"):
        load_encoder("timm:test_vit.r160_in1k", "other", device=CPU, features="pooled")
    file = save_weights(tmp_path, "test_convnext")
    with pytest.raises(ModelError, match=r"model.safetensors does not hold weights of timm:test_vit"):
        load_encoder("timm:test_vit", str(file), device=CPU, features="pooled")
    state = {name: tensor for name, tensor in load_file(file).items() if "head.fc" not in name}
    save_file(state, file)
    assert load_encoder("timm:test_convnext", str(file), device=CPU, features="pooled").shape == (64,)
    state.pop("stem.0.weight")
    save_file(state, file)
    with pytest.raises(ModelError, match=r"stem.0.weight"):
        load_encoder("timm:test_convnext", str(file), device=CPU, features="pooled")
    damaged = tmp_path / "damaged.pt"
    damaged.write_bytes(b"no weights")
    with pytest.raises(ModelError, match=r"damaged.pt"):
        load_encoder("timm:test_vit", str(damaged), device=CPU, features="pooled")
