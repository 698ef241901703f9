"""Metrics of captions on the COCO caption toolkit's scale, in pure Python and numpy, and the registry of them.

Metrics know only text: tokenised captions and references. To add one, write `data/metrics/NAME.py` with a function that
follows `Metric`, and add its line to `METRICS`. `tokenizer.py` makes the tokens that all of them expect.
"""

from clipcap.data.metrics.base import Metric, Score, mean_score
from clipcap.data.metrics.bleu import bleu
from clipcap.data.metrics.cider import CiderReferences, cider
from clipcap.data.metrics.rouge import rouge_l
from clipcap.data.metrics.tokenizer import tokenize, tokenize_all

# By name; a metric may have several figures, the main one last, as BLEU has: Bleu_1 to Bleu_4.
METRICS: dict[str, Metric] = {"bleu": bleu, "rouge": rouge_l, "cider": cider}

__all__ = ["METRICS", "CiderReferences", "Metric", "Score", "mean_score", "tokenize", "tokenize_all"]
