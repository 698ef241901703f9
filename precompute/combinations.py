"""Which arguments of `precompute` go together."""

from clipcap.data.errors import UsageError
from clipcap.data.settings import Settings, changed_values
from clipcap.precompute.part import WHOLE, Part

ENGINES = ("local", "ray")


def check_combination(
    *,
    overwrite: bool,
    retokenize: bool,
    repair: bool,
    part: Part,
    devices: int,
    engine: str,
    join: bool,
    reuse: bool,
    settings: Settings,
) -> None:
    """Raise the UsageError of arguments that do not go together."""
    if join:
        given = {"retokenize": retokenize, "part": part != WHOLE, "devices": devices > 1, "engine": engine != "local"}
        given |= {"reuse": reuse, **dict.fromkeys(changed_values(settings), True)}
        for name, is_given in given.items():
            if is_given:
                raise UsageError(f"`join` puts finished caches together, as they are; leave `{name}` out")
    if engine not in ENGINES:
        raise UsageError(f"`engine` {engine} is not known; use {' or '.join(ENGINES)}")
    if engine == "ray" and (part != WHOLE or retokenize):
        name = "part" if part != WHOLE else "retokenize"
        raise UsageError(f"`engine` ray makes all shards, and `{name}` is for one process; leave one of them out")
    if retokenize and overwrite:
        raise UsageError("`retokenize` keeps the embeddings that `overwrite` deletes; leave one of them out")
    if repair and (retokenize or overwrite):
        raise UsageError("`repair` makes broken shards as they were; leave `retokenize` and `overwrite` out")
    if devices > 1 and part != WHOLE:
        raise UsageError(f"`part` {part} is one process, and `devices` {devices} are several; leave one of them out")
    if devices > 1 and retokenize:
        raise UsageError(f"`retokenize` needs no device; leave `devices` {devices} out")
    if part != WHOLE and (overwrite or retokenize or repair):
        name = "overwrite" if overwrite else "retokenize" if retokenize else "repair"
        raise UsageError(f"`{name}` is for the whole cache, and `part` {part} for a part of it; leave one of them out")
