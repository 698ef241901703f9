"""Checkpoints of rmokady/CLIP_prefix_caption, the original ClipCap: a bare state dict, `clip_project.*` and `gpt.*`.

The weights of MLP and transformer mappers have the same names as ours. A single linear is what predict.py builds
instead of an MLP for a prefix longer than 10. The published transformer is for RN50x4, the published MLPs for ViT-B/32.
"""

from collections.abc import Mapping

import torch

from clipcap.data.errors import CheckpointError
from clipcap.train.foreign.base import (
    ForeignCheckpoint,
    State,
    System,
    language_model,
    mapper_tensors,
    quotient,
    sizes,
)
from clipcap.train.mappers import MapperConfig, mapper_config
from clipcap.train.mappers.linear import LinearMapper

_ENCODERS = {640: "RN50x4", 1024: "RN50"}


class Rmokady(System):
    """`clip_project.model.*`, `clip_project.transformer.*`, or `clip_project.weight` alone."""

    name = "rmokady"

    def recognises(self, state: State) -> bool:
        return any(name.startswith("clip_project.") for name in state)

    def convert(self, state: State, heads: int | None) -> ForeignCheckpoint:
        config, lm = language_model(state, "gpt.", heads)
        single = {"weight": "linear.weight", "bias": "linear.bias"} if "clip_project.weight" in state else None
        mapper = mapper_tensors(state, "clip_project.", single)
        described = _mapper_config(mapper, config["n_embd"])
        return ForeignCheckpoint(
            system=self.name,
            mapper=described,
            lm_config=config,
            tensors={**mapper, **lm},
            encoder=_ENCODERS.get(described.embedding_width, "ViT-B-32"),
            pretrained="openai",
            features="projected",
        )


def export(model_state: Mapping[str, torch.Tensor], mapper: MapperConfig) -> dict[str, torch.Tensor]:
    """Rename our weights to what the tools of rmokady load: every key that they expect, the output layer included.

    Their environment has transformers 4.10, whose GPT-2 saves its attention masks with the weights and expects them.

    Args:
        model_state: the state of a `ClipCapModel`.
        mapper: its configuration.

    Raises:
        CheckpointError: that system has no such mapper.
    """
    single = isinstance(mapper, LinearMapper) and not mapper.tanh
    if mapper.patches or not (mapper.kind in ("mlp", "transformer") or single):
        raise CheckpointError(f"rmokady's code has no mapper {mapper.kind}; it has mlp and transformer")
    renamed = {"clip_project.linear.weight": "clip_project.weight", "clip_project.linear.bias": "clip_project.bias"}
    state = {(renamed.get(name, name) if single else name): tensor.clone() for name, tensor in model_state.items()}
    state["gpt.lm_head.weight"] = state["gpt.transformer.wte.weight"]
    positions = len(state["gpt.transformer.wpe.weight"])
    mask = torch.ones(positions, positions, dtype=torch.uint8).tril()[None, None]
    for name in [name for name in state if name.endswith(".attn.c_attn.weight")]:
        block = name.removesuffix("c_attn.weight")
        state[f"{block}bias"], state[f"{block}masked_bias"] = mask, torch.tensor(-1e4)
    return state


def _mapper_config(mapper: Mapping[str, torch.Tensor], width: int) -> MapperConfig:
    if "clip_project.prefix_const" in mapper:
        outputs, embedding_width = sizes(mapper, "linear.weight")
        return mapper_config(
            kind="transformer",
            embedding_width=embedding_width,
            lm_width=width,
            prefix_length=sizes(mapper, "prefix_const")[0],
            clip_length=quotient(outputs, width, "linear"),
            layers=len({name.split(".")[3] for name in mapper if name.startswith("clip_project.transformer.layers.")}),
        )
    if "clip_project.model.2.weight" in mapper:
        prefix_length = quotient(sizes(mapper, "model.2.weight")[0], width, "second layer")
        kind, first = "mlp", "model.0.weight"
    elif "clip_project.linear.weight" in mapper:
        kind, first = "linear", "linear.weight"
        prefix_length = quotient(sizes(mapper, first)[0], width, "linear")
    else:
        raise CheckpointError(f"its mapper is not one of ClipCap's (it has {next(iter(mapper))}); use another")
    return mapper_config(
        kind=kind,
        embedding_width=sizes(mapper, first)[1],
        lm_width=width,
        prefix_length=prefix_length,
        tanh=False,
    )
