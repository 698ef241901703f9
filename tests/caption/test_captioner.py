"""`Captioner`: what it takes and returns, held against greedy decoding and losses that are written plainly."""

from pathlib import Path
from typing import Any, get_type_hints

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from clipcap.caption import Captioner, CaptionerSettings
from clipcap.caption.decoding.beam import Beam
from clipcap.caption.decoding.options import DecodeOptions
from clipcap.caption.decoding.registry import choose_strategy
from clipcap.caption.settings import CaptionerChanges, DecodeChanges
from clipcap.data.cache.index import Cache
from clipcap.data.errors import CheckpointError, ImageError, UsageError
from clipcap.data.pretrained.tokenizer import encode_captions
from clipcap.data.settings import parameters_of


@pytest.fixture(scope="module")
def captioner(trained: Path) -> Captioner:
    return Captioner.from_checkpoint(trained / "best", device="cpu")


@pytest.fixture
def embeddings(small_cache: Path) -> np.ndarray[Any, Any]:
    return np.concatenate([tables.embedding for tables in Cache.open(small_cache).tables()])


def images(small_cache: Path) -> list[Path]:
    root = small_cache.parent / "coco"
    return [root / path for tables in Cache.open(small_cache).tables() for path in tables.path]


def test_it_takes_a_path_an_opened_image_and_lists_of_them(captioner: Captioner, small_cache: Path) -> None:
    first, second = images(small_cache)[:2]
    caption = captioner(first)
    assert isinstance(caption, str)
    assert caption
    assert captioner(str(first)) == caption
    with Image.open(first) as image:
        assert captioner(image) == caption
    assert captioner([first, second]) == [caption, captioner(second)]
    assert captioner([]) == []


def test_embeddings_are_captioned_without_clip(trained: Path, embeddings: np.ndarray[Any, Any]) -> None:
    captioner = Captioner.from_checkpoint(trained, device="cpu")
    captions = captioner(embeddings)
    assert len(captions) == 17
    assert captioner(torch.from_numpy(embeddings)) == captions
    assert captioner(embeddings[3]) == captions[3]
    assert captioner._encoder is None


def test_images_get_the_captions_of_their_cached_rows(
    captioner: Captioner, small_cache: Path, embeddings: np.ndarray[Any, Any]
) -> None:
    assert captioner(images(small_cache)) == captioner(embeddings)
    torch.testing.assert_close(
        captioner.encode(images(small_cache)), torch.from_numpy(embeddings).float(), rtol=1e-3, atol=1e-3
    )


def plain_greedy(captioner: Captioner, embedding: torch.Tensor, steps: int) -> list[int]:
    """Greedy decoding written plainly: no cache, no batch, and the whole sequence again for every token."""
    tokens: list[int] = []
    with torch.no_grad():
        for _ in range(steps):
            prefix = captioner.model.clip_project(embedding[None])
            embedded = captioner.model.gpt.transformer.wte(torch.tensor([tokens], dtype=torch.long))
            logits = captioner.model.gpt(inputs_embeds=torch.cat([prefix, embedded], dim=1)).logits
            tokens.append(int(logits[0, -1].argmax()))
            if tokens[-1] == captioner.tokenizer.eos_token_id:
                break
    return tokens


def test_greedy_takes_the_likeliest_token_at_every_step(captioner: Captioner, embeddings: np.ndarray[Any, Any]) -> None:
    rows = torch.from_numpy(embeddings).float()
    said = captioner(embeddings, max_tokens=12)
    for row, caption in zip(rows, said, strict=True):
        tokens = plain_greedy(captioner, row, 12)
        assert str(captioner.tokenizer.decode(tokens, skip_special_tokens=True)).strip() == caption


def test_a_caption_does_not_depend_on_its_batch(captioner: Captioner, embeddings: np.ndarray[Any, Any]) -> None:
    for decode in ("greedy", "beam"):
        together = captioner(embeddings, decode=decode)
        assert [captioner(row, decode=decode) for row in embeddings] == together


def test_beams_come_best_first_by_the_mean_loss(captioner: Captioner, embeddings: np.ndarray[Any, Any]) -> None:
    some = captioner(embeddings[:4], decode="beam", beams=4, n=4, max_tokens=20)
    assert [len(captions) for captions in some] == [4] * 4
    strategy = Beam(DecodeOptions(beams=4, captions=4, max_tokens=20))
    tokens = strategy.decode(captioner.model, torch.from_numpy(embeddings[:4]).float(), captioner.tokenizer)
    for row, captions in zip(embeddings[:4], tokens, strict=True):
        means = []
        for caption in captions:
            batch = (torch.from_numpy(row)[None].float(), torch.tensor([caption]), torch.tensor([len(caption)]))
            means.append(captioner.model.token_losses(*batch).mean().item())
        assert means == sorted(means)
    best = captioner(embeddings[:4], decode="beam", beams=4, max_tokens=20)
    assert best == [captions[0] for captions in some]


def test_beam_search_finds_captions_as_likely_as_greedy(captioner: Captioner, embeddings: np.ndarray[Any, Any]) -> None:
    def mean(captions: list[str]) -> list[float]:
        return [sum(losses) / len(losses) for losses in captioner.score(embeddings, captions)]

    greedy, beam = mean(captioner(embeddings)), mean(captioner(embeddings, decode="beam"))
    assert sum(beam) <= sum(greedy) + 1e-4


