"""Mappers: their shapes, published parameter counts, and the names of their weights in ClipCap's checkpoints."""

from dataclasses import asdict
from typing import Any

import pytest
import torch

from clipcap.data.errors import UsageError
from clipcap.train.mappers import MAPPERS, mapper_config
from clipcap.train.mappers.module import Mapper


def build(kind: str, embedding: int = 16, lm: int = 32, prefix: int = 5, **sizes: Any) -> Mapper:
    torch.manual_seed(0)
    config = mapper_config(kind=kind, embedding_width=embedding, lm_width=lm, prefix_length=prefix, **sizes)
    return Mapper(config).eval()


def count(mapper: Mapper) -> str:
    return f"{sum(parameter.numel() for parameter in mapper.parameters()) / 1e6:.2f}M"


@pytest.mark.parametrize(
    ("kind", "embedding", "prefix", "clip", "expected"),
    [
        ("mlp", 512, 10, 10, "31.47M"),
        ("transformer", 512, 10, 10, "41.75M"),
        ("transformer", 640, 10, 10, "42.73M"),
        ("transformer", 640, 40, 40, "57.52M"),
        ("transformer", 512, 40, 40, "53.59M"),
    ],
)
def test_published_parameter_counts(kind: str, embedding: int, prefix: int, clip: int, expected: str) -> None:
    with torch.device("meta"):
        assert count(build(kind, embedding, 768, prefix, clip_length=clip)) == expected


@pytest.mark.parametrize("kind", MAPPERS)
def test_the_prefix_of_an_image_does_not_depend_on_other_images(kind: str) -> None:
    mapper = build(kind, clip_length=3, layers=2).double()
    embedding = torch.randn(4, 16, dtype=torch.double)
    prefix = mapper(embedding)
    assert prefix.shape == (4, 5, 32)
    alone = torch.cat([mapper(row[None]) for row in embedding])
    torch.testing.assert_close(prefix, alone, rtol=1e-5, atol=1e-6)
    assert not torch.allclose(prefix[0], prefix[1])


@pytest.mark.parametrize("kind", MAPPERS)
@pytest.mark.parametrize("embedding", [1280, 1024, 1408])  # ViT-bigG-14, ViT-g-14, and ViT-g-14 before its projection
def test_the_widest_encoders_fit_the_widest_gpt2(kind: str, embedding: int) -> None:
    with torch.device("meta"):
        prefix = build(kind, embedding, 1600, 4)(torch.empty(2, embedding))
    assert prefix.shape == (2, 4, 1600)


def test_names_and_shapes_of_clipcaps_transformer() -> None:
    mapper = build("transformer", embedding=640, lm=768, prefix=40, clip_length=40, layers=8)
    state = mapper.state_dict()
    assert len(state) == 99
    assert state["prefix_const"].shape == (40, 768)
    assert state["linear.weight"].shape == (30720, 640)
    assert state["transformer.layers.7.attn.to_keys_values.weight"].shape == (1536, 768)
    assert state["transformer.layers.0.attn.project.bias"].shape == (768,)
    assert "transformer.layers.0.attn.to_queries.bias" not in state
    assert state["transformer.layers.3.mlp.fc1.weight"].shape == (1536, 768)


def test_every_weight_of_a_transformer_learns() -> None:
    mapper = build("transformer", clip_length=3, layers=2)
    mapper(torch.randn(2, 16)).square().sum().backward()
    for name, parameter in mapper.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize(
    ("kind", "sizes", "parameter"),
    [
        ("transformer", {"lm": 30}, "30"),
        ("encoder", {"lm": 30}, "30"),
        ("transformer", {"layers": 0}, "`layers`"),
        ("encoder", {"dropout": 1.0}, "`dropout`"),
        ("mlp", {"prefix": 0}, "`prefix_length`"),
        ("mlp", {"patches": 4}, "4 patches"),
        ("perceiver", {}, "mlp, transformer, encoder, linear"),
    ],
)
def test_a_size_that_is_not_allowed_is_an_error(kind: str, sizes: dict[str, Any], parameter: str) -> None:
    with pytest.raises(UsageError, match=parameter):
        build(kind, **sizes)


def test_knobs_of_other_mappers_are_ignored_and_unknown_ones_are_not() -> None:
    sizes = {"embedding_width": 16, "lm_width": 32, "prefix_length": 5}
    early = {"clip_length": 10, "layers": 8, "heads": 16, "dropout": 0.0, "tanh": True, "patches": 0}
    assert asdict(mapper_config("mlp", **sizes, **early)) == {"kind": "mlp", **sizes, "patches": 0}
    with pytest.raises(TypeError):
        mapper_config("mlp", **sizes, colour="red")
