"""`--features`: what is taken from an image tower, held against transformers' own CLIP and against the projection."""

from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from open_clip.model import CLIP
from transformers import CLIPVisionConfig, CLIPVisionModel

from clipcap.caption import Captioner
from clipcap.data.cache.index import Cache
from clipcap.data.errors import UsageError
from clipcap.precompute.encoders.clip_features import patches, pooled, projected
from clipcap.precompute.encoders.load import load_encoder
from clipcap.precompute.settings import PrecomputeSettings
from small_world import small_models

TEXT = {"context_length": 8, "vocab_size": 64, "width": 32, "heads": 2, "layers": 1}


def tower(**vision: Any) -> Any:
    torch.manual_seed(0)
    return CLIP(embed_dim=16, vision_cfg=vision, text_cfg=TEXT).visual.eval().requires_grad_(False)


def vit() -> Any:
    return tower(image_size=32, layers=2, width=64, patch_size=8)


def timm() -> Any:
    return tower(
        timm_model_name="vit_tiny_patch16_224",
        timm_pool="avg",
        timm_proj="linear",
        image_size=224,
    )


def to_transformers(vit: Any) -> Any:
    """Return a CLIPVisionModel of transformers with the same weights."""
    config = CLIPVisionConfig(
        hidden_size=64, num_hidden_layers=2, num_attention_heads=1, patch_size=8, image_size=32,
        intermediate_size=256, hidden_act="gelu",
    )  # fmt: skip
    state = {
        "embeddings.class_embedding": vit.class_embedding,
        "embeddings.patch_embedding.weight": vit.conv1.weight,
        "embeddings.position_embedding.weight": vit.positional_embedding,
    }
    norms = {"pre_layrnorm": vit.ln_pre, "post_layernorm": vit.ln_post}
    for i, block in enumerate(vit.transformer.resblocks):
        layer = f"encoder.layers.{i}"
        for part, weight, bias in zip(
            "qkv", block.attn.in_proj_weight.chunk(3), block.attn.in_proj_bias.chunk(3), strict=True
        ):
            state[f"{layer}.self_attn.{part}_proj.weight"] = weight
            state[f"{layer}.self_attn.{part}_proj.bias"] = bias
        norms[f"{layer}.self_attn.out_proj"] = block.attn.out_proj
        norms[f"{layer}.layer_norm1"], norms[f"{layer}.layer_norm2"] = block.ln_1, block.ln_2
        norms[f"{layer}.mlp.fc1"], norms[f"{layer}.mlp.fc2"] = block.mlp.c_fc, block.mlp.c_proj
    for name, module in norms.items():
        state[f"{name}.weight"], state[f"{name}.bias"] = module.weight, module.bias
    model = CLIPVisionModel(config)
    model.load_state_dict(state)
    return model.eval()


def test_pooled_features_and_patches_of_a_vit_equal_those_of_transformers() -> None:
    batch = torch.randn(3, 3, 32, 32)
    with torch.inference_mode():
        expected = to_transformers(vit())(batch)
        torch.testing.assert_close(pooled(vit())(batch), expected.pooler_output)
        last = vit().ln_post(expected.last_hidden_state[:, 1:])
        torch.testing.assert_close(patches(vit())(batch), last)
        assert patches(vit())(batch).shape == (3, 16, 64)


def test_the_projection_of_pooled_features_is_the_projected_ones() -> None:
    batch = torch.randn(2, 3, 32, 32)
    with torch.inference_mode():
        torch.testing.assert_close(pooled(vit())(batch) @ vit().proj, projected(vit())(batch))
        resnet = {"image_size": 32, "layers": [1, 1, 1, 1], "width": 64}
        before = pooled(tower(**resnet))(batch)
        assert before.shape == (2, 2048)
        torch.testing.assert_close(tower(**resnet).attnpool.c_proj(before), projected(tower(**resnet))(batch))
        large = torch.randn(2, 3, 224, 224)
        torch.testing.assert_close(timm().head(pooled(timm())(large)), projected(timm())(large))


def test_patches_of_a_resnet_and_of_a_timm_tower() -> None:
    with torch.inference_mode():
        resnet = tower(image_size=64, layers=[1, 1, 1, 1], width=64)
        batch = torch.randn(2, 3, 64, 64)
        found = patches(resnet)(batch)
        assert found.shape == (2, 4, 2048)
        grid = resnet.layer4(resnet.layer3(resnet.layer2(resnet.layer1(resnet.stem(batch)))))
        torch.testing.assert_close(found[:, 1], grid[:, :, 0, 1])  # row by row
        large = torch.randn(1, 3, 224, 224)
        # Averaged over its patches, timm's ViT with this pool is its own pooled embedding, but for the last norm.
        assert patches(timm())(large).shape == (1, 196, 192)
        torch.testing.assert_close(patches(timm())(large), timm().trunk.forward_features(large)[:, 1:])


