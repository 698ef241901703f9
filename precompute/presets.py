"""Stage 1's half of the published recipes. data/command/presets.py names them all, with their sources."""

from typing import Any

_CLIPCAP: dict[str, Any] = {"tokenizer": "gpt2", "features": "projected"}
_CLIPXGPT: dict[str, Any] = {"tokenizer": "gpt2", "features": "pooled"}
_VIT_B_32 = {"encoder": "ViT-B-32", "pretrained": "openai"}
_RN50X4 = {"encoder": "RN50x4", "pretrained": "openai"}

PRESETS: dict[str, dict[str, Any]] = {
    "clipcap-mlp": {**_CLIPCAP, **_VIT_B_32},
    "clipcap-transformer": {**_CLIPCAP, **_RN50X4},
    "clipcap-transformer-40": {**_CLIPCAP, **_RN50X4},
    "clipxgpt-small": {**_CLIPXGPT, **_VIT_B_32},
    "clipxgpt-large": {**_CLIPXGPT, "encoder": "ViT-L-14", "pretrained": "openai"},
    "clipxgpt-g14-xl": {**_CLIPXGPT, "encoder": "ViT-g-14", "pretrained": "laion2b_s12b_b42k"},
    "visual-tokens": {**_CLIPCAP, **_VIT_B_32},
}
