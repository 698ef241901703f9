"""Rules that strategies share: what changes the logits, and what ends a text.

R rows, W columns of tokens, V vocabulary. Tokens stand at the right of their rows, and negative numbers, which are no
tokens, at their left. transformers has the same rules as logits processors, which are the reference in the tests.
"""

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from transformers import StopStringCriteria

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


_NO_TOKEN = 1 << 30  # beyond every vocabulary, which transformers takes for a token that is part of no stop text
_SORTED = 1024  # tokens of a row that hold a nucleus nearly always; sorting the whole vocabulary takes far longer


def penalize_repetition(logits: torch.Tensor, tokens: torch.Tensor, penalty: float) -> torch.Tensor:
    """Make the tokens of each row less likely to come again.

    Args:
        logits: float (R, V), or log-probabilities.
        tokens: int64 (R, W), the tokens of the caption so far; the prefix has no tokens.
        penalty: what positive logits are divided and negative logits multiplied by; 1 changes nothing.
    """
    if penalty == 1 or not tokens.shape[1]:
        return logits
    vocabulary = logits.shape[1]
    padded = F.pad(logits, (0, 1))  # a column for what is no token
    places = torch.where(tokens < 0, vocabulary, tokens)
    repeated = padded.gather(1, places)
    penalized = padded.scatter(1, places, torch.where(repeated < 0, repeated * penalty, repeated / penalty))
    return penalized[:, :vocabulary].contiguous()


def keep_likeliest(logits: torch.Tensor, count: int) -> torch.Tensor:
    """Set all but the `count` highest logits of each row, float (R, V), to minus infinity; 0 keeps all."""
    if not count:
        return logits
    lowest = logits.topk(min(count, logits.shape[-1]), dim=-1).values[:, -1:]
    return logits.masked_fill(logits < lowest, -torch.inf)


def keep_nucleus(logits: torch.Tensor, share: float) -> torch.Tensor:
    """Keep the fewest tokens of each row, float (R, V), whose probabilities sum to `share`; 1 keeps all."""
    if share == 1:
        return logits
    probability = logits.softmax(dim=-1)
    likeliest, order = probability.topk(min(_SORTED, logits.shape[-1]), dim=-1)
    outside = torch.ones_like(logits, dtype=torch.bool).scatter(1, order, _is_outside(likeliest, share))
    more = (likeliest.sum(dim=-1) < share).nonzero()[:, 0]
    if len(more):
        everything, order = probability[more].sort(dim=-1, descending=True)
        outside[more] = outside[more].scatter(1, order, _is_outside(everything, share))
    return logits.masked_fill(outside, -torch.inf)


def _is_outside(descending: torch.Tensor, share: float) -> torch.Tensor:
    """Which tokens the likelier ones before them make superfluous, bool, of descending probabilities, float (R, S)."""
    outside = descending.cumsum(dim=-1) - descending >= share
    outside[:, 0] = False  # the likeliest token always stays
    return outside


class Ending:
    """Tells which texts have ended.

    Args:
        end: the token that ends a text.
        stop: a text that ends it as well.
        tokenizer: of the language model; only `stop` needs it.
    """

    def __init__(self, end: int, stop: str | None = None, tokenizer: "PreTrainedTokenizerBase | None" = None) -> None:
        self.end = end
        self._stop = None
        if stop is not None:
            assert tokenizer is not None
            self._stop = StopStringCriteria(tokenizer, stop)

    def __call__(self, tokens: torch.Tensor) -> torch.Tensor:
        """Whether the last token of each row, int64 (R, W), ends its text: bool (R)."""
        ended = tokens[:, -1] == self.end
        if self._stop is not None:
            ended |= self._stop(torch.where(tokens < 0, _NO_TOKEN, tokens), None)
        return ended
