"""Code that comes with a model or a tokenizer is never run, even if a "y" waits on stdin."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from small_world import command_line, make_coco

pytestmark = pytest.mark.slow

CODE = """
from pathlib import Path
Path({file!r}).write_text("the code was run")
from transformers import GPT2Config as Config, GPT2Tokenizer as Tokenizer, BertConfig, BertModel as Model
"""


def add_code(folder: Path, name: str, proof: Path, **content: object) -> None:
    """Add code to a folder that would write the file `proof`, and name it in a JSON file of the folder."""
    (folder / "own.py").write_text(CODE.format(file=str(proof)))
    file = folder / name
    before = json.loads(file.read_text()) if file.exists() else {}
    file.write_text(json.dumps({**before, **content}))


def run(command: str, *arguments: object) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        command_line(command, arguments), input="y\ny\ny\n", capture_output=True, text=True, check=False
    )


def copy(folder: Path, to: Path) -> Path:
    shutil.copytree(folder, to)
    return to


def test_the_code_of_a_tokenizer_is_not_run(
    tmp_path: Path, coco: Path, clip_folder: Path, tokenizer_folder: Path
) -> None:
    folder, proof = copy(tokenizer_folder, tmp_path / "tokenizer"), tmp_path / "proof"
    add_code(folder, "tokenizer_config.json", proof, auto_map={"AutoTokenizer": ["own.Tokenizer", None]},
             tokenizer_class="OwnTokenizer")  # fmt: skip
    add_code(folder, "config.json", proof, model_type="own")
    done = run("precompute", coco, "-o", tmp_path / "c.h5", "--encoder", clip_folder, "--tokenizer", folder)
    assert not proof.exists()
    assert done.returncode == 2
    assert str(folder) in done.stderr.splitlines()[-1]
    assert "y/N" not in done.stdout + done.stderr


def test_the_code_of_a_language_model_is_not_run(tmp_path: Path, small_cache: Path, lm_folder: Path) -> None:
    folder, proof = copy(lm_folder, tmp_path / "lm"), tmp_path / "proof"
    add_code(folder, "config.json", proof, model_type="own", auto_map={"AutoConfig": "own.Config"})
    done = run("train", small_cache, "--lm", folder, "-o", tmp_path / "run")
    assert not proof.exists()
    assert done.returncode == 2
    assert str(folder) in done.stderr.splitlines()[-1]


def test_the_code_of_a_checkpoints_tokenizer_is_not_run(tmp_path: Path, small_cache: Path, trained: Path) -> None:
    folder, proof = copy(trained / "best", tmp_path / "best"), tmp_path / "proof"
    add_code(folder / "tokenizer", "tokenizer_config.json", proof, tokenizer_class="OwnTokenizer",
             auto_map={"AutoTokenizer": ["own.Tokenizer", None]})  # fmt: skip
    add_code(folder / "tokenizer", "config.json", proof, model_type="own", auto_map={"AutoConfig": "own.Config"})
    done = run("caption", small_cache, "--model", folder)
    assert not proof.exists()
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1


def test_the_code_of_a_text_tower_is_not_run(tmp_path: Path, clip_folder: Path, tokenizer_folder: Path) -> None:
    tower, proof = tmp_path / "tower", tmp_path / "proof"
    tower.mkdir()
    add_code(tower, "config.json", proof, model_type="own", auto_map={"AutoConfig": "own.BertConfig"})
    folder = copy(clip_folder, tmp_path / "clip")
    config = json.loads((folder / "open_clip_config.json").read_text())
    config["model_cfg"]["text_cfg"] = {"hf_model_name": str(tower), "hf_model_pretrained": False}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    coco = make_coco(tmp_path / "coco")
    done = run("precompute", coco, "-o", tmp_path / "c.h5", "--encoder", folder, "--tokenizer", tokenizer_folder)
    assert not proof.exists()
    assert done.returncode == 2
    assert str(folder) in done.stderr.splitlines()[-1]
