"""Identifies the weights of a model by a hash."""

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn


def weights_sha256(module: "nn.Module") -> str:
    """Return the SHA-256 over the names, shapes and float32 values of a module's state dict, as hexadecimal digits.

    The same weights have the same hash whatever kind of file they were loaded from.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name}\0{tuple(tensor.shape)}\0".encode())
        digest.update(tensor.detach().float().contiguous().cpu().numpy().data)
    return digest.hexdigest()
