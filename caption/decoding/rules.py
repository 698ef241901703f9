"""Rules that strategies share: what changes the logits, and what ends a text.

R rows, T tokens so far, V vocabulary. transformers has the same rules as logits processors, which are the reference
in the tests.
"""

from typing import TYPE_CHECKING

import torch
from transformers import StopStringCriteria

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def penalize_repetition(logits: torch.Tensor, tokens: torch.Tensor, penalty: float) -> torch.Tensor:
    """Make the tokens of each row less likely to come again.

    Args:
        logits: float (R, V), or log-probabilities.
        tokens: int64 (R, T), the tokens of the caption so far; the prefix has no tokens.
        penalty: what positive logits are divided and negative logits multiplied by; 1 changes nothing.
    """
    if penalty == 1 or not tokens.shape[1]:
        return logits
    repeated = logits.gather(1, tokens)
    return logits.scatter(1, tokens, torch.where(repeated < 0, repeated * penalty, repeated / penalty))


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
    ascending, order = logits.sort(dim=-1)
    outside = ascending.softmax(dim=-1).cumsum(dim=-1) <= 1 - share
    outside[:, -1] = False  # the likeliest token always stays
    return logits.masked_fill(outside.scatter(1, order, outside), -torch.inf)


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
        """Whether the last token of each row, int64 (R, T), ends its text: bool (R)."""
        ended = tokens[:, -1] == self.end
        if self._stop is not None:
            ended |= self._stop(tokens, None)
        return ended
