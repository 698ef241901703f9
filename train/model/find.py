"""Finds the checkpoint that a path means."""

from pathlib import Path

from clipcap.data.cache.atomic import set_aside
from clipcap.data.errors import CheckpointError

FOREIGN_SUFFIXES = (".pt", ".pth", ".pkl")  # files of other systems, see train/foreign
# Folders inside a run's folder that hold the older run, until the new one has a checkpoint; see train/run/folder.py.
REPLACED, REPLACING = ".replaced", ".replacing"


def find_checkpoint(path: Path) -> Path:
    """Return the checkpoint at `path`: a checkpoint's folder, the `best` of a run, or a file of another system.

    A crash, or a run that replaces an older one, may have left the only whole checkpoint set aside. It is read where it
    lies and not moved back, because a training run may be using the folder at this moment.

    Raises:
        CheckpointError: there is no checkpoint at `path`.
    """
    if path.is_file():
        if path.suffix in FOREIGN_SUFFIXES:
            return path
        raise CheckpointError(
            f"{path} is a file; give the folder that clipcap-train wrote, or a checkpoint of another system "
            f"({', '.join(FOREIGN_SUFFIXES)})"
        )
    places = [path, path / "best", path / REPLACED / "best", path / REPLACING / "best"]
    for folder in (place for whole in places for place in with_set_aside(whole)):
        if (folder / "config.json").is_file():
            return folder
    raise CheckpointError(
        f"there is no model at {path}; train one with: clipcap-precompute DATASET && clipcap-train cache.h5, or give "
        "the folder of another"
    )


def with_set_aside(path: Path) -> list[Path]:
    """Return a path and the name under which a crash may have left its folder: the root of a disk has none."""
    real = path.resolve() if path.name in ("", "..") else path  # `.`, `..` and `/` name no folder
    return [path, set_aside(real)] if real.name else [path]
