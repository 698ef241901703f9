"""The decoding strategies by name. A new one is its file and its line here."""

from collections.abc import Collection

from clipcap.caption.decoding.base import Strategy
from clipcap.caption.decoding.beam import Beam
from clipcap.caption.decoding.greedy import Greedy
from clipcap.caption.decoding.jmisilo import JmisiloGreedy
from clipcap.caption.decoding.lahdhirim import LahdhirimBeam, LahdhirimGreedy, LahdhirimSample
from clipcap.caption.decoding.options import DecodeOptions
from clipcap.caption.decoding.rmokady import RmokadyBeam, RmokadyGreedy, RmokadySample
from clipcap.caption.decoding.sample import Sample
from clipcap.data.errors import UsageError

# The first is the default.
STRATEGIES: dict[str, type[Strategy]] = {
    "greedy": Greedy,
    "beam": Beam,
    "sample": Sample,
}

# What checkpoints of each system in `train/foreign` can do; the first is what the system's own code does.
FOREIGN_STRATEGIES: dict[str, dict[str, type[Strategy]]] = {
    "rmokady": {"greedy": RmokadyGreedy, "beam": RmokadyBeam, "sample": RmokadySample},
    "jmisilo": {"greedy": JmisiloGreedy},
    "lahdhirim": {"beam": LahdhirimBeam, "greedy": LahdhirimGreedy, "sample": LahdhirimSample},
}


def choose_strategy(name: str | None, options: DecodeOptions | None = None, system: str = "clipcap") -> Strategy:
    """Build the strategy of a name.

    Args:
        name: of the strategy; None takes the first of the system.
        options: what is asked of it.
        system: `clipcap`, or the system in `train/foreign` that the checkpoint comes from.

    Raises:
        UsageError: there is no strategy of that name, or it cannot honour an option.
    """
    strategies = STRATEGIES if system == "clipcap" else FOREIGN_STRATEGIES[system]
    name = name or next(iter(strategies))
    if name not in strategies:
        whose = f" of a {system} checkpoint" if name in STRATEGIES else ""
        raise UsageError(f"`decode` {name}{whose} is not known; use {', '.join(strategies)}")
    return strategies[name](options)


def infer_strategy(given: Collection[str], decode: str | None = None) -> str | None:
    """The strategy that the options ask for.

    Args:
        given: names of the parameters that were given explicitly, of `DecodeOptions` or others.
        decode: name of the strategy, where it was given as well.

    Returns:
        `decode`; without it the strategy that alone uses one of the options, such as beam for `beams`; or None, where
        the options fit any strategy.

    Raises:
        UsageError: options of two strategies were given, or options that `decode` does not use.
    """
    asked = [
        (name, option) for name, strategy in STRATEGIES.items() for option in sorted(strategy.own_options & {*given})
    ]
    for name, option in asked:
        if decode is not None and decode in STRATEGIES and name != decode:
            raise UsageError(f"`{option}` is for `decode` {name}, not {decode}; leave one of them out")
        first, other = asked[0]
        if name != first:
            raise UsageError(f"`{other}` is for `decode` {first} and `{option}` for {name}; leave one of them out")
    return decode or (asked[0][0] if asked else None)
