"""Tests the tests: changes one place of a module, and expects that some test fails.

    python tests/mutation.py train/packed/layout.py tests/train/packed/test_loss.py

A change is a *mutant*; a mutant that no test notices *survives*. `tests/README.md` lists the survivors and the reason
of each. mutmut and cosmic-ray were not taken: the first finds the module that it has changed by its path, and here
`train/packed/layout.py` is imported as `clipcap.train.packed.layout`; the second starts Python for each mutant, which
takes seconds for torch alone. Here every mutant is a fork of a process that has torch imported.

The mutants are written into a copy of the checkout, so processes that a test starts run them as well. What is changed:
comparisons, arithmetic, `and` and `or`, `not` and signs, conditions, constants, what is returned, `break` and
`continue`, and statements, which are removed. What is left: annotations, decorators, docstrings, and the texts of
messages.
"""

import argparse
import ast
import compileall
import contextlib
import importlib
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
IMPORTS = ("h5py", "numpy", "open_clip", "PIL.Image", "pytest", "rich", "torch", "transformers.models.gpt2", "typer")
COMPARISONS: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}
ARITHMETIC: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Add,
    ast.MatMult: ast.Add,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.FloorDiv,
    ast.Pow: ast.Mult,
    ast.LShift: ast.RShift,
    ast.RShift: ast.LShift,
    ast.BitOr: ast.BitAnd,
    ast.BitAnd: ast.BitOr,
    ast.BitXor: ast.BitAnd,
}
UNTOUCHED = {"annotation", "returns", "decorator_list", "bases", "type_params", "exc"}


@dataclass(frozen=True)
class Mutant:
    """One change: the line, what was there, what is there instead, and the text of the changed module."""

    line: int
    before: str
    after: str
    source: str


def mutants(source: str) -> Iterator[Mutant]:
    """Yield every mutant of a module, in the order of its lines."""
    tree = ast.parse(source)
    for owner, field, index, node in list(_places(tree)):
        for new in _variants(node):
            _put(owner, field, index, new)
            yield Mutant(getattr(node, "lineno", 0), ast.unparse(node), ast.unparse(new), ast.unparse(tree))
            _put(owner, field, index, node)


def _put(owner: ast.AST, field: str, index: int | None, node: ast.AST) -> None:
    if index is None:
        setattr(owner, field, node)
    else:
        getattr(owner, field)[index] = node


def _places(owner: ast.AST) -> Iterator[tuple[ast.AST, str, int | None, ast.AST]]:
    """Yield (owner, field, index, node) for each node that may be changed."""
    for field, value in ast.iter_fields(owner):
        if field in UNTOUCHED:
            continue
        for index, node in enumerate(value) if isinstance(value, list) else [(None, value)]:
            if isinstance(node, ast.AST) and not _is_text(node):
                yield owner, field, index, node
                yield from _places(node)


def _is_text(node: ast.AST) -> bool:
    """Whether a node is a docstring, a message, or names what is imported."""
    match node:
        case ast.Expr(value=ast.Constant()) | ast.JoinedStr() | ast.Import() | ast.ImportFrom():
            return True
        case ast.Expr(value=ast.Call(func=ast.Attribute(value=ast.Name(id="logger")))):
            return True
    return False


def _variants(node: ast.AST) -> Iterator[ast.AST]:
    match node:
        case ast.Compare(left=left, ops=ops, comparators=others):
            for i, op in enumerate(ops):
                yield ast.Compare(left, [*ops[:i], COMPARISONS[type(op)](), *ops[i + 1 :]], others)
        case ast.BinOp(left=left, op=binary, right=right):
            yield ast.BinOp(left, ARITHMETIC[type(binary)](), right)
        case ast.AugAssign(target=target, op=binary, value=value):
            yield ast.AugAssign(target, ARITHMETIC[type(binary)](), value)
            yield ast.Pass()
        case ast.BoolOp(op=connective, values=values):
            yield ast.BoolOp(ast.Or() if isinstance(connective, ast.And) else ast.And(), values)
        case ast.UnaryOp(op=ast.Not() | ast.USub() | ast.Invert(), operand=operand):
            yield operand
        case ast.Constant(value=constant):
            yield from (ast.Constant(other) for other in _other_constants(constant))
        case ast.IfExp(test=test, body=body, orelse=orelse):
            yield ast.IfExp(test, orelse, body)
        case ast.If(test=test, body=block, orelse=otherwise):
            yield ast.If(ast.UnaryOp(ast.Not(), test), block, otherwise)
        case ast.While(test=test, body=block, orelse=otherwise):
            yield ast.While(ast.UnaryOp(ast.Not(), test), block, otherwise)
        case ast.Return(value=ast.expr()):
            yield ast.Return(ast.Constant(None))
        case ast.Break():
            yield ast.Continue()
        case ast.Continue():
            yield ast.Break()
        case ast.Expr() | ast.Assign() | ast.Raise() | ast.Delete():
            yield ast.Pass()


