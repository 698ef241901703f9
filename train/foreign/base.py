"""Checkpoints of other systems, converted: the weights of a mapper and of GPT-2 under our names, and their sizes.

Their files hold weights and little else, so all sizes are read from shapes.
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
from clipcap.train.model.gpt2_config import check_shapes, gpt2_config

State = Mapping[str, torch.Tensor]
# GPT-2's attention masks, which early versions of transformers saved with the weights. `.c_attn.bias` is not one.
_BUFFER = re.compile(r"\.attn\.(masked_)?bias$")


class ForeignModel(ClipCapModel):
    """A model of another system, whose losses are summed in the same order as in that system's code."""

    def token_losses(
        self, embedding: torch.Tensor, tokens: torch.Tensor, lengths: torch.Tensor, label_smoothing: float = 0.0
    ) -> torch.Tensor:
        """Compute the loss of every caption token, as `ClipCapModel.token_losses`, with those systems' rounding.

        Their code passes the vocabulary to cross entropy as the second of three axes. In float32, torch then adds the
        probabilities of 50,257 tokens one after the other, which changes the loss by up to 0.002 nats.
        """
        logits, targets = self.target_logits(embedding, tokens, lengths)
        layout = logits.float().T[None], targets[None]
        return F.cross_entropy(*layout, reduction="none", label_smoothing=label_smoothing)[0]


@dataclass(frozen=True, kw_only=True)
class ForeignCheckpoint:
    """A checkpoint of another system.

    Attributes:
        system: name of the system in `SYSTEMS`.
        mapper: configuration of the mapper.
        lm_config: arguments of GPT2Config.
        tensors: `clip_project.*` and `gpt.*`, float32.
        encoder, pretrained, features: the image encoder that the system uses by default.
        model_class: class of the model.
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
        """Build the model, in evaluation mode, on the CPU.

        Args:
            end: id of the token that ends a text.

        Raises:
            CheckpointError: weights are missing, or do not fit each other.
            ValueError: a size is too large, or the heads do not divide the width.
        """
        from transformers import GPT2LMHeadModel

        config = gpt2_config({**self.lm_config, "bos_token_id": end, "eos_token_id": end})
        head = self.tensors.get("gpt.lm_head.weight")
        if head is not None and not torch.equal(head, self.tensors["gpt.transformer.wte.weight"]):
            fact = f"this {self.system} checkpoint has an output layer that is not its input embedding"
            raise CheckpointError(f"{fact}; use another")
        with torch.device("meta"):  # takes no memory, whatever the sizes are
            empty = self.model_class(Mapper(self.mapper), GPT2LMHeadModel(config))
        self._check(empty)
        model = self.model_class(Mapper(self.mapper), GPT2LMHeadModel(config))
        model.load_state_dict(self.tensors, strict=False)
        return model.eval()

    def _check(self, model: ForeignModel) -> None:
        """Raise CheckpointError unless the tensors are exactly the weights of a model, which may be on `meta`."""
        expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
        found = {name: tuple(tensor.shape) for name, tensor in self.tensors.items()}
        found.setdefault("gpt.lm_head.weight", expected["gpt.lm_head.weight"])
        try:
            check_shapes(expected, found)
        except ValueError as error:
            fact = f"the weights of this {self.system} checkpoint do not fit each other ({error})"
            raise CheckpointError(f"{fact}; give one that is complete") from error


class System(ABC):
    """A system whose checkpoints can be opened. A subclass says how its weights are named.

    Attributes:
        name: of the system, as in `SYSTEMS`.
    """

    name: ClassVar[str]

    @abstractmethod
    def recognises(self, state: State) -> bool:
        """Whether weights with these names belong to this system."""

    @abstractmethod
    def convert(self, state: State, heads: int | None) -> ForeignCheckpoint:
        """Read all sizes from the shapes, and rename the weights to ours.

        Args:
            state: the weights by name.
            heads: of GPT-2's attention, which no shape tells; by default those of the published sizes.

        Raises:
            CheckpointError: the weights do not have the shapes that their names promise.
        """


def language_model(state: State, prefix: str, heads: int | None) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Extract GPT-2: its configuration, and its weights renamed to begin with `gpt.`.

    Args:
        state: all weights.
        prefix: with which the names of GPT-2's weights begin.
        heads: of its attention; by default those of the published sizes.

    Raises:
        CheckpointError: these weights are not a GPT-2.
    """
    tensors = {
        f"gpt.{name.removeprefix(prefix)}": tensor.float()
        for name, tensor in state.items()
        if name.startswith(prefix) and not _BUFFER.search(name)
    }
    vocabulary, positions = (tensors.get(f"gpt.transformer.{name}.weight") for name in ("wte", "wpe"))
    blocks = {name.split(".")[3] for name in tensors if name.startswith("gpt.transformer.h.")}
    if vocabulary is None or positions is None or not blocks:
        raise CheckpointError(f"this checkpoint holds no GPT-2 under {prefix}*; give one that is complete")
    width = vocabulary.shape[1]
    if not width:
        raise CheckpointError("this GPT-2 has a width of 0; give one that is complete")
    # Published sizes have heads of width 64; small ones, as in tests, mostly have four heads.
    heads = heads or (width // 64 if width % 64 == 0 and width >= 256 else 4)
    if width % heads:
        raise CheckpointError(f"{heads} heads do not divide the width {width} of this GPT-2; give another `heads`")
    config = {
        "n_embd": width,
        "n_layer": len(blocks),
        "n_head": heads,
        "n_positions": positions.shape[0],
        "vocab_size": vocabulary.shape[0],
    }
    return config, tensors


def mapper_tensors(state: State, prefix: str, renamed: Mapping[str, str] | None = None) -> dict[str, torch.Tensor]:
    """Extract a mapper: its weights renamed to begin with `clip_project.`.

    Args:
        state: all weights.
        prefix: with which the names of the mapper's weights begin.
        renamed: our name for the rest of a name, after the prefix; names that are not in it keep their rest.
    """
    renamed = renamed or {}
    names = {name: name.removeprefix(prefix) for name in state if name.startswith(prefix)}
    return {f"clip_project.{renamed.get(rest, rest)}": state[name].float() for name, rest in names.items()}


def sizes(tensors: Mapping[str, torch.Tensor], name: str, dimensions: int = 2) -> tuple[int, ...]:
    """Return the shape of one weight of the mapper.

    Args:
        tensors: what `mapper_tensors` returns.
        name: of the weight, without `clip_project.`.
        dimensions: that the weight must have.

    Raises:
        CheckpointError: it is missing, or has another number of dimensions.
    """
    tensor = tensors.get(f"clip_project.{name}")
    if tensor is None or tensor.ndim != dimensions:
        raise CheckpointError(f"the mapper of this checkpoint has no {name}; give one that is complete")
    return tuple(tensor.shape)


def quotient(output: int, width: int, what: str) -> int:
    """Return how many vectors of the language model's width a layer puts out.

    Args:
        output: outputs of the layer.
        width: of the language model.
        what: the layer, for the error.

    Raises:
        CheckpointError: the outputs are no multiple of the width.
    """
    if output % width or not output:
        raise CheckpointError(
            f"the mapper's {what} has {output} outputs, no multiple of the width {width}; use another"
        )
    return output // width
