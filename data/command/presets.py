"""Recipes by name: what `--preset` means. Data, not code: the half that stage 1 takes, and the half of stage 2.

What is given on the command line or in a `--config` goes before a preset. Where a published recipe has a known fault,
the preset does the right thing:

* Warm-up is a part of the run, not 5,000 steps. (rmokady: a small dataset never leaves those.)
* Rates of CLIPxGPT are what its schedule made of its settings: it multiplied the rate with itself.
* The prefix is asked for the first token, padding is not in the loss, and softmax is taken once. (jmisilo)
* Captions are not cut to 10 tokens. (Lahdhirim: COCO's mean is above that.)
* Embeddings stay as CLIP makes them. (The released weights of the 40-position transformer took rows of length 1.)
"""

from typing import Any

Half = dict[str, Any]

_VIT_B_32: Half = {"encoder": "ViT-B-32", "pretrained": "openai"}
_CLIPCAP: Half = {"tokenizer": "gpt2", "features": "projected"}
_CLIPXGPT: Half = {"tokenizer": "gpt2", "features": "pooled"}

# By name: the source, the options of clipcap-precompute, those of clipcap-train.
PRESETS: dict[str, tuple[str, Half, Half]] = {
    "clipcap-mlp": (
        "ClipCap (arXiv:2111.09734), MLP and fine-tuned GPT-2; rmokady/CLIP_prefix_caption train.py",
        {**_CLIPCAP, **_VIT_B_32},
        {
            "mapper": "mlp", "prefix_length": 10, "lm": "gpt2", "tune": "all", "epochs": 10, "batch_size": 40,
            "lr": 2e-5, "warmup": 0.05,
        },
    ),
    "clipcap-transformer": (
        "ClipCap (arXiv:2111.09734), transformer and frozen GPT-2, as in the paper: 10 + 10 positions",
        {**_CLIPCAP, "encoder": "RN50x4", "pretrained": "openai"},
        {
            "mapper": "transformer", "prefix_length": 10, "clip_length": 10, "layers": 8, "lm": "gpt2",
            "tune": "none", "epochs": 10, "batch_size": 40, "lr": 2e-5, "warmup": 0.05,
        },
    ),
    "clipcap-transformer-40": (
        "rmokady/CLIP_prefix_caption README: the released transformer weights, 40 + 40 positions",
        {**_CLIPCAP, "encoder": "RN50x4", "pretrained": "openai"},
        {
            "mapper": "transformer", "prefix_length": 40, "clip_length": 40, "layers": 8, "lm": "gpt2",
            "tune": "none", "epochs": 10, "batch_size": 40, "lr": 2e-5, "warmup": 0.05,
        },
    ),
    "clipxgpt-small": (
        "jmisilo/clip-gpt-captioning src/utils/config.py, ConfigS",
        {**_CLIPXGPT, **_VIT_B_32},
        {
            "mapper": "encoder", "prefix_length": 4, "layers": 6, "heads": 16, "mapper_dropout": 0.1, "lm": "gpt2",
            "tune": "first+last", "epochs": 150, "batch_size": 64, "lr": 9e-6, "warmup": 0.33,
        },
    ),
    "clipxgpt-large": (
        "jmisilo/clip-gpt-captioning src/utils/config.py, ConfigL",
        {**_CLIPXGPT, "encoder": "ViT-L-14", "pretrained": "openai"},
        {
            "mapper": "encoder", "prefix_length": 4, "layers": 5, "heads": 16, "mapper_dropout": 0.08,
            "lm": "gpt2-medium", "tune": "first+last", "epochs": 120, "batch_size": 32, "lr": 2.5e-5, "warmup": 0.3,
        },
    ),
    "clipxgpt-g14-xl": (
        "the fork of jmisilo/clip-gpt-captioning for ViT-g-14 and GPT-2 XL, ConfigG, with the linear it kept back",
        {**_CLIPXGPT, "encoder": "ViT-g-14", "pretrained": "laion2b_s12b_b42k"},
        {
            "mapper": "encoder", "prefix_length": 4, "layers": 5, "heads": 16, "mapper_dropout": 0.08, "lm": "gpt2-xl",
            "tune": "first+last", "epochs": 300, "batch_size": 16, "lr": 2.5e-5, "warmup": 0.3,
        },
    ),
    "visual-tokens": (
        "Lahdhirim/CV-image-captioning-clip-gpt2: 5 visual tokens, the first 11 blocks of GPT-2 frozen",
        {**_CLIPCAP, **_VIT_B_32},
        {
            "mapper": "linear", "prefix_length": 5, "tanh": True, "lm": "gpt2", "tune": "from:11", "epochs": 10,
            "batch_size": 64, "lr": 1e-4, "warmup": 0.0, "schedule": "constant", "subset": 0.4,
        },
    ),
}  # fmt: skip
