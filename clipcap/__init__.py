"""Caption images with a frozen image encoder and GPT-2, in two stages joined by a file.

    import clipcap

    clipcap.precompute("coco/", "cache.h5")              # stage 1: dataset -> cache
    clipcap.train("cache.h5", "checkpoints")             # stage 2: cache -> checkpoint
    clipcap.Captioner.from_checkpoint("checkpoints/best")("img.jpg")
    clipcap.evaluate("cache.h5", "checkpoints/best")     # BLEU, ROUGE-L, CIDEr-D and more of a held-out split

`from clipcap.precompute import PrecomputeSettings` and `from clipcap.train import TrainSettings` give the settings of
either stage. Everything is imported on first use.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from clipcap.caption.captioner import Captioner
    from clipcap.caption.evaluate.start import evaluate
    from clipcap.precompute.start import precompute
    from clipcap.train.start import train

    __version__: str

__all__ = ["Captioner", "__version__", "evaluate", "precompute", "train"]

if not (Path(__file__).parent / "data").is_dir():  # in a checkout, the four folders are beside this one
    __path__.append(str(Path(__file__).resolve().parents[1]))


def __getattr__(name: str) -> Any:
    if name == "Captioner":
        from clipcap.caption.captioner import Captioner

        return Captioner
    if name == "evaluate":
        from clipcap.caption.evaluate.start import evaluate

        return evaluate
    if name == "__version__":
        from clipcap.data.version import program_version

        return program_version()
    if name in ("precompute", "train"):  # packages that can be called, see data/callable_package.py
        from importlib import import_module

        return import_module(f"clipcap.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
