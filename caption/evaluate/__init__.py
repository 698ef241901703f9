"""`clipcap-evaluate`: figures of captions against references, with what they are worth.

from clipcap.caption.evaluate import evaluate

evaluate("cache.h5", ["checkpoints/best"]).evaluated[0].scores["CIDEr"].corpus
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from clipcap.caption.evaluate.base import Evaluation
    from clipcap.caption.evaluate.start import evaluate

__all__ = ["Evaluation", "evaluate"]

_MODULES = {"Evaluation": "base", "evaluate": "start"}


def __getattr__(name: str) -> Any:
    if name in _MODULES:  # on first use: they bring numpy
        from importlib import import_module

        return getattr(import_module(f"clipcap.caption.evaluate.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
