"""COCO's captions in tokens of GPT-2, each with its end-of-text token, grouped by image."""

import json
import os
from pathlib import Path

import numpy as np

IMAGES, CAPTIONS = 113_287, 566_747  # in Karpathy's training split, on which ClipCap trains
END_OF_TEXT = 50256
# Number of captions of val2017 by their length in tokens, end-of-text included.
HISTOGRAM = {
    9: 632, 10: 2813, 11: 4247, 12: 4695, 13: 4119, 14: 3041, 15: 2013, 16: 1242, 17: 781, 18: 462, 19: 310, 20: 203,
    21: 118, 22: 100, 23: 52, 24: 37, 25: 31, 26: 31, 27: 22, 28: 22, 29: 10, 30: 4, 31: 4, 32: 4, 33: 2, 34: 3, 35: 2,
    36: 3, 37: 1, 38: 1, 41: 1, 42: 1, 44: 1, 45: 1, 47: 1, 48: 1, 54: 1, 55: 1, 58: 1,
}  # fmt: skip


def captions() -> list[list[list[int]]]:
    """Return the captions of 5,000 images as tokens: the real ones, or five random ones with the same lengths."""
    shared = os.environ.get("CLIPCAP_SHARED")
    if shared:
        from clipcap.data.pretrained.tokenizer import load_tokenizer

        data = Path(shared) / "data"
        tokenizer = load_tokenizer(str(data / "gpt2"))
        content = json.loads((data / "annotations/captions_val2017.json").read_text())
        found: dict[int, list[list[int]]] = {}
        for annotation in content["annotations"]:
            tokens = [*tokenizer.encode(annotation["caption"]), END_OF_TEXT]
            found.setdefault(annotation["image_id"], []).append(tokens)
        return list(found.values())
    counts = np.array(list(HISTOGRAM.values()))
    random = np.random.default_rng(0)
    drawn = random.choice(list(HISTOGRAM), size=(5000, 5), p=counts / counts.sum())
    return [[[*random.integers(END_OF_TEXT, size=n - 1).tolist(), END_OF_TEXT] for n in row] for row in drawn]
