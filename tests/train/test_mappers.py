"""Mappers: ClipCap's shapes, names and counts."""

import pytest
import torch

from clipcap.data.errors import UsageError
from clipcap.train.mappers import MapperConfig, build_mapper


def test_mlp_is_clipcaps() -> None:
    mapper = build_mapper(MapperConfig(kind="mlp", embedding_width=512, lm_width=768, prefix_length=10))
    assert {name: tuple(p.shape) for name, p in mapper.named_parameters()} == {
        "model.0.weight": (3840, 512),
        "model.0.bias": (3840,),
        "model.2.weight": (7680, 3840),
        "model.2.bias": (7680,),
    }
    assert sum(p.numel() for p in mapper.parameters()) == 31_468_800  # the published 31.47M


def test_mlp_computes_two_linears_with_a_tanh_between() -> None:
    mapper = build_mapper(MapperConfig(kind="mlp", embedding_width=5, lm_width=6, prefix_length=3)).double()
    weights = dict(mapper.named_parameters())
    embedding = torch.randn(4, 5, dtype=torch.double)
    hidden = torch.tanh(embedding @ weights["model.0.weight"].T + weights["model.0.bias"])
    expected = (hidden @ weights["model.2.weight"].T + weights["model.2.bias"]).reshape(4, 3, 6)
    torch.testing.assert_close(mapper(embedding), expected, rtol=1e-12, atol=1e-12)


def test_errors() -> None:
    with pytest.raises(UsageError, match="--mapper perceiver is not known; use mlp"):
        build_mapper(MapperConfig(kind="perceiver", embedding_width=5, lm_width=6, prefix_length=3))
    with pytest.raises(UsageError, match="prefix_length of a mapper must be at least 1, not 0"):
        MapperConfig(kind="mlp", embedding_width=5, lm_width=6, prefix_length=0)
