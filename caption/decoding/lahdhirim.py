"""Decoding as Lahdhirim/CV-image-captioning-clip-gpt2 does it: transformers' beam search over 30 positions."""

from clipcap.caption.decoding.base import Strategy
from clipcap.caption.decoding.beam import Beam
from clipcap.caption.decoding.greedy import Greedy
from clipcap.caption.decoding.sample import Sample
from clipcap.train.model.captioning import ClipCapModel


class _ThirtyPositions(Strategy):
    """That system's `max_length=30`, in which transformers counts the prefix; at least one token is chosen."""

    def max_tokens(self, model: ClipCapModel) -> int:
        """The limit of a caption in tokens."""
        return self.options.max_tokens or max(1, 30 - model.clip_project.config.prefix_length)


class LahdhirimBeam(_ThirtyPositions, Beam):
    """Beam search within that limit."""


class LahdhirimGreedy(_ThirtyPositions, Greedy):
    """Greedy decoding within that limit."""


class LahdhirimSample(_ThirtyPositions, Sample):
    """Sampling within that limit."""
