"""Chooses which weights of the language model train with the mapper, and describes them."""

import re
from collections.abc import Callable

from torch import nn

from clipcap.data.errors import UsageError
from clipcap.train.model.captioning import ClipCapModel

# Decides whether a tensor of GPT-2 trains, by the number of its block (None outside of the blocks) and its name.
Rule = Callable[[int | None, str], bool]


def tune(model: ClipCapModel, spec: str) -> None:
    """Set `requires_grad` of all weights: True for the mapper, and for a part of the language model.

    Args:
        model: the model, which is changed in place.
        spec: the part of the language model that trains:

            * `all` or `none`;
            * `first+last`: the first and last block, embeddings and final norm, as in jmisilo/clip-gpt-captioning;
            * `last:N`: the last N blocks and the final norm;
            * `from:N`: all but the first N blocks, as in Lahdhirim/CV-image-captioning-clip-gpt2
              (`n_layers_to_freeze`).

    Raises:
        UsageError: the model has fewer blocks.
    """
    blocks = model.gpt.config.n_layer
    number = spec.partition(":")[2]
    if number and int(number) > blocks:
        raise UsageError(f"`tune` {spec}: this language model has {blocks} blocks; give a number up to {blocks}")
    rule = _rule(spec, blocks)
    for name, parameter in model.gpt.named_parameters():
        parameter.requires_grad_(rule(_block(name), name))
    model.clip_project.requires_grad_(True)


def describe_trainable(model: ClipCapModel) -> str:
    """Describe what trains, such as `mapper 31.47M; GPT-2 53.56M: embeddings, blocks 0 and 11, final norm`."""
    mapper = f"mapper {_millions(model.clip_project)}"
    trained = [name for name, parameter in model.gpt.named_parameters() if parameter.requires_grad]
    if not trained:
        return f"{mapper}; of GPT-2 nothing"
    total = _millions(model.gpt)
    if all(parameter.requires_grad for parameter in model.gpt.parameters()):
        return f"{mapper}; GPT-2 {total}: all of it"
    parts = ["embeddings"] if any(".wte." in name for name in trained) else []
    blocks = sorted({block for name in trained if (block := _block(name)) is not None})
    if blocks:
        consecutive = len(blocks) > 2 and blocks == list(range(blocks[0], blocks[-1] + 1))
        numbers = f"{blocks[0]} to {blocks[-1]}" if consecutive else " and ".join(map(str, blocks))
        parts.append(f"block{'' if len(blocks) == 1 else 's'} {numbers}")
    parts += ["final norm"] if any(".ln_f." in name for name in trained) else []
    return f"{mapper}; GPT-2 {total}: {', '.join(parts)}"


def _rule(spec: str, blocks: int) -> Rule:
    if spec in ("all", "none"):
        return lambda block, name: spec == "all"
    if spec == "first+last":
        return lambda block, name: block in (None, 0, blocks - 1)
    kind, number = spec.split(":")
    if kind == "last":
        return lambda block, name: ".ln_f." in name if block is None else block >= blocks - int(number)
    return lambda block, name: block is None or block >= int(number)


def _block(name: str) -> int | None:
    found = re.match(r"transformer\.h\.(\d+)\.", name)
    return int(found[1]) if found else None


def _millions(module: nn.Module) -> str:
    return f"{sum(p.numel() for p in module.parameters() if p.requires_grad) / 1e6:.2f}M"
