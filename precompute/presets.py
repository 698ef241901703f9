"""Stage 1's half of the recipes. data/command/presets.py names them all, with their sources."""

from clipcap.precompute.settings import PrecomputeSettings

PRESETS: dict[str, PrecomputeSettings] = {
    "clipcap-mlp": PrecomputeSettings(
        encoder="ViT-B-32", pretrained="openai", features="projected", tokenizer="gpt2"
    ),
    "clipcap-transformer": PrecomputeSettings(
        encoder="RN50x4", pretrained="openai", features="projected", tokenizer="gpt2"
    ),
    "clipcap-transformer-40": PrecomputeSettings(
        encoder="RN50x4", pretrained="openai", features="projected", tokenizer="gpt2"
    ),
    "clipxgpt-small": PrecomputeSettings(
        encoder="ViT-B-32", pretrained="openai", features="pooled", tokenizer="gpt2"
    ),
    "clipxgpt-large": PrecomputeSettings(
        encoder="ViT-L-14", pretrained="openai", features="pooled", tokenizer="gpt2"
    ),
    "clipxgpt-g14-xl": PrecomputeSettings(
        encoder="ViT-g-14", pretrained="laion2b_s12b_b42k", features="pooled", tokenizer="gpt2"
    ),
    "photographs": PrecomputeSettings(
        encoder="timm:tf_efficientnet_lite2", features="patches", tokenizer="new:5000", views=2
    ),
    "visual-tokens": PrecomputeSettings(
        encoder="ViT-B-32", pretrained="openai", features="projected", tokenizer="gpt2"
    ),
}  # fmt: skip
