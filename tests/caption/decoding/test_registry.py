"""Options of decoding, and the strategies that they choose."""

import ast
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from clipcap.caption.decoding.options import DecodeOptions
from clipcap.caption.decoding.registry import FOREIGN_STRATEGIES, STRATEGIES, choose_strategy, infer_strategy
from clipcap.data.errors import UsageError
from clipcap.data.settings import parameters_of
from clipcap.train.foreign import SYSTEMS

DECODING = Path(__file__).resolve().parents[3] / "caption/decoding"


@pytest.mark.parametrize(
    "options",
    [
        {"top_p": 1.5},
        {"top_p": 0.0},
        {"temperature": -1.0},
        {"temperature": float("nan")},
        {"repetition_penalty": 0.0},
        {"top_k": -1},
        {"captions": 0},
        {"max_tokens": 0},
        {"beams": 0},
        {"stop": ""},
    ],
)
def test_a_value_outside_its_bounds_is_an_error_that_names_the_parameter(options: dict[str, Any]) -> None:
    ((name, value),) = options.items()
    with pytest.raises(UsageError) as caught:
        DecodeOptions(**options)
    assert f"`{name}`" in str(caught.value)
    assert str(value) in str(caught.value)


def test_an_unknown_strategy_is_an_error_that_lists_those_of_the_system() -> None:
    with pytest.raises(UsageError) as caught:
        choose_strategy("guess")
    assert str(caught.value) == "`decode` guess is not known; use greedy, beam, sample"
    with pytest.raises(UsageError, match=r"beam of a jmisilo checkpoint .* greedy"):
        choose_strategy("beam", system="jmisilo")


@pytest.mark.parametrize(
    ("name", "system", "options", "facts"),
    [
        ("greedy", "clipcap", {"captions": 2}, ["2", "`decode` beam or sample"]),
        ("beam", "clipcap", {"captions": 6}, ["`captions` 6", "`beams` 6"]),
        ("beam", "rmokady", {"repetition_penalty": 2.0}, ["`repetition_penalty`"]),
        ("beam", "rmokady", {"length_penalty": 2.0}, ["`length_penalty`"]),
        ("greedy", "jmisilo", {"stop": "."}, ["`stop`"]),
    ],
)
def test_a_strategy_refuses_what_it_cannot_honour(
    name: str, system: str, options: dict[str, Any], facts: list[str]
) -> None:
    with pytest.raises(UsageError) as caught:
        choose_strategy(name, DecodeOptions(**options), system)
    assert all(fact in str(caught.value) for fact in facts)


def test_without_a_name_the_first_strategy_of_the_system_is_built() -> None:
    assert type(choose_strategy(None)) is STRATEGIES["greedy"]
    for system in SYSTEMS:
        assert type(choose_strategy(None, system=system)) is next(iter(FOREIGN_STRATEGIES[system].values()))


@pytest.mark.parametrize(
    ("given", "decode", "expected"),
    [
        ([], None, None),
        (["captions", "stop", "max_tokens", "repetition_penalty", "device"], None, None),
        (["beams"], None, "beam"),
        (["temperature"], None, "sample"),
        (["top_p", "captions"], None, "sample"),
        (["top_k", "seed"], None, "sample"),
        ([], "greedy", "greedy"),
        (["beams", "stop"], "beam", "beam"),
        (["length_penalty"], None, "beam"),
        (["seed"], "sample", "sample"),
        (["seed"], "guess", "guess"),  # choose_strategy lists the names that are known
    ],
)
def test_options_choose_the_strategy_that_uses_them(given: list[str], decode: str | None, expected: str | None) -> None:
    assert infer_strategy(given, decode) == expected


@pytest.mark.parametrize(
    ("given", "decode", "named"),
    [
        (["beams", "temperature"], None, ["`beams`", "`temperature`"]),
        (["seed", "beams"], None, ["`beams`", "`seed`"]),
        (["beams"], "greedy", ["`beams`", "greedy"]),
        (["beams"], "sample", ["`beams`", "sample"]),
        (["top_k"], "beam", ["`top_k`", "beam"]),
        (["beams", "seed"], "beam", ["`seed`", "beam"]),
    ],
)
def test_options_that_contradict_each_other_are_an_error(
    given: list[str], decode: str | None, named: list[str]
) -> None:
    with pytest.raises(UsageError) as caught:
        infer_strategy(given, decode)
    assert all(name in str(caught.value) for name in named)


def test_each_option_belongs_to_all_strategies_or_to_one() -> None:
    names = {parameter.name for parameter in parameters_of(DecodeOptions)}
    owned = [option for strategy in STRATEGIES.values() for option in strategy.own_options]
    assert len(owned) == len(set(owned))
    assert set(owned) <= names
    for strategies in FOREIGN_STRATEGIES.values():
        for name, strategy in strategies.items():
            assert strategy.own_options == STRATEGIES[name].own_options


def test_importing_the_options_loads_no_torch() -> None:
    code = "import sys, clipcap.caption.decoding.options; print({'torch', 'transformers'} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_files_import_each_other_without_a_circle() -> None:
    prefix = "clipcap.caption.decoding."
    imports = {
        file.stem: {
            node.module.removeprefix(prefix)
            for node in ast.walk(ast.parse(file.read_text()))
            if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith(prefix)
        }
        for file in DECODING.glob("*.py")
    }
    assert imports["loop"] == {"reader"}, "the loop knows no strategy"
    assert not imports["reader"]
    while free := {name for name, needed in imports.items() if not needed & imports.keys()}:
        imports = {name: needed for name, needed in imports.items() if name not in free}
    assert not imports
