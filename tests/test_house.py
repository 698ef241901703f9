"""The rules of the house: how it is packaged, what imports what, and that importing is light."""

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("data", "precompute", "train", "caption")
MAY_IMPORT = {
    "data": {"data"},
    "precompute": {"precompute", "data"},
    "train": {"train", "data"},
    "caption": {"caption", "precompute", "train", "data"},
}


def sources(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


def imported(file: Path) -> set[str]:
    """Names of our folders that a file imports, anywhere in it."""
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
        assert imported(file) <= MAY_IMPORT[folder], file


def test_every_package_is_listed() -> None:
    config = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    found = {
        "clipcap." + file.parent.relative_to(ROOT).as_posix().replace("/", ".")
        for folder in FOLDERS
        for file in (ROOT / folder).rglob("__init__.py")
    } | {"clipcap"}
    assert set(config) == found


@pytest.mark.parametrize(
    "module", ["precompute.cli", "train.cli", "caption.cli", "caption.inspect.cli", "caption", "data.readers"]
)
def test_importing_a_command_is_light(module: str) -> None:
    heavy = ("torch", "transformers", "open_clip", "h5py", "numpy", "PIL", "rich", "huggingface_hub")
    code = f"import sys, clipcap.{module}; print([m for m in {heavy!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("command", ["precompute", "train", "caption", "inspect"])
def test_help_loads_nothing_heavy_and_says_what_it_does(command: str) -> None:
    module = "caption.inspect.cli" if command == "inspect" else f"{command}.cli"
    code = (
        f"import sys, atexit; sys.argv = ['clipcap-{command}', '--help']\natexit.register(lambda: print('HEAVY', [m "
        f"for m in ('torch', 'h5py', 'numpy', 'PIL') if m in sys.modules]))\nfrom clipcap.{module} import main; "
        "main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert f"Usage: clipcap-{command}" in done.stdout
    assert done.stdout.strip().endswith("HEAVY []")


def test_nothing_is_unpickled() -> None:
    for folder in FOLDERS:
        for file in sources(folder):
            text = file.read_text()
            if file != ROOT / "data/safe_pickle.py":  # which refuses whatever could run code
                assert not re.search(r"import pickle|pickle\.|from pickle", text), file
            assert not re.search(r"allow_pickle=True|trust_remote_code", text), file
            assert not re.search(r"torch\.load\((?![^()]*weights_only=True)", text), file  # that reads tensors alone


def test_type_markers_lie_in_every_folder() -> None:
    assert all((ROOT / folder / "py.typed").is_file() for folder in FOLDERS)
