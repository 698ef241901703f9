"""Small real models, a small real dataset, and functions that run, stop and kill the commands, for all tests."""

import io
import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from clipcap.data.cache.index import Cache, write_index
from clipcap.data.cache.shard import read_shard, write_shard

COMMANDS = {
    "precompute": "clipcap.precompute.cli",
    "train": "clipcap.train.cli",
    "caption": "clipcap.caption.cli",
    "evaluate": "clipcap.caption.evaluate.cli",
    "inspect": "clipcap.caption.inspect.cli",
    "demo": "clipcap.caption.demo.cli",
}


@dataclass(frozen=True)
class Result:
    """How a command ended: its exit status, and what it wrote to stdout and stderr."""

    status: int
    out: str
    err: str


Run = Callable[..., Result]


def command_line(command: str, arguments: Sequence[object]) -> list[str]:
    """The command line that runs a command of this checkout in a new process."""
    return [sys.executable, "-m", COMMANDS[command], *map(str, arguments)]


def spawn(command: str, *arguments: object, **environment: str) -> "subprocess.Popen[str]":
    """Start a command in a new process."""
    return subprocess.Popen(
        command_line(command, arguments),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
    )


class Crash(BaseException):
    """Stands for SIGKILL: no `except Exception` catches it."""


def crash_at(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    """Let the program crash at its call number `count` (from 0) of `os.replace` and `os.fsync` together."""
    calls = 0

    def wrap(function: Any) -> Any:
        def call(*arguments: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == count + 1:
                raise Crash
            return function(*arguments)

        return call

    for name in ("replace", "fsync"):
        monkeypatch.setattr(os, name, wrap(getattr(os, name)))


CAPTIONS = [
    "A red square on a white table.",
    "Two blue circles next to a green triangle!",
    "a small dog runs over the wet grass",
    "The man in the yellow hat looks at a bird.",
    "An old train stands in a station, waiting.",
    "some people sitting around a wooden table",
]


def make_lm(folder: Path, tokenizer_folder: Path, seed: int = 0, **config: Any) -> Path:
    """Save a small GPT-2 with random weights, and a tokenizer beside it."""
    import torch
    from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel

    tokenizer = AutoTokenizer.from_pretrained(str(tokenizer_folder))
    torch.manual_seed(seed)
    sizes = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, "vocab_size": len(tokenizer), **config}
    end = tokenizer.eos_token_id
    GPT2LMHeadModel(GPT2Config(bos_token_id=end, eos_token_id=end, **sizes)).save_pretrained(str(folder))
    tokenizer.save_pretrained(str(folder))
    return folder


def make_clip(folder: Path, seed: int = 0) -> Path:
    """Save a small CLIP with random weights in open_clip's format."""
    import torch
    from open_clip.model import CLIP
    from safetensors.torch import save_file

    model = {
        "embed_dim": 16,
        "vision_cfg": {"image_size": 32, "layers": 2, "width": 64, "patch_size": 8},
        "text_cfg": {"context_length": 8, "vocab_size": 64, "width": 32, "heads": 2, "layers": 1},
    }
    torch.manual_seed(seed)
    save_file(CLIP(**model).state_dict(), folder / "open_clip_model.safetensors")
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": model, "preprocess_cfg": {}}))
    return folder


def make_coco(folder: Path, train: int = 12, val: int = 5) -> Path:
    """Write a small dataset in COCO's layout: drawn images, all different, with one to five captions each."""
    from PIL import Image, ImageDraw

    (folder / "annotations").mkdir(parents=True)
    identifier = 100
    for split, count in (("train", train), ("val", val)):
        (folder / f"{split}2017").mkdir()
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        for number in range(count):
            identifier += 1
            name = f"{identifier:012d}.jpg"
            image = Image.new("RGB", (60 + 3 * number, 48), (20 * number % 256, 90, 255 - 15 * number))
            ImageDraw.Draw(image).ellipse((number, 5, number + 25, 30), fill=(250, 10 * number, 0))
            image.save(folder / f"{split}2017" / name, quality=95)
            images.append({"id": identifier, "file_name": name})
            for i in range(1 + number % 5):
                text = CAPTIONS[(number + i) % len(CAPTIONS)]
                annotations.append({"id": len(annotations), "image_id": identifier, "caption": text})
        content = {"images": images, "annotations": annotations}
        (folder / f"annotations/captions_{split}2017.json").write_text(json.dumps(content))
    return folder


def copy_scaled(index: Path, folder: Path, *scales: float) -> Path:
    """Copy a cache. The stored numbers of each shard stay, and are embeddings divided by the scale that is given."""
    cache = Cache.open(index)
    entries = []
    for number, (shard, scale) in enumerate(zip(cache.shards, scales, strict=True)):
        tables, path = replace(read_shard(shard.path), scale=scale), folder / shard.path.name
        content = write_shard(path, tables, cache.fingerprint.to_json(), number)
        entries.append(replace(shard, path=path, content=content))
    write_index(folder / index.name, cache.fingerprint, entries)
    return folder / index.name


def change_json(file: Path, edit: Callable[[Any], object]) -> None:
    """Change the content of a JSON file in place."""
    content = json.loads(file.read_text())
    edit(content)
    file.write_text(json.dumps(content))


def make_tar(file: Path, members: dict[str, bytes], format: int = tarfile.PAX_FORMAT) -> Path:
    """Write a tar of regular files, in the order of the dictionary."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(file, "w", format=format) as tar:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return file


DEMO_IMAGES = 720  # in the demo that the tests run, instead of 9,000

# The text of a sitecustomize.py. A process that has its folder on its path, and the processes that it starts, reach
# this machine alone. What they ask for beyond it is a line in the file `asked` of that folder.
NO_SOCKETS = """
import pathlib
import socket

HERE = ("localhost", "127.0.0.1", "::1", socket.gethostname())

def refuse(what):
    with (pathlib.Path(__file__).parent / "asked").open("a") as file:
        print(what, file=file)
    raise OSError("sockets are refused")

def local_only(function):
    def call(self, *arguments):
        address = arguments[-1]
        if self.family != getattr(socket, "AF_UNIX", None) and address[0] not in HERE:
            refuse(address)
        return function(self, *arguments)
    return call

def local_names_only(function):
    def call(host, *arguments, **options):
        if host not in (None, "", *HERE):
            refuse(host)
        return function(host, *arguments, **options)
    return call

for name in ("connect", "connect_ex", "sendto"):
    setattr(socket.socket, name, local_only(getattr(socket.socket, name)))
for name in ("getaddrinfo", "gethostbyname", "gethostbyname_ex"):
    setattr(socket, name, local_names_only(getattr(socket, name)))
"""


def without_sockets(folder: Path) -> dict[str, str]:
    """Write NO_SOCKETS into a folder, and return the environment of a process that obeys it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "sitecustomize.py").write_text(NO_SOCKETS)
    path = os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    return {**kept, "PYTHONPATH": path, "HF_HOME": str(folder / "hub")}


def small_models(clip: Path, tokenizer: Path) -> list[object]:
    """Options of stage 1 that select the small models and small batches."""
    models = ["--encoder", clip, "--tokenizer", tokenizer]
    return [*models, "--batch-size", 4, "--workers", 0, "--device", "cpu", "--precision", "fp32"]
