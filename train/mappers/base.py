"""What every mapper has: a frozen configuration that states its knobs, makes its layers and computes the prefix.

A mapper is one file with one class, and one line in `MAPPERS`. Its knobs become options of `clipcap-train` by
themselves. Nothing here imports torch, so that the command can list them quickly.

Letters for shapes: B images, d numbers in an embedding, t patches, K positions of the prefix, D width of the language
model.
"""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from clipcap.data.errors import UsageError
from clipcap.data.settings import Settings, check_type, setting

if TYPE_CHECKING:
    import torch
    from torch import nn

GROUP = "Mapper"
LARGEST = 1 << 20  # of widths and lengths, which may come from a file
MOST_LAYERS = 1000  # building one takes a millisecond, even without its weights


@dataclass(frozen=True, kw_only=True)
class MapperConfig(Settings):
    """Base of the mappers. A mapper is rebuilt from its configuration, which is stored in the checkpoint.

    A subclass adds its own knobs as fields declared with `setting`.

    Attributes:
        kind: the mapper's name, fixed by the subclass.
        embedding_width: d.
        lm_width: D.
        prefix_length: K.
        patches: t, where an image has an embedding for each of its patches; 0 where it has one embedding.

    Raises:
        UsageError: a size is below 1 or too large, or there are patches and the mapper does not take them.
    """

    kind: str = field(init=False, default="")
    embedding_width: int
    lm_width: int
    prefix_length: int
    patches: int = 0

    takes_patches: ClassVar[bool] = False
    """Whether the mapper can take an embedding for each patch."""
    one_row: ClassVar[bool] = True
    """Whether the layers process one vector for each image. If so, a CPU runs it in fp32, which is faster."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, least in (("embedding_width", 1), ("lm_width", 1), ("prefix_length", 1), ("patches", 0)):
            value = getattr(self, name)
            check_type(name, value, int)
            if value < least:
                raise UsageError(f"`{name}` of a mapper must be at least {least}, not {value}")
            if value > LARGEST:
                raise UsageError(f"`{name}` of a mapper must be at most {LARGEST:,}, not {value}")
        if self.patches and not self.takes_patches:
            fact = f"`mapper` {self.kind} takes one embedding of an image, not {self.patches} patches"
            raise UsageError(f"{fact}; use `mapper` transformer, or a cache of other `features`")

    @property
    def embedding_shape(self) -> tuple[int, ...]:
        """Shape of one image's embedding: (d,), or (t, d)."""
        return (self.patches, self.embedding_width) if self.patches else (self.embedding_width,)

    def layers_by_name(self) -> "dict[str, nn.Module | nn.Parameter]":
        """Make the mapper's layers with fresh weights, by the names that they have in a checkpoint."""
        raise NotImplementedError

    def prefix(self, layers: Any, embedding: "torch.Tensor") -> "torch.Tensor":
        """Compute the prefix.

        Args:
            layers: an object with the layers as attributes.
            embedding: float (B, d) or (B, t, d).

        Returns:
            float (B, K, D).
        """
        raise NotImplementedError


def check_heads(kind: str, width: int, heads: int) -> None:
    """Raise UsageError where the language model's width cannot be divided among attention heads."""
    if width % heads:
        raise UsageError(f"`mapper` {kind} has {heads} heads, which do not divide the width {width}")


def layers_setting() -> Any:
    """The knob `layers`, which several mappers have."""
    return setting(8, "Layers of the mapper.", group=GROUP, minimum=1, maximum=MOST_LAYERS)
