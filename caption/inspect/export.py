"""Writing a checkpoint as a file that the tools of another system load."""

import io
from pathlib import Path

from clipcap.caption.inspect.describe import is_foreign
from clipcap.data.errors import UsageError

SYSTEMS = ("rmokady",)


def export(path: str | Path, system: str, file: str | Path) -> Path:
    """Write a checkpoint, ours or of another system, as a file of another system.

    Args:
        path: the folder of a checkpoint or of a run, or a `.pt` or `.pkl` file.
        system: `rmokady`.
        file: the file to write, which must not exist.

    Returns:
        The file.

    Raises:
        UsageError: the system is not known, `path` is no checkpoint, or the file exists.
        CheckpointError: the checkpoint cannot be read, or that system has no such mapper.
        ClipCapError: the file cannot be written.
    """
    import torch

    from clipcap.data.cache.atomic import write_file
    from clipcap.train.foreign import open_foreign
    from clipcap.train.foreign.rmokady import export as export_rmokady
    from clipcap.train.model.checkpoint import load_checkpoint
    from clipcap.train.model.find import find_checkpoint

    path, file = Path(path), Path(file)
    if path.is_file() and not is_foreign(path):
        raise UsageError(f"`export` is for checkpoints, and {path} is not one; give the folder of a checkpoint")
    if system not in SYSTEMS:
        raise UsageError(f"`export` {system} is not known; use {', '.join(SYSTEMS)}")
    if file.exists():
        raise UsageError(f"`export`: {file} exists; give another name, or delete it first")
    found = find_checkpoint(path)
    if found.is_file():
        foreign = open_foreign(found)
        state, mapper = foreign.tensors, foreign.mapper
    else:
        model, _, config = load_checkpoint(found)
        state, mapper = model.state_dict(), config.mapper
    content = io.BytesIO()
    torch.save(export_rmokady(state, mapper), content)
    write_file(file, content.getvalue())
    return file
