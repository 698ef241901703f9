"""The models inside the package are small and complete, and are found by name from any folder."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from clipcap.data.cache.index import Cache
from clipcap.data.demo import dataset
from clipcap.data.errors import UsageError
from clipcap.data.pretrained.bundled import BUNDLED_ENCODERS, BUNDLED_LANGUAGE_MODELS, lasting_name
from clipcap.data.pretrained.tokenizer import encode_captions, load_tokenizer
from clipcap.precompute.encoders.load import load_encoder
from clipcap.precompute.loading import to_pixels
from clipcap.train.model.language_model import load_language_model

ROOT = Path(__file__).resolve().parents[3]
FOLDERS = [BUNDLED_ENCODERS["demo"], BUNDLED_LANGUAGE_MODELS["demo"]]


def test_the_bundled_models_are_at_most_12_megabytes_without_a_pickle() -> None:
    files = [file for folder in FOLDERS for file in folder.iterdir()]
    assert sum(file.stat().st_size for file in files) < 12_000_000
    assert {file.suffix for file in files} == {".json", ".safetensors"}


def test_only_the_registry_holds_their_names() -> None:
    for folder in ("clipcap", "data", "precompute", "train", "caption", "docs"):
        for file in (ROOT / folder).rglob("*.py"):
            found = re.findall(r"""["']demo["']""", file.read_text())
            expected = len(found) if file.parent.name == "demo" else 3 if file.name == "bundled.py" else 0
            assert len(found) == expected, file


def test_a_bundled_model_wins_over_a_folder_of_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "demo").mkdir()
    monkeypatch.chdir(tmp_path)
    assert lasting_name("demo") == "demo"
    (tmp_path / "other").mkdir()
    assert lasting_name("other") == str(tmp_path / "other")
    assert len(load_tokenizer("demo")) == load_language_model("demo").config.vocab_size
    assert load_encoder("demo", device=torch.device("cpu")).pretrained == "demo"


def test_the_tokenizer_encodes_bytes_as_gpt2s_does() -> None:
    tokenizer = load_tokenizer("demo")
    text = "There are three tiny purple crosses to the left of a large ring on wooden planks."
    (tokens,) = encode_captions(tokenizer, [text])
    assert len(tokens) == 17 + 1  # one token for each word
    assert tokens[-1] == tokenizer.eos_token_id == len(tokenizer) - 1
    odd = "Ünïcödé, 猫 & <|endoftext|>"
    (tokens,) = encode_captions(tokenizer, [odd])
    assert tokenizer.decode(tokens[:-1]) == odd
    assert tokenizer.eos_token_id not in tokens[:-1]


def test_the_language_model_prefers_captions_to_shuffled_words(tmp_path: Path) -> None:
    tokenizer, lm = load_tokenizer("demo"), load_language_model("demo").eval()
    assert lm.dtype == torch.float32

    def loss(text: str) -> float:
        (tokens,) = encode_captions(tokenizer, [text])
        ids = torch.tensor([[lm.config.eos_token_id, *tokens]])
        with torch.inference_mode():
            return float(lm(ids, labels=ids).loss)

    for number in range(20):
        _, captions, _ = dataset.make_sample(number)
        for text in captions:
            words = text[:-1].split()
            assert loss(text) < 2.0 < loss(" ".join(words[::-1]) + ".")


def test_the_encoder_has_its_own_weights() -> None:
    encoder = load_encoder("demo", device=torch.device("cpu"))
    assert (encoder.name, encoder.pretrained, encoder.shape[-1]) == ("demo", "demo", 512)
    assert encoder.preprocess["size"] == [96, 96]
    with pytest.raises(UsageError, match=r"demo .* openai"):
        load_encoder("demo", "openai", device=torch.device("cpu"))


def test_images_find_their_captions_among_50() -> None:
    """Both towers work, not only the image tower: retrieval among 50 held-out scenes."""
    import open_clip

    model = open_clip.create_model(f"local-dir:{BUNDLED_ENCODERS['demo']}").eval()
    encoder, tokenizer = load_encoder("demo", device=torch.device("cpu")), load_tokenizer("demo")
    samples = [dataset.make_sample(number, seed=77) for number in range(50)]
    pixels = torch.stack([to_pixels(image, encoder.transform) for _, _, image in samples])
    rows = [torch.tensor(row) for row in encode_captions(tokenizer, [captions[0] for _, captions, _ in samples])]
    text = torch.stack([torch.nn.functional.pad(row, (0, model.context_length - len(row))) for row in rows])
    with torch.inference_mode():
        captions = torch.nn.functional.normalize(model.encode_text(text), dim=-1)
    images = torch.nn.functional.normalize(encoder.encode(pixels), dim=-1)
    assert ((images @ captions.T).argmax(dim=1) == torch.arange(50)).float().mean() >= 0.9


def test_cached_embeddings_equal_those_of_open_clip(tmp_path: Path, run: Any) -> None:
    import open_clip

    dataset.write_dataset(tmp_path / "scenes", 18)
    options = ["--encoder", "demo", "--tokenizer", "demo", "--workers", 0, "--device", "cpu"]
    assert run("precompute", tmp_path / "scenes", "-o", tmp_path / "cache.h5", *options).status == 0
    cache = Cache.open(tmp_path / "cache.h5")
    assert cache.fingerprint.encoder == cache.fingerprint.pretrained == cache.fingerprint.tokenizer == "demo"
    (tables,) = cache.tables()
    model, _, transform = open_clip.create_model_and_transforms(f"local-dir:{BUNDLED_ENCODERS['demo']}")
    images = torch.stack([transform(Image.open(tmp_path / "scenes" / path)) for path in tables.path])
    with torch.inference_mode():
        expected = model.eval().encode_image(images).numpy()
    np.testing.assert_allclose(tables.embedding.astype(np.float32), expected, atol=2e-3 * np.abs(expected).max())
    facts = json.loads(run("inspect", tmp_path / "cache.h5", "--json").out)
    assert facts["splits"] == {"train": 17, "val": 1}
