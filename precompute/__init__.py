"""Stage 1: a dataset becomes a cache. Runs frozen CLIP once over each image.

    from clipcap.precompute import PrecomputeSettings, precompute

    precompute("coco", "cache.h5", PrecomputeSettings(encoder="ViT-L-14"))

Knows nothing of mappers and of language models beyond their tokenizer.
"""

from typing import TYPE_CHECKING, Any

from clipcap.data.callable_package import make_callable

if TYPE_CHECKING:
    from clipcap.precompute.dataset import understand
    from clipcap.precompute.settings import PrecomputeSettings
    from clipcap.precompute.start import PrecomputeResult, precompute

__all__ = ["PrecomputeResult", "PrecomputeSettings", "precompute", "understand"]

make_callable(__name__, "start:precompute")


def __getattr__(name: str) -> Any:
    if name == "PrecomputeSettings":
        from clipcap.precompute.settings import PrecomputeSettings

        return PrecomputeSettings
    if name == "understand":
        from clipcap.precompute.dataset import understand

        return understand
    if name in __all__:  # on first use: it imports torch
        from clipcap.precompute import start

        return getattr(start, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
