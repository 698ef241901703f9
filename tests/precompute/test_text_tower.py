"""The text tower belongs to the embeddings of a cache, and encodes texts as open_clip does."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from safetensors.torch import load_file, save_file

from clipcap.data.cache.fingerprint import Fingerprint
from clipcap.data.demo import dataset
from clipcap.data.errors import ModelError
from clipcap.data.pretrained.bundled import BUNDLED_ENCODERS
from clipcap.data.pretrained.tokenizer import encode_captions, load_tokenizer
from clipcap.precompute.encoders import clip_text
from clipcap.precompute.encoders.base import Encoder
from clipcap.precompute.encoders.clip_text import load_text_tower
from clipcap.precompute.encoders.load import load_encoder
from small_world import CAPTIONS

CPU = torch.device("cpu")
TEXT = {"context_length": 12, "width": 32, "heads": 2, "layers": 1}
CLIP = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 64, "patch_size": 8},
    "text_cfg": TEXT,
}
COCA = {
    **CLIP,
    "vision_cfg": {**CLIP["vision_cfg"], "output_tokens": True, "attentional_pool": True, "attn_pooler_heads": 2},  # type: ignore[dict-item]
    "text_cfg": {**TEXT, "embed_cls": True, "output_tokens": True},
    "multimodal_cfg": {"context_length": 12, "width": 32, "heads": 2, "layers": 1},
    "custom_text": True,
}
KINDS: dict[str, dict[str, Any]] = {"clip": CLIP, "custom text": {**CLIP, "custom_text": True}, "coca": COCA}
LONG = " ".join(CAPTIONS)  # more tokens than any text tower here takes


def save_model(folder: Path, config: dict[str, Any], seed: int = 0) -> Path:
    """Save a small model of open_clip with random weights and a text tower for CLIP's own tokens."""
    folder.mkdir()
    content = {"model_cfg": config, "preprocess_cfg": {}}
    (folder / "open_clip_config.json").write_text(json.dumps(content))
    torch.manual_seed(seed)
    model = open_clip.create_model(f"local-dir:{folder}", load_weights=False)
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    return folder


def recipe(encoder: Encoder, **changes: Any) -> Fingerprint:
    """Return the fingerprint of a cache that the encoder made, as far as it matters here."""
    known: dict[str, Any] = {
        "pretrained": encoder.pretrained,
        "weights_sha256": encoder.weights_sha256,
        "quick_gelu": encoder.quick_gelu,
        "features": encoder.features,
    }
    return Fingerprint.unchecked(**{"encoder": encoder.name, "width": encoder.shape[-1], **known, **changes})


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("model") / "clip", CLIP)


@pytest.mark.parametrize("kind", KINDS)
def test_texts_are_encoded_as_open_clip_encodes_them(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clip_text, "TEXTS_IN_BATCH", 3)
    folder = save_model(tmp_path / "model", KINDS[kind])
    tower = load_text_tower(recipe(load_encoder(str(folder), device=CPU)), device=CPU)
    texts = [*CAPTIONS, "A dog &amp; a CAT", LONG, ""]
    model, tokenize = (
        open_clip.create_model(f"local-dir:{folder}").eval(),
        open_clip.get_tokenizer(f"local-dir:{folder}"),
    )
    with torch.inference_mode():
        expected = model.encode_text(tokenize(texts), normalize=False)
    if kind == "clip":
        widths: list[int] = []
        tower._model.model.token_embedding.register_forward_hook(lambda *call: widths.append(call[1][0].shape[1]))
    embedding = tower.encode(texts)
    if kind == "clip":  # batches of texts of about the same length have little padding
        needed = sorted((tokenize(texts).argmax(dim=1) + 1).tolist())
        assert widths == [needed[2], needed[5], needed[8]]
        assert needed[2] < needed[8] == TEXT["context_length"]
    assert (embedding.dtype, embedding.shape) == (torch.float32, (len(texts), 16))
    torch.testing.assert_close(embedding, expected, rtol=1e-5, atol=1e-6)
    assert tower.encode([]).shape == (0, 16)
    # Nothing else of the model stays in memory.
    kept = sum(tensor.numel() for tensor in tower._model.state_dict().values())
    left_out = {name: part for name, part in model.named_children() if name in ("visual", "text_decoder")}
    assert len(left_out) == (2 if kind == "coca" else 1)
    others = sum(tensor.numel() for part in left_out.values() for tensor in part.state_dict().values())
    assert kept == sum(tensor.numel() for tensor in model.state_dict().values()) - others