def test_score_is_the_loss_of_every_token_with_end_of_text(
    captioner: Captioner, embeddings: np.ndarray[Any, Any]
) -> None:
    captions = ["A red square!", "x", "some people sitting around a wooden table, waiting"]
    scores = captioner.score(embeddings[:3], captions)
    tokens = encode_captions(captioner.tokenizer, captions)
    assert [len(row) for row in scores] == [len(row) for row in tokens]
    for row, losses, caption in zip(embeddings[:3], scores, tokens, strict=True):
        prefix = captioner.model.clip_project(torch.from_numpy(row)[None].float())
        embedded = captioner.model.gpt.transformer.wte(torch.tensor([caption[:-1]]))
        with torch.no_grad():
            logits = captioner.model.gpt(inputs_embeds=torch.cat([prefix, embedded], dim=1)).logits[0, 9:]
        expected = F.cross_entropy(logits.double(), torch.tensor(caption), reduction="none")
        torch.testing.assert_close(torch.tensor(losses, dtype=torch.double), expected, rtol=0, atol=1e-4)
    assert captioner.score(embeddings[:0], []) == []


def test_the_mean_score_is_the_validation_loss(captioner: Captioner, small_cache: Path) -> None:
    rows, captions = [], []
    for tables in Cache.open(small_cache).tables():
        for i in np.flatnonzero(tables.split == 1):
            for j in range(tables.first_caption[i], tables.first_caption[i + 1]):
                rows.append(tables.embedding[i])
                captions.append(tables.text[j])
    losses = [loss for row in captioner.score(np.stack(rows), captions) for loss in row]
    assert sum(losses) / len(losses) == pytest.approx(captioner.config.progress["best_val_loss"], rel=1e-5)


def test_the_folder_of_a_run_opens_its_best_checkpoint(trained: Path, embeddings: np.ndarray[Any, Any]) -> None:
    best = Captioner.from_checkpoint(trained / "best", device="cpu")
    assert Captioner.from_checkpoint(str(trained), device="cpu")(embeddings) == best(embeddings)


def test_errors_name_the_value(captioner: Captioner, embeddings: np.ndarray[Any, Any], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"\(3, 5\).*\(n, 16\)"):
        captioner(np.zeros((3, 5), dtype=np.float32))
    with pytest.raises(UsageError, match="row 0"):
        captioner(np.full((1, 16), np.nan, dtype=np.float32))
    with pytest.raises(UsageError, match="2 embeddings and 1 captions"):
        captioner.score(embeddings[:2], ["x"])
    with pytest.raises(UsageError, match="0 tokens"):
        captioner.score(embeddings[:1], ["  "])
    with pytest.raises(UsageError, match="word word"):
        captioner.score(embeddings[:1], ["word " * 100])
    with pytest.raises(UsageError, match="6"):
        captioner(embeddings, decode="beam", n=6)
    with pytest.raises(UsageError, match="2"):
        captioner(embeddings, n=2)
    with pytest.raises(UsageError, match=r"guess.*greedy, beam, sample"):
        choose_strategy("guess")
    with pytest.raises(UsageError, match=r"`max_tokens` .* 0"):
        captioner(embeddings, max_tokens=0)
    (tmp_path / "x.jpg").write_text("no image")
    with pytest.raises(ImageError, match=r"x\.jpg"):
        captioner(tmp_path / "x.jpg")
    with pytest.raises(CheckpointError, match=str(tmp_path)):
        Captioner.from_checkpoint(tmp_path)
    with pytest.raises(UsageError, match=r"`batch_size` .* 0"):
        Captioner.from_checkpoint(tmp_path, batch_size=0)


def test_options_of_one_strategy_choose_it(captioner: Captioner, embeddings: np.ndarray[Any, Any]) -> None:
    assert captioner(embeddings, beams=4, n=2) == captioner(embeddings, decode="beam", beams=4, n=2)
    with pytest.raises(UsageError, match="beams"):
        captioner(embeddings, decode="greedy", beams=4)


def test_settings_and_keywords_open_the_same_captioner(trained: Path) -> None:
    settings = CaptionerSettings(device="cpu", batch_size=3)
    assert Captioner.from_checkpoint(trained, settings).settings == settings
    assert Captioner.from_checkpoint(trained, device="cpu", batch_size=3).settings == settings
    assert Captioner.from_checkpoint(trained, settings, batch_size=4).batch_size == 4


@pytest.mark.parametrize(
    ("keywords", "settings", "others"),
    [(CaptionerChanges, CaptionerSettings, set()), (DecodeChanges, DecodeOptions, {"captions"})],
)
def test_keywords_for_type_checkers_are_the_settings(keywords: Any, settings: Any, others: set[str]) -> None:
    types = {parameter.name: parameter.type for parameter in parameters_of(settings)}
    assert get_type_hints(keywords) == {name: kind for name, kind in types.items() if name not in others}


def test_captions_end_with_the_positions_of_the_model(captioner: Captioner, embeddings: np.ndarray[Any, Any]) -> None:
    for decode in ("greedy", "beam"):
        assert len(captioner(embeddings[:2], decode=decode, max_tokens=100_000)) == 2
