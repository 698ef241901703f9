"""Stage 2: a cache becomes a checkpoint. Trains a mapper, and GPT-2 with it or not.

    from clipcap.train import TrainSettings, train

    train("cache.h5", "checkpoints", TrainSettings(epochs=3))

Knows nothing of images and of CLIP: the cache is all that it sees of stage 1.
"""

from typing import TYPE_CHECKING, Any

from clipcap.data.callable_package import make_callable

if TYPE_CHECKING:
    from clipcap.train.settings import TrainSettings
    from clipcap.train.start import TrainResult, train

__all__ = ["TrainResult", "TrainSettings", "train"]

make_callable(__name__, "start:train")


def __getattr__(name: str) -> Any:
    if name == "TrainSettings":
        from clipcap.train.settings import TrainSettings

        return TrainSettings
    if name in __all__:  # on first use: it imports torch
        from clipcap.train import start

        return getattr(start, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