def _other_constants(value: Any) -> list[Any]:
    match value:
        case bool():
            return [not value]
        case int() | float():
            return [value + 1]
        case str():
            return [value * 2 or "X"]
        case bytes():
            return [value * 2 or b"X"]
    return []


def copy_checkout(folder: Path, module: str) -> Path:
    """Copy the checkout, with byte code for every module but the one that changes; return the changing file."""
    skipped = shutil.ignore_patterns(".git", ".venv", ".*_cache", "__pycache__", "*.egg-info")
    copy = folder / "checkout"
    shutil.copytree(ROOT, copy, symlinks=True, ignore=skipped)
    compileall.compile_dir(str(copy), quiet=2)
    file = copy / module
    for code in (file.parent / "__pycache__").glob(f"{file.stem}.*"):
        code.unlink()
    return file


def run_tests(checkout: Path, tests: list[str], limit: int, *, quiet: bool = True) -> int | None:
    """Run tests in a fork of this process; return its exit status, None after `limit` seconds."""
    child = os.fork()
    if not child:
        os.setsid()
        signal.alarm(limit)
        if quiet:
            for descriptor in (1, 2):
                os.dup2(os.open(os.devnull, os.O_WRONLY), descriptor)
        os.chdir(checkout)
        import pytest

        unimportant = "ignore::pytest.PytestAssertRewriteWarning"  # plugins of pytest that are imported already
        os._exit(pytest.main(["-x", "-q", "-p", "no:cacheprovider", "-W", unimportant, *tests]))
    try:
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)  # what the tests have started
    return None if status == -signal.SIGALRM else status


def main() -> None:
    """Run the tests for a sample of a module's mutants, and print the survivors."""
    parser = argparse.ArgumentParser(description="Mutation testing of one module.")
    parser.add_argument("module", help="such as train/packed/layout.py")
    parser.add_argument("tests", nargs="+", help="files or single tests; those that fail most often first")
    parser.add_argument("--sample", type=int, default=300, help="number of mutants (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the sample (default: %(default)s)")
    parser.add_argument("--skip", type=int, default=0, help="mutants of the sample that were tried before (default: 0)")
    parser.add_argument("--limit", type=int, default=0, help="seconds a mutant; default: 5 times what the tests take")
    arguments = parser.parse_args()
    for name in IMPORTS:
        importlib.import_module(name)
    sys.dont_write_bytecode = os.environ["PYTHONDONTWRITEBYTECODE"] = "1"  # type: ignore[assignment]
    with tempfile.TemporaryDirectory() as folder:
        file = copy_checkout(Path(folder), arguments.module)
        checkout = Path(folder) / "checkout"
        os.environ["PYTHONPATH"] = str(checkout / ".dev")
        sys.path = [str(checkout / ".dev"), *(path for path in sys.path if not Path(path).is_relative_to(ROOT))]
        start = time.monotonic()
        if run_tests(checkout, arguments.tests, 3600, quiet=False):
            sys.exit("the tests fail without any change")
        limit = arguments.limit or 20 + round(5 * (time.monotonic() - start))
        everything = list(mutants(file.read_text(encoding="utf-8")))
        chosen = sorted(
            random.Random(arguments.seed).sample(range(len(everything)), min(arguments.sample, len(everything)))
        )
        outcomes: dict[str, int] = {"killed": 0, "timed out": 0, "survived": 0}
        for tried, number in enumerate(chosen[arguments.skip :], start=arguments.skip):
            print(f"{tried}/{len(chosen)}", end="\r", file=sys.stderr, flush=True)
            mutant = everything[number]
            file.write_text(mutant.source, encoding="utf-8")
            status = run_tests(checkout, arguments.tests, limit)
            outcome = "timed out" if status is None else "killed" if status else "survived"
            outcomes[outcome] += 1
            if outcome == "survived":
                before, after = (" ".join(text.split())[:100] for text in (mutant.before, mutant.after))
                print(f"{arguments.module}:{mutant.line}  {before}  ->  {after}", flush=True)
        print(f"{arguments.module}: {len(everything)} mutants, {sum(outcomes.values())} tried: {outcomes}", flush=True)


if __name__ == "__main__":
    main()
