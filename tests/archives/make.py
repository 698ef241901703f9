"""Writes an archive: a small cache and checkpoint of the current formats, and what is read from them.

    python tests/archives/make.py tests/archives/format-1

An archive is made once, when its format is new, and never again. Later versions of the program must open it.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel

from clipcap.caption import Captioner
from clipcap.data.cache.index import Cache
from clipcap.data.cache.shard import read_summary
from clipcap.data.pretrained.bundled import BUNDLED_LANGUAGE_MODELS


def run(module: str, *arguments: object) -> None:
    """Run a command as a process of its own."""
    subprocess.run([sys.executable, "-m", f"clipcap.{module}", *map(str, arguments)], check=True)


def main() -> None:
    """Draw, encode, train and write down what comes out."""
    archive = Path(sys.argv[1])
    archive.mkdir(parents=True)
    index, folder = archive / "cache.h5", archive / "checkpoint"
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        run("caption.demo.cli", "--only-dataset", work / "scenes", "--images", 36)
        (work / "scenes/train2017/000000000003.jpg").write_bytes(b"no image")
        models = ["--encoder", "demo", "--tokenizer", "demo", "--precision", "fp32", "--device", "cpu"]
        run("precompute.cli", work / "scenes", "-o", index, *models, "--shard-size", 20)

        torch.manual_seed(0)
        tokenizer = AutoTokenizer.from_pretrained(BUNDLED_LANGUAGE_MODELS["demo"], trust_remote_code=False)
        end = tokenizer.eos_token_id
        sizes: dict[str, Any] = {
            "n_embd": 16,
            "n_layer": 1,
            "n_head": 2,
            "n_positions": 64,
            "vocab_size": len(tokenizer),
        }
        GPT2LMHeadModel(GPT2Config(bos_token_id=end, eos_token_id=end, **sizes)).save_pretrained(work / "lm")
        tokenizer.save_pretrained(work / "lm")
        settings = ["--lm", work / "lm", "--prefix-length", 2, "--epochs", 60, "--lr", 1e-2, "--precision", "fp32"]
        run("train.cli", index, "-o", work / "run", *settings, "--device", "cpu")
        (work / "run/best").rename(folder)
        described = (folder / "config.json").read_text()
        (folder / "config.json").write_text(described.replace(str(work / "lm"), "small"))

    cache, captioner = Cache.open(index), Captioner.from_checkpoint(folder, device="cpu", precision="fp32")
    tables = list(cache.tables())
    expected = {
        "counts": [cache.images, cache.captions, cache.tokens],
        "contents": [shard.content for shard in cache.shards],
        "failures": [failure for shard in cache.shards for failure in read_summary(shard.path)[1]],
        "paths": [path for table in tables for path in table.path],
        "texts": [text for table in tables for text in table.text],
        "tokens": tables[0].token[: tables[0].first_token[1]].tolist(),
        "embedding": tables[0].embedding[0, :8].tolist(),
        "captions": captioner(tables[0].embedding),
        "losses": captioner.score(tables[0].embedding[:1], tables[0].text[:1])[0],
    }
    (archive / "expected.json").write_text(json.dumps(expected, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
