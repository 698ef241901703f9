"""Use: pictures, embeddings or a cache become captions and scores; caches and checkpoints say what they are.

In short::

    from clipcap.caption import Captioner

captioner = Captioner.from_checkpoint("checkpoints/best")
captioner("dog.jpg")
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from clipcap.caption.captioner import Captioner

__all__ = ["Captioner"]


def __getattr__(name: str) -> Any:
    if name == "Captioner":  # on first use: it brings torch and transformers
        from clipcap.caption.captioner import Captioner

        return Captioner
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
