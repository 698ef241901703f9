"""`tune` trains exactly the parts that it names, and presets have their published numbers of parameters."""

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from clipcap.data.command.presets import PRESETS
from clipcap.data.errors import UsageError
from clipcap.precompute.presets import PRESETS as PRECOMPUTE
from clipcap.train.mappers import mapper_config
from clipcap.train.mappers.module import Mapper
from clipcap.train.model.captioning import ClipCapModel
from clipcap.train.model.tuning import describe_trainable, tune
from clipcap.train.presets import PRESETS as TRAIN


def small_model(layers: int = 4) -> ClipCapModel:
    torch.manual_seed(0)
    mapper = Mapper(mapper_config(kind="linear", embedding_width=8, lm_width=16, prefix_length=2))
    sizes = {"n_embd": 16, "n_head": 2, "n_positions": 16, "vocab_size": 40, "bos_token_id": 39, "eos_token_id": 39}
    return ClipCapModel(mapper, GPT2LMHeadModel(GPT2Config(n_layer=layers, **sizes)))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("spec", "blocks", "embeddings", "norm"),
    [
        ("all", {0, 1, 2, 3}, True, True),
        ("none", set(), False, False),
        ("first+last", {0, 3}, True, True),
        ("last:1", {3}, False, True),
        ("last:3", {1, 2, 3}, False, True),
        ("from:3", {3}, True, True),
        ("from:4", set(), True, True),
        ("from:0", {0, 1, 2, 3}, True, True),
    ],
)
def test_tune_trains_exactly_the_parts_that_it_names(spec: str, blocks: set[int], embeddings: bool, norm: bool) -> None:
    model = small_model()
    tune(model, spec)
    tokens = torch.tensor([[1, 2, 39]])
    model.token_losses(torch.randn(1, 8), tokens, torch.tensor([3])).sum().backward()
    for name, parameter in model.gpt.named_parameters():
        part = name.split(".")[1]
        expected = {"wte": embeddings, "wpe": embeddings, "ln_f": norm}.get(part)
        if expected is None:
            expected = int(name.split(".")[2]) in blocks
        assert parameter.requires_grad == expected, name
        assert (parameter.grad is not None) == expected, name
    assert all(parameter.grad is not None for parameter in model.clip_project.parameters())


def test_the_description_names_the_parts_that_train() -> None:
    model = small_model()
    for spec, words in {
        "all": "GPT-2 0.01M: all of it",
        "none": "of GPT-2 nothing",
        "first+last": "embeddings, blocks 0 and 3, final norm",
        "last:1": "0.00M: block 3, final norm",
        "from:1": "embeddings, blocks 1 to 3, final norm",
    }.items():
        tune(model, spec)
        assert describe_trainable(model).endswith(words), spec
    with pytest.raises(UsageError, match="last:5"):
        tune(model, "last:5")


SIZES = {"gpt2": (768, 12), "gpt2-medium": (1024, 24), "gpt2-xl": (1600, 48)}
WIDTHS = {
    ("ViT-B-32", "projected"): 512,
    ("ViT-B-32", "pooled"): 768,
    ("RN50x4", "projected"): 640,
    ("ViT-L-14", "pooled"): 1024,
    ("ViT-g-14", "pooled"): 1408,
}


@pytest.mark.parametrize(
    ("preset", "mapper", "trained"),
    [
        ("clipcap-mlp", 31.47, 155.91),  # "156M" in the paper
        ("clipcap-transformer", 42.73, 42.73),  # "43M"
        ("clipcap-transformer-40", 57.52, 57.52),
        ("clipxgpt-small", 44.89, 98.45),
        ("clipxgpt-large", 67.18, 144.89),
        ("clipxgpt-g14-xl", 166.20, 309.74),
        ("visual-tokens", 1.97, 48.44),
    ],
)
def test_presets_have_the_published_parameter_counts(preset: str, mapper: float, trained: float) -> None:
    settings, first = TRAIN[preset], PRECOMPUTE[preset]
    assert first.encoder is not None
    assert first.features is not None
    width, layers = SIZES[settings.lm]
    with torch.device("meta"):
        model = ClipCapModel(
            Mapper(
                mapper_config(
                    kind=settings.mapper,
                    embedding_width=WIDTHS[first.encoder, first.features],
                    lm_width=width,
                    prefix_length=settings.prefix_length,
                    **settings.mapper_options,
                )
            ),
            GPT2LMHeadModel(GPT2Config(n_embd=width, n_layer=layers, n_head=width // 64)),
        )
        model.gpt.tie_weights()
    tune(model, settings.tune)
    numbers = [p.numel() for p in model.clip_project.parameters()]
    assert round(sum(numbers) / 1e6, 2) == mapper
    assert round(sum(p.numel() for p in model.parameters() if p.requires_grad) / 1e6, 2) == trained


def test_every_preset_has_a_source_and_a_half_in_each_stage() -> None:
    assert all("arXiv" in source or "/" in source for source in PRESETS.values())
    assert set(PRESETS) == set(TRAIN) == set(PRECOMPUTE)
