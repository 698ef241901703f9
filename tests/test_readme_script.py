"""The script in the README that precomputes, trains and captions from Python runs as it stands."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from small_world import command_line

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.slow
def test_the_script_of_the_readme_runs(tmp_path: Path) -> None:
    (script,) = re.findall(r"```python\n(import clipcap\n.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert len([line for line in script.splitlines() if line]) <= 15
    make = [*command_line("demo", ["--only-dataset", "scenes", "--images", 100])]
    subprocess.run(make, cwd=tmp_path, check=True, capture_output=True)
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, check=True, capture_output=True, text=True)
    counts, caption = done.stdout.splitlines()
    assert counts == "100 images, 500 captions"
    assert caption
    assert (tmp_path / "checkpoints/best/model.safetensors").is_file()