def test_the_bundled_encoder_has_its_own_tokenizer() -> None:
    encoder = load_encoder("demo", device=CPU)
    tower = load_text_tower(recipe(encoder), device=CPU)
    assert (tower.name, tower.pretrained, tower.width) == ("demo", "demo", 512)
    samples = [dataset.make_sample(number, seed=77) for number in range(50)]
    texts = [*(captions[0] for _, captions, _ in samples), LONG]
    # As it was trained: the tokens of the language model, end-of-text at the end, filled up to the context length.
    tokens = [row[:31] + row[-1:] if len(row) > 32 else row for row in encode_captions(load_tokenizer("demo"), texts)]
    assert len(tokens[-1]) == 32
    model = open_clip.create_model(f"local-dir:{BUNDLED_ENCODERS['demo']}").eval()
    with torch.inference_mode():
        expected = model.encode_text(torch.tensor([row + [0] * (32 - len(row)) for row in tokens]))
    torch.testing.assert_close(tower.encode(texts), expected, rtol=1e-5, atol=1e-5)


def test_weights_that_moved_are_found_where_pretrained_says(clip: Path, tmp_path: Path) -> None:
    moved = shutil.copytree(clip, tmp_path / "clip")
    made_with = recipe(load_encoder(str(moved), device=CPU))
    moved.rename(tmp_path / "elsewhere")
    with pytest.raises(ModelError, match=str(moved)):
        load_text_tower(made_with, device=CPU)
    tower = load_text_tower(made_with, str(tmp_path / "elsewhere"), device=CPU)
    assert tower.pretrained == str(tmp_path / "elsewhere")
    assert torch.equal(tower.encode(CAPTIONS), load_text_tower(made_with, str(clip), device=CPU).encode(CAPTIONS))


def test_other_weights_of_the_same_architecture_are_refused(clip: Path, tmp_path: Path) -> None:
    encoder = load_encoder(str(clip), device=CPU)
    other = save_model(tmp_path / "other", CLIP, seed=1)
    with pytest.raises(ModelError, match=encoder.weights_sha256[:12]):
        load_text_tower(recipe(encoder), str(other), device=CPU)
    # The hash is of the image tower: another text tower beside it is not noticed, another image tower always is.
    weights = load_file(other / "open_clip_model.safetensors")
    mixed = {**load_file(clip / "open_clip_model.safetensors"), "visual.proj": weights["visual.proj"]}
    save_file(mixed, other / "open_clip_model.safetensors")
    with pytest.raises(ModelError, match=encoder.weights_sha256[:12]):
        load_text_tower(recipe(encoder), str(other), device=CPU)


@pytest.mark.parametrize(
    ("changes", "value"),
    [
        ({"encoder": "unknown", "pretrained": "unknown", "weights_sha256": ""}, "not recorded"),
        ({"encoder": "mobilenet_v2", "pretrained": "imagenet", "weights_sha256": ""}, "mobilenet_v2"),
        ({"encoder": "ViT-B-32", "pretrained": "imagenet", "weights_sha256": ""}, "imagenet"),
        ({"features": "pooled"}, "pooled"),
        ({"features": "patches"}, "patches"),
        ({"width": 17, "weights_sha256": ""}, "17"),
    ],
)
def test_embeddings_without_a_text_tower_are_an_error(clip: Path, changes: dict[str, Any], value: str) -> None:
    made_with = replace(recipe(load_encoder(str(clip), device=CPU)), **changes)
    with pytest.raises(ModelError, match=value) as error:
        load_text_tower(made_with, device=CPU)
    assert "\n" not in str(error.value)


def test_imported_embeddings_have_the_text_tower_of_the_encoder_that_the_user_named(clip: Path) -> None:
    made_with = recipe(load_encoder(str(clip), device=CPU))
    imported = load_text_tower(replace(made_with, weights_sha256=""), device=CPU)
    assert torch.equal(imported.encode(CAPTIONS), load_text_tower(made_with, device=CPU).encode(CAPTIONS))


def test_a_tokenizer_with_more_tokens_than_the_tower_is_an_error(clip_folder: Path) -> None:
    """A folder that does not name its tokenizer gets CLIP's, which has 49,408 tokens."""
    with pytest.raises(ModelError, match="clip0"):
        load_text_tower(recipe(load_encoder(str(clip_folder), device=CPU)), device=CPU)


def test_the_code_of_a_tokenizer_is_not_run(clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, proof = shutil.copytree(clip, tmp_path / "clip"), tmp_path / "proof"
    config = json.loads((folder / "open_clip_config.json").read_text())
    config["model_cfg"]["text_cfg"]["hf_tokenizer_name"] = "own"
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    (folder / "own.py").write_text(
        f"open({str(proof)!r}, 'w').write('run')\nfrom transformers import GPT2Tokenizer as Tokenizer\n"
    )
    own = {"tokenizer_class": "OwnTokenizer", "auto_map": {"AutoTokenizer": ["own.Tokenizer", None]}}
    (folder / "tokenizer_config.json").write_text(json.dumps(own))
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    with pytest.raises(ModelError, match="tokenizer"):
        load_text_tower(recipe(load_encoder(str(folder), device=CPU)), device=CPU)
    assert not proof.exists()
