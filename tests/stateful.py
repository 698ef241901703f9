"""How stateful tests run: a few sequences in the suite, the same each time; with STATEFUL_EXAMPLES=N, N new ones."""

import os

from hypothesis import HealthCheck, settings

_LONG = os.environ.get("STATEFUL_EXAMPLES")


def examples(few: int, steps: int) -> settings:
    """Return the settings of a stateful test.

    Args:
        few: sequences in the suite.
        steps: of each sequence, at most.
    """
    return settings(
        max_examples=int(_LONG or few),
        stateful_step_count=steps,
        derandomize=_LONG is None,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        print_blob=True,
    )
