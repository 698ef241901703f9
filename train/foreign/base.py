"""What checkpoints of other systems become: our mapper's and GPT-2's weights under our names, and what goes with them.

Their files hold weights and little else: sizes are read from the shapes.
"""

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F

from clipcap.data.errors import CheckpointError
from clipcap.train.mappers import MapperConfig
from clipcap.train.mappers.module import Mapper
from clipcap.train.model.captioning import ClipCapModel

State = Mapping[str, torch.Tensor]
# GPT-2's attention masks, which transformers once saved with the weights. (`.c_attn.bias` is none of them.)
_BUFFER = re.compile(r"\.attn\.(masked_)?bias$")


class ForeignModel(ClipCapModel):
    """A model of another system: ours, but for the figures, which must be theirs."""

    def token_losses(
        self, embedding: torch.Tensor, tokens: torch.Tensor, lengths: torch.Tensor, label_smoothing: float = 0.0
    ) -> torch.Tensor:
        """As ours, summed in the order in which those systems' code sums.

        They give cross entropy the vocabulary as the second of three axes. In float32 torch then adds the probabilities
        of 50,257 tokens one after the other, and the loss is up to 0.002 off; to get their figures, we do too.
        """
        logits, targets = self.target_logits(embedding, tokens, lengths)
        layout = logits.float().T[None], targets[None]
        return F.cross_entropy(*layout, reduction="none", label_smoothing=label_smoothing)[0]


@dataclass(frozen=True, kw_only=True)
class ForeignCheckpoint:
    """A checkpoint of another system.

    Attributes:
        system: its name in `SYSTEMS`.
        mapper: sizes of the mapper.
        lm_config: what GPT2Config is made of.
        tensors: `clip_project.*` and `gpt.*`, float32.
        encoder, pretrained, features: the image encoder that the system uses, where nobody says otherwise.
        model_class: what it becomes.
    """

    system: str
    mapper: MapperConfig
    lm_config: dict[str, Any]
    tensors: dict[str, torch.Tensor]
    encoder: str
    pretrained: str
    features: str
    model_class: type[ForeignModel] = ForeignModel

    def build(self, end: int) -> ForeignModel:
        """The model, in evaluation mode, on the CPU.

        Args:
            end: the token that ends a text.

        Raises:
            CheckpointError: weights are missing, or do not fit each other.
        """
        from transformers import GPT2Config, GPT2LMHeadModel

        config = GPT2Config(**self.lm_config, bos_token_id=end, eos_token_id=end)
        model = self.model_class(Mapper(self.mapper), GPT2LMHeadModel(config))
        head = self.tensors.get("gpt.lm_head.weight")
        if head is not None and not torch.equal(head, self.tensors["gpt.transformer.wte.weight"]):
            raise CheckpointError(f"this {self.system} checkpoint has an output layer that is not its input embedding")
        try:
            missing, unexpected = model.load_state_dict(self.tensors, strict=False)
        except RuntimeError as error:
            raise CheckpointError(f"the weights of this {self.system} checkpoint do not fit each other") from error
        missing = [name for name in missing if name != "gpt.lm_head.weight"]
        if missing or unexpected:
            what = f"lacks {missing[0]}" if missing else f"has {unexpected[0]}, which is of nothing known"
            raise CheckpointError(f"this {self.system} checkpoint {what}; give one that is complete")
        return model.eval()


class System(ABC):
    """One of the systems whose checkpoints can be opened.

    Attributes:
        name: as options and files call it.
    """

    name: ClassVar[str]

    @abstractmethod
    def recognises(self, state: State) -> bool:
        """Whether weights of these names are of this system."""

    @abstractmethod
    def convert(self, state: State, heads: int | None) -> ForeignCheckpoint:
        """Read sizes from the shapes, and give the weights our names.

        Args:
            state: the weights.
            heads: of GPT-2's attention, which no shape tells; by default those of the published sizes.

        Raises:
            CheckpointError: the weights are not what their names promise.
        """


def language_model(state: State, prefix: str, heads: int | None) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """GPT-2's configuration and weights, under `gpt.`, of the tensors whose names begin with `prefix`.

    Raises:
        CheckpointError: they are none of GPT-2.
    """
    tensors = {
        f"gpt.{name.removeprefix(prefix)}": tensor.float()
        for name, tensor in state.items()
        if name.startswith(prefix) and not _BUFFER.search(name)
    }
    words, positions = (tensors.get(f"gpt.transformer.{name}.weight") for name in ("wte", "wpe"))
    blocks = {name.split(".")[3] for name in tensors if name.startswith("gpt.transformer.h.")}
    if words is None or positions is None or not blocks:
        raise CheckpointError(f"this checkpoint holds no GPT-2 under {prefix}*; give one that is complete")
    width = words.shape[1]
    # Published sizes have heads of 64; small ones, as in tests, mostly four heads.
    heads = heads or (width // 64 if width % 64 == 0 and width >= 256 else 4)
    if width % heads:
        raise CheckpointError(f"{heads} heads do not divide the width {width} of this GPT-2; give --heads")
    config = {
        "n_embd": width,
        "n_layer": len(blocks),
        "n_head": heads,
        "n_positions": positions.shape[0],
        "vocab_size": words.shape[0],
    }
    return config, tensors


def mapper_tensors(state: State, prefix: str, renamed: Mapping[str, str] | None = None) -> dict[str, torch.Tensor]:
    """A mapper's weights under `clip_project.`, of the tensors whose names begin with `prefix`.

    Args:
        state: all weights.
        prefix: of the mapper's.
        renamed: what stands behind the prefix there, to what stands behind it here; others keep their names.
    """
    renamed = renamed or {}
    names = {name: name.removeprefix(prefix) for name in state if name.startswith(prefix)}
    return {f"clip_project.{renamed.get(rest, rest)}": state[name].float() for name, rest in names.items()}


def sizes(tensors: Mapping[str, torch.Tensor], name: str, dimensions: int = 2) -> tuple[int, ...]:
    """The shape of one weight of the mapper.

    Raises:
        CheckpointError: it is not there, or has another number of dimensions.
    """
    tensor = tensors.get(f"clip_project.{name}")
    if tensor is None or tensor.ndim != dimensions:
        raise CheckpointError(f"the mapper of this checkpoint has no {name}; give one that is complete")
    return tuple(tensor.shape)


def quotient(output: int, width: int, what: str) -> int:
    """How often the language model's width goes into a layer's outputs.

    Raises:
        CheckpointError: not a whole number of times.
    """
    if output % width or not output:
        raise CheckpointError(f"the mapper's {what} has {output} outputs, no multiple of the width {width}")
    return output // width
