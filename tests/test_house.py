"""The rules of the project: what imports what, that importing is light, how it is packaged, and what the CI runs."""

import ast
import re
import subprocess
import sys
import tomllib
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import yaml

from lowest import lowest_versions
from small_world import COMMANDS

ROOT = Path(__file__).resolve().parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
MAY_IMPORT = {
    "data": {"data"},
    "precompute": {"precompute", "data"},
    "train": {"train", "data"},
    "caption": {"caption", "precompute", "train", "data"},
}
FOLDERS = tuple(MAY_IMPORT)


def sources(folder: str) -> list[Path]:
    """The Python files of one of the four folders."""
    return sorted((ROOT / folder).rglob("*.py"))


def imported_folders(file: Path) -> set[str]:
    """Which of the four folders a file imports from, anywhere in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            names.add(node.module or "")
    return {name.split(".")[1] for name in names if name.startswith("clipcap.")}


@pytest.mark.parametrize("folder", FOLDERS)
def test_imports_run_one_way(folder: str) -> None:
    files = sources(folder)
    assert files
    for file in files:
        assert imported_folders(file) <= MAY_IMPORT[folder], file


def test_pyproject_lists_every_package() -> None:
    inits = chain.from_iterable((ROOT / folder).rglob("__init__.py") for folder in FOLDERS)
    packages = {"clipcap." + init.parent.relative_to(ROOT).as_posix().replace("/", ".") for init in inits}
    assert set(PYPROJECT["tool"]["setuptools"]["packages"]) == packages | {"clipcap"}


def test_pyproject_has_a_script_for_every_command() -> None:
    scripts = {f"clipcap-{command}": f"{module}:main" for command, module in COMMANDS.items()}
    assert PYPROJECT["project"]["scripts"] == scripts


@pytest.mark.parametrize("module", ["clipcap", "clipcap.caption", "clipcap.data.readers", *COMMANDS.values()])
def test_importing_a_command_is_light(module: str) -> None:
    heavy = ("torch", "transformers", "open_clip", "h5py", "numpy", "PIL", "rich", "huggingface_hub")
    code = f"import sys, {module}; print([m for m in {heavy!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("command", COMMANDS)
def test_help_is_light_and_begins_with_the_usage(command: str) -> None:
    code = (
        f"import sys, atexit; sys.argv = ['clipcap-{command}', '--help']\n"
        "heavy = ('torch', 'h5py', 'numpy', 'PIL')\n"
        "atexit.register(lambda: print('HEAVY', [m for m in heavy if m in sys.modules]))\n"
        f"from {COMMANDS[command]} import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert f"Usage: clipcap-{command}" in done.stdout
    assert done.stdout.strip().endswith("HEAVY []")


def test_no_code_from_files_is_run() -> None:
    for file in chain.from_iterable(map(sources, FOLDERS)):
        text = file.read_text()
        if file != ROOT / "data/safe_pickle.py":  # which refuses pickles that could run code
            assert not re.search(r"import pickle|pickle\.|from pickle", text), file
        assert not re.search(r"allow_pickle=True|trust_remote_code=(?!False)", text), file
        assert not re.search(r"torch\.load\((?![^()]*weights_only=True)", text), file


def test_no_model_runs_its_own_code() -> None:
    for file in chain.from_iterable(map(sources, FOLDERS)):
        for call in ast.walk(ast.parse(file.read_text())):
            if isinstance(call, ast.Call) and getattr(call.func, "attr", "") == "from_pretrained":
                assert "trust_remote_code=False" in ast.unparse(call), file


def test_every_folder_has_a_type_marker() -> None:
    assert all((ROOT / folder / "py.typed").is_file() for folder in FOLDERS)


def make_targets() -> dict[str, str]:
    """What each target of the Makefile depends on."""
    return dict(re.findall(r"^([a-z]+):(.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE))


def test_make_check_runs_tests_lint_and_types() -> None:
    assert make_targets()["check"].split() == ["test", "lint", "types"]


def test_the_workflow_calls_make_check_on_every_python_and_on_the_lowest_dependencies() -> None:
    job = yaml.safe_load((ROOT / ".github/workflows/check.yml").read_text())["jobs"]["check"]
    commands = [step["run"] for step in job["steps"] if "run" in step]
    assert commands == ["make check DEPENDENCIES=${{ matrix.dependencies }}"]
    matrix = job["strategy"]["matrix"]
    assert matrix["python"] == ["3.11", "3.12", "3.13", "3.14"]
    assert PYPROJECT["project"]["requires-python"] == f">={matrix['python'][0]}"
    assert matrix["dependencies"] == ["newest"]
    assert matrix["include"] == [{"python": "3.11", "dependencies": "lowest"}]


def test_the_workflow_runs_the_quick_tests_on_windows_and_macos() -> None:
    job = yaml.safe_load((ROOT / ".github/workflows/check.yml").read_text())["jobs"]["quick"]
    assert job["strategy"]["matrix"]["system"] == ["windows-latest", "macos-latest"]
    install, test = [step["run"] for step in job["steps"] if "run" in step]
    assert install == "python -m pip install --editable .[dev]"
    assert f".venv/bin/{test}\n" in (ROOT / "Makefile").read_text()  # as `make quick`


def test_the_lowest_versions_are_the_bounds_of_pyproject() -> None:
    assert "h5py>=3.10" in PYPROJECT["project"]["dependencies"]
    assert "h5py==3.10" in lowest_versions()
    assert all(re.fullmatch(r"[A-Za-z0-9_-]+==[0-9.]+", version) for version in lowest_versions())
    assert len(lowest_versions()) == len(PYPROJECT["project"]["dependencies"]) + 6  # those of the extras


def test_pre_commit_runs_the_ruff_of_make_lint() -> None:
    config: dict[str, Any] = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    (repository,) = config["repos"]
    assert repository["repo"] == "local"
    entries = [hook["entry"].split() for hook in repository["hooks"]]
    assert [entry[:2] for entry in entries] == [[".venv/bin/ruff", "check"], [".venv/bin/ruff", "format"]]


@pytest.mark.gpu
def test_a_gpu_test_runs_only_where_there_is_a_gpu() -> None:
    import torch

    assert torch.cuda.is_available()


def test_functions_of_a_command_line_are_short() -> None:
    for file in chain.from_iterable(map(sources, FOLDERS)):
        for node in ast.walk(ast.parse(file.read_text())) if file.name == "cli.py" else ():
            if isinstance(node, ast.FunctionDef):
                assert (node.end_lineno or 0) - node.lineno + 1 < 60, f"{file}: {node.name}"


def messages(file: Path) -> list[str]:
    """The string constants of a file, without its docstrings."""
    nodes = list(ast.walk(ast.parse(file.read_text())))
    docstrings = [node.value for node in nodes if isinstance(node, ast.Expr)]
    constants = [node for node in nodes if isinstance(node, ast.Constant) and node not in docstrings]
    return [node.value for node in constants if isinstance(node.value, str)]


def test_library_code_knows_no_option_names() -> None:
    other_programs = ("pip install", "torchrun")
    for file in chain.from_iterable(map(sources, FOLDERS)):
        path = file.relative_to(ROOT)
        if path.name in ("cli.py", "settings.py") or path.parts[:2] in (("data", "command"), ("caption", "demo")):
            continue  # commands, spellings of options, and the demo, which runs commands
        for text in messages(file):
            if not any(program in text for program in other_programs):
                assert not re.search(r"(?<![\w-])--[a-z]", text), f"{path}: {text}"
