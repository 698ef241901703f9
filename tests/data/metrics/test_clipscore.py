"""CLIPScore and RefCLIPScore equal the formulas of their paper, written out here one number at a time."""

import math
from collections.abc import Sequence

import numpy as np
import open_clip
import pytest
import torch

from clipcap.data.cache.fingerprint import Fingerprint
from clipcap.data.demo import dataset
from clipcap.data.errors import UsageError
from clipcap.data.metrics.clipscore import PREFIX, clipscore
from clipcap.data.pretrained.bundled import BUNDLED_ENCODERS
from clipcap.data.pretrained.tokenizer import encode_captions, load_tokenizer
from clipcap.precompute.encoders.clip_text import load_text_tower
from clipcap.precompute.encoders.load import load_encoder
from clipcap.precompute.loading import to_pixels

CPU = torch.device("cpu")
Vector = Sequence[float]


def cosine(one: Vector, other: Vector) -> float:
    product = math.fsum(a * b for a, b in zip(one, other, strict=True))
    return product / math.sqrt(math.fsum(a * a for a in one)) / math.sqrt(math.fsum(b * b for b in other))


def formula(image: Vector, caption: Vector, references: Sequence[Vector]) -> tuple[float, float]:
    """Return CLIPScore and RefCLIPScore of one caption."""
    fit = 2.5 * max(cosine(image, caption), 0)
    likeness = max(0, *(cosine(caption, reference) for reference in references))
    return fit, 2 / (1 / fit + 1 / likeness) if fit and likeness else 0


@pytest.mark.slow
def test_100_scenes_score_as_the_formula_says() -> None:
    """The captions of 50 scenes belong to them, and those of the other 50 to the next scene."""
    encoder = load_encoder("demo", device=CPU)
    samples = [dataset.make_sample(number, seed=77) for number in range(101)]
    captions = [samples[number + (number >= 50)][1][0] for number in range(100)]
    references = [list(texts[1:]) for _, texts, _ in samples[:100]]
    pixels = torch.stack([to_pixels(image, encoder.transform) for _, _, image in samples[:100]])

    made_with = Fingerprint.unchecked(encoder="demo", width=512, weights_sha256=encoder.weights_sha256)
    tower = load_text_tower(made_with, device=CPU)
    image = encoder.encode(pixels)
    caption = tower.encode([PREFIX + text for text in captions])
    reference = [tower.encode([PREFIX + text for text in texts]) for texts in references]
    scores = clipscore(image, caption, reference)

    # The same from the start in float64, without our encoder, text tower and tokenizer.
    model = open_clip.create_model(f"local-dir:{BUNDLED_ENCODERS['demo']}").eval().double()
    tokenizer = load_tokenizer("demo")

    def encode(texts: list[str]) -> list[list[float]]:
        rows = encode_captions(tokenizer, ["A photo depicts " + text for text in texts])
        cut = [row if len(row) <= 32 else row[:31] + row[-1:] for row in rows]
        tokens = torch.tensor([row + [0] * (32 - len(row)) for row in cut])
        return model.encode_text(tokens).tolist()  # type: ignore[no-any-return]

    mean, std = (torch.tensor(encoder.preprocess[key], dtype=torch.float64) for key in ("mean", "std"))
    with torch.inference_mode():
        images = model.encode_image(((pixels / 255 - mean) / std).permute(0, 3, 1, 2)).tolist()
        expected = [
            formula(image, own, encode(texts))
            for image, own, texts in zip(images, encode(captions), references, strict=True)
        ]
    assert list(scores) == ["CLIPScore", "RefCLIPScore"]
    for score, column in zip(scores.values(), np.array(expected).T, strict=True):
        np.testing.assert_allclose(score.images, column, rtol=0, atol=1e-6)
        assert score.corpus == pytest.approx(column.mean(), rel=0, abs=1e-6)
    own, other = scores["CLIPScore"].images[:50], scores["CLIPScore"].images[50:]
    assert own.mean() > 4 * other.mean()
    assert 0 < np.count_nonzero(other == 0) < 50
    # A cache keeps float16, which moves a score by less than 0.0001.
    cached = clipscore(image.half(), caption, reference)
    for name, score in scores.items():
        assert 0 < np.abs(cached[name].images - score.images).max() < 1e-4


def test_exact_scores_of_small_embeddings() -> None:
    image = np.array([[3, 4], [2, 0], [1, 0], [0, 0], [1, 0], [1, 0]], dtype=np.float16)
    caption = np.array([[4, 3], [-1, 0], [0, 5], [1, 0], [1, 0], [3, 4]], dtype=np.float32)
    references = [
        np.array([[8, 6], [0, 2]]),  # the larger cosine counts: 1
        np.array([[-1, 0], [0, 1], [1, 1]]),  # CLIPScore is 0
        np.array([[0, 1], [1, 0], [0, -1]]),  # CLIPScore is 0
        np.array([[1, 0]]),  # an image without an embedding
        np.array([[-1, 1e-9], [-1, 0]]),  # no reference is alike
        np.array([[0, 1]]),
    ]
    scores = clipscore(image, caption, references)
    np.testing.assert_allclose(scores["CLIPScore"].images, [2.5 * 0.96, 0, 0, 0, 2.5, 1.5], rtol=1e-12)
    np.testing.assert_allclose(
        scores["RefCLIPScore"].images, [2 * 2.4 / 3.4, 0, 0, 0, 0, 2 * 1.5 * 0.8 / 2.3], rtol=1e-12
    )
    assert scores["CLIPScore"].corpus == pytest.approx(6.4 / 6)
    assert list(clipscore(image, caption)) == ["CLIPScore"]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_embeddings_that_are_not_finite_are_an_error(value: float) -> None:
    image = np.ones((3, 4), dtype=np.float16)
    image[2, 1] = value
    with pytest.raises(UsageError, match=r"1 of 3.* 2"):
        clipscore(image, np.ones((3, 4)))


@pytest.mark.parametrize(
    ("captions", "references", "value"),
    [
        ((2, 4), None, r"\(2, 4\)"),
        ((3, 5), None, r"\(3, 5\)"),
        ((3, 4), [1, 2], "2 of 3"),
        ((3, 4), [1, 0, 2], "2 of 3"),
    ],
)
def test_embeddings_that_do_not_fit_are_an_error(
    captions: tuple[int, int], references: list[int] | None, value: str
) -> None:
    rows = None if references is None else [np.ones((count, 4)) for count in references]
    with pytest.raises(UsageError, match=value):
        clipscore(np.ones((3, 4)), np.ones(captions), rows)
