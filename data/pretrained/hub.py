"""Finds out within seconds whether the model hub can be reached.

The libraries retry a hub that does not answer for most of a minute. This module asks once; without an answer, the
libraries use only what was downloaded before.
"""

import os
import threading
from functools import cache
from pathlib import Path


@cache
def use_hub_if_reachable(seconds: float = 5.0) -> bool:
    """Ask the model hub once. If it does not answer, put the libraries into offline mode for this process.

    Args:
        seconds: how long to wait at most, including name look-up and proxies.

    Returns:
        Whether the hub answered, with any status.
    """
    import huggingface_hub.constants
    from huggingface_hub import get_session

    if huggingface_hub.constants.HF_HUB_OFFLINE:
        return False
    answered = threading.Event()

    def ask() -> None:
        try:
            get_session().head(huggingface_hub.constants.ENDPOINT, timeout=seconds)
            answered.set()
        except Exception:  # whatever the transport raises means that the hub did not answer
            return

    # In a thread, because a name look-up takes no time limit.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(seconds)
    if not answered.is_set():
        huggingface_hub.constants.HF_HUB_OFFLINE = True
    return answered.is_set()


def is_path(name: str) -> bool:
    """Return whether a name can only be a path. Names on the hub are `gpt2` or `owner/name`."""
    return name.startswith((".", "~", os.sep)) or name.count("/") > 1 or Path(name).is_absolute()
