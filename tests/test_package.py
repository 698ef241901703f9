"""`import clipcap`: what it gives, that it imports nothing heavy, and that calling a stage's package runs the stage."""

import subprocess
import sys
from pathlib import Path

import pytest

import clipcap
from clipcap.data.errors import CacheError, SourceError

HEAVY = ("torch", "transformers", "open_clip", "h5py", "numpy", "PIL", "rich")


def in_a_new_process(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_importing_it_is_light() -> None:
    code = f"import sys, clipcap; clipcap.__version__; print([m for m in {HEAVY!r} if m in sys.modules])"
    assert in_a_new_process(code) == "[]"


def test_a_stage_can_be_called_before_and_after_its_modules_are_imported(tmp_path: Path) -> None:
    with pytest.raises(CacheError, match="nowhere"):
        clipcap.train(tmp_path / "nowhere.h5", tmp_path / "run")
    from clipcap.train.settings import TrainSettings

    with pytest.raises(CacheError, match="nowhere"):
        clipcap.train(tmp_path / "nowhere.h5", tmp_path / "run", TrainSettings(epochs=1))
    from clipcap.precompute.settings import PrecomputeSettings

    with pytest.raises(SourceError, match="nowhere"):
        clipcap.precompute(tmp_path / "nowhere", tmp_path / "c.h5", PrecomputeSettings(limit=3))


def test_the_module_lists_the_commands() -> None:
    done = subprocess.run([sys.executable, "-m", "clipcap"], capture_output=True, text=True, check=True)
    commands = ("precompute", "train", "caption", "evaluate", "inspect", "demo")
    names = [f"clipcap-{command}" for command in commands]
    assert [line.split()[0] for line in done.stdout.splitlines()[1:]] == names


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="nothing"):
        clipcap.nothing  # noqa: B018
