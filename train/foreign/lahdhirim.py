"""Checkpoints of Lahdhirim/CV-image-captioning-clip-gpt2: a pickle of weights, configurations and metrics.

The configurations are objects of that repository's classes, which are not imported: the weights are enough.
"""

from clipcap.train.foreign.base import (
    ForeignCheckpoint,
    State,
    System,
    language_model,
    mapper_tensors,
    quotient,
    sizes,
)
from clipcap.train.mappers import mapper_config

# Classes of objects in the pickle that are skipped.
STUBS = [("src.config_loader.config_loader", name) for name in ("ClipConfig", "GPT2Config", "TrainingConfig")]


class Lahdhirim(System):
    """`projector.0.*`, a linear followed by a tanh, and `gpt.*`."""

    name = "lahdhirim"

    def recognises(self, state: State) -> bool:
        return "projector.0.weight" in state

    def convert(self, state: State, heads: int | None) -> ForeignCheckpoint:
        config, lm = language_model(state, "gpt.", heads)
        renamed = {"0.weight": "linear.weight", "0.bias": "linear.bias"}
        mapper = mapper_tensors(state, "projector.", renamed)
        outputs, embedding_width = sizes(mapper, "linear.weight")
        described = mapper_config(
            kind="linear",
            embedding_width=embedding_width,
            lm_width=config["n_embd"],
            prefix_length=quotient(outputs, config["n_embd"], "linear"),
        )
        return ForeignCheckpoint(
            system=self.name,
            mapper=described,
            lm_config=config,
            tensors={**mapper, **lm},
            encoder="ViT-B-32",
            pretrained="openai",
            features="projected",
        )
