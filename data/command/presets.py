"""The recipes by name, published ones with their sources and ours with its measurements: what `--preset` takes.

Each stage holds its half of every recipe, as settings: precompute/presets.py and train/presets.py. Where a published
recipe has a known fault, the preset corrects it:

* Warm-up is a fraction of the run, not 5,000 steps, which a small dataset never leaves (rmokady).
* Learning rates of CLIPxGPT are the ones that its schedule produced: it multiplied the rate with itself (jmisilo).
* The prefix predicts the first token, padding is not in the loss, and softmax is applied once (jmisilo).
* Captions are not cut to 10 tokens, which is below COCO's mean (Lahdhirim).
* Embeddings are not normalised, although the released 40-position transformer was trained on normalised ones (rmokady).
"""

PRESETS: dict[str, str] = {
    "clipcap-mlp": "ClipCap (arXiv:2111.09734), MLP and fine-tuned GPT-2; rmokady/CLIP_prefix_caption train.py",
    "clipcap-transformer": "ClipCap (arXiv:2111.09734), transformer and frozen GPT-2, the paper's 10 + 10 positions",
    "clipcap-transformer-40": "rmokady/CLIP_prefix_caption README: the released transformer, 40 + 40 positions",
    "clipxgpt-small": "jmisilo/clip-gpt-captioning src/utils/config.py, ConfigS",
    "clipxgpt-large": "jmisilo/clip-gpt-captioning src/utils/config.py, ConfigL",
    "clipxgpt-g14-xl": "the fork of jmisilo/clip-gpt-captioning for ViT-g-14 and GPT-2 XL, ConfigG",
    "photographs": "ours, for some thousand photographs without CLIP and GPT-2; measured in tests/bench/RESULTS.md",
    "visual-tokens": "Lahdhirim/CV-image-captioning-clip-gpt2: 5 visual tokens, 11 blocks of GPT-2 frozen",
}
