"""Captioning: images, embeddings and caches become captions and scores; caches and checkpoints are described.

from clipcap.caption import Captioner, caption

captioner = Captioner.from_checkpoint("checkpoints/best")
captioner("dog.jpg")                                       # one caption
for result in caption(["holiday/"], "checkpoints/best"):   # many, as the command does it
    print(result.input, result.captions)
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from clipcap.caption.captioner import Captioner
    from clipcap.caption.settings import CaptionerSettings
    from clipcap.caption.start import Captioned, caption

__all__ = ["Captioned", "Captioner", "CaptionerSettings", "caption"]

_MODULES = {"Captioner": "captioner", "CaptionerSettings": "settings", "Captioned": "start", "caption": "start"}


def __getattr__(name: str) -> Any:
    if name in _MODULES:  # on first use: most of them bring torch and transformers
        from importlib import import_module

        return getattr(import_module(f"clipcap.caption.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
