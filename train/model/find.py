"""Finds the checkpoint that a path means."""

from pathlib import Path

from clipcap.data.cache.atomic import set_aside
from clipcap.data.errors import CheckpointError

FOREIGN_SUFFIXES = (".pt", ".pth", ".pkl")  # files of other systems, see train/foreign


def find_checkpoint(path: Path) -> Path:
    """Return the checkpoint at `path`: a checkpoint's folder, the `best` of a run, or a file of another system.

    A crash may have left the only whole checkpoint set aside (see `replace_folder`). It is read where it lies and not
    moved back, because a training run may be using the folder at this moment.

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
    for folder in (path, set_aside(path), path / "best", set_aside(path / "best")):
        if (folder / "config.json").is_file():
            return folder
    raise CheckpointError(
        f"there is no model at {path}; train one with: clipcap-precompute DATASET && clipcap-train cache.h5, or give "
        "the folder of another"
    )