def test_a_tower_without_patches_or_projection_is_an_error() -> None:
    coca = open_clip.model.CLIP(
        embed_dim=16,
        vision_cfg={"image_size": 32, "layers": 1, "width": 64, "patch_size": 8, "attentional_pool": True},
        text_cfg=TEXT,
    ).visual
    with pytest.raises(UsageError, match="patches"):
        patches(coca)
    with pytest.raises(UsageError, match="pooled"):
        pooled(torch.nn.Linear(2, 2))


def test_all_kinds_of_features_record_the_same_weights(clip_folder: Path) -> None:
    encoders = {
        features: load_encoder(str(clip_folder), device=torch.device("cpu"), features=features)
        for features in ("projected", "pooled", "patches")
    }
    assert len({encoder.weights_sha256 for encoder in encoders.values()}) == 1
    assert {name: encoder.shape for name, encoder in encoders.items()} == {
        "projected": (16,),
        "pooled": (64,),
        "patches": (16, 64),
    }
    with pytest.raises(UsageError, match=r"cls .*projected, pooled, patches"):
        load_encoder(str(clip_folder), device=torch.device("cpu"), features="cls")


@pytest.fixture
def patch_cache(run: Any, coco: Path, tmp_path: Path, clip_folder: Path, tokenizer_folder: Path) -> Path:
    index = tmp_path / "patches.h5"
    result = run("precompute", coco, "-o", index, "--features", "patches", *small_models(clip_folder, tokenizer_folder))
    assert result.status == 0, result.err
    assert "width 16 x 64" in result.out
    return index


def test_patches_through_all_stages(run: Any, coco: Path, tmp_path: Path, lm_folder: Path, patch_cache: Path) -> None:
    cache = Cache.open(patch_cache)
    assert (cache.patches, cache.fingerprint.width, cache.fingerprint.features) == (16, 64, "patches")
    assert next(cache.tables()).embedding.shape == (17, 16, 64)
    options = ["--lm", lm_folder, "--epochs", 2, "--batch-size", 9, "--precision", "fp32", "--device", "cpu"]
    trained = run("train", patch_cache, "-o", tmp_path / "run", *options, "--mapper", "transformer", "--layers", 1)
    assert trained.status == 0, trained.err
    captioner = Captioner.from_checkpoint(tmp_path / "run", device="cpu")
    weights = dict(captioner.model.clip_project.named_parameters())
    assert weights["linear.weight"].shape == (32, 64)  # one linear for every patch
    rows = next(cache.tables()).embedding
    from_cache = run("caption", patch_cache, "--model", tmp_path / "run", "--device", "cpu")
    assert [line.split(": ", 1)[1] for line in from_cache.out.splitlines()] == captioner(rows.astype(np.float32))
    image = coco / "val2017/000000000113.jpg"
    assert captioner.encode([image]).shape == (1, 16, 64)
    assert isinstance(captioner(rows[0]), str)
    np.savez(tmp_path / "rows.npz", embedding=rows, name=np.array([f"{i}.jpg" for i in range(17)]))
    named = run("caption", tmp_path / "rows.npz", "--model", tmp_path / "run", "--device", "cpu")
    assert named.out.splitlines() == [
        f"{i}.jpg: {line.split(': ', 1)[1]}" for i, line in enumerate(from_cache.out.splitlines())
    ]
    np.save(tmp_path / "flat.npy", rows[:, 0])
    wrong = run("caption", tmp_path / "flat.npy", "--model", tmp_path / "run", "--device", "cpu")
    assert wrong.status == 2
    message = wrong.err.splitlines()[-1]
    assert all(value in message for value in ("flat.npy", "(17, 64)", "(n, 16, 64)"))


def test_the_mlp_takes_no_patches(run: Any, tmp_path: Path, lm_folder: Path, patch_cache: Path) -> None:
    result = run("train", patch_cache, "-o", tmp_path / "run", "--lm", lm_folder, "--device", "cpu")
    assert result.status == 2
    message = result.err.splitlines()[-1]
    assert "--mapper mlp" in message
    assert "16 patches" in message
    assert not (tmp_path / "run").exists()


def test_another_kind_of_features_is_another_encoder(
    run: Any, small_cache: Path, trained: Path, patch_cache: Path
) -> None:
    result = run("caption", patch_cache, "--model", trained, "--device", "cpu")
    assert result.status == 2
    assert "features: projected, not patches" in result.err


def test_a_shard_of_patches_is_no_larger_than_memory_can_hold() -> None:
    shard_size = PrecomputeSettings().shard_size_for
    assert shard_size((512,)) == 4096
    assert shard_size((49, 768)) == 2048  # ViT-B-32: 154 MB
    assert shard_size((256, 1664)) == 256  # ViT-bigG-14: 218 MB
    assert shard_size((1 << 28, 2)) == 1
    assert PrecomputeSettings(shard_size=10).shard_size_for((1 << 28, 2)) == 10
