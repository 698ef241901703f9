"""Weights and tokenizers that are known by name: whether they can be had now, within seconds.

The libraries retry a hub that cannot be reached for the better part of a minute. We ask once; where there is no
answer they are told to work from what was downloaded before.
"""

import os
import threading
from functools import cache
from pathlib import Path


@cache
def use_hub_if_reachable(seconds: float = 5.0) -> bool:
    """Ask the model hub for a sign of life; without one, put the libraries into their offline mode for this process.

    Args:
        seconds: how long to wait, name look-up and proxies included.

    Returns:
        Whether the hub answered (with anything at all).
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
        except Exception:  # whatever the transport raises, the hub did not answer
            return

    # A thread, because a name look-up cannot be given a time limit.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(seconds)
    if not answered.is_set():
        huggingface_hub.constants.HF_HUB_OFFLINE = True
    return answered.is_set()


def is_path(name: str) -> bool:
    """Whether a name can only be meant as a path: names on the hub are `gpt2` or `owner/name`."""
    return name.startswith((".", "~", os.sep)) or name.count("/") > 1 or Path(name).is_absolute()
