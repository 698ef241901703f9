"""The nearest training image, found exactly whatever the blocks, and the consensus of its captions."""

import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clipcap.caption import neighbours
from clipcap.caption.evaluate.baseline import Nearest, consensus, nearest_captions
from clipcap.data.cache.fingerprint import Fingerprint
from clipcap.data.cache.index import Cache, ShardEntry, write_index
from clipcap.data.cache.scale import magnitudes, scale_of, to_float16
from clipcap.data.cache.shard import ShardTables, write_shard
from clipcap.data.metrics.tokenizer import tokenize_all
from clipcap.data.records import SPLITS
from small_world import CAPTIONS

Image = tuple[str, str, Any, Sequence[str]]  # id, split, embedding, captions


def save_cache(folder: Path, images: Sequence[Image], shard_size: int = 3) -> Cache:
    """Write a cache of these images, with one token for each caption, and a scale where float16 needs one."""
    fingerprint = Fingerprint.unchecked(encoder="unknown", width=np.shape(images[0][2])[-1])
    entries = []
    for number, start in enumerate(range(0, len(images), shard_size)):
        ids, splits, rows, captions = zip(*images[start : start + shard_size], strict=True)
        text = [caption for some in captions for caption in some]
        scale = scale_of(magnitudes(np.array(rows)))
        tables = ShardTables(
            embedding=to_float16(np.array(rows), scale),
            scale=scale,
            id=list(ids),
            path=[f"{name}.jpg" for name in ids],
            split=np.array([SPLITS.index(split) for split in splits], dtype=np.uint8),
            first_caption=np.cumsum([0, *map(len, captions)]),
            text=text,
            first_token=np.arange(len(text) + 1),
            token=np.zeros(len(text), dtype=np.uint16),
            failure_path=[],
            failure_reason=[],
        )
        file = folder / f"cache-{number:05d}.h5"
        content = write_shard(file, tables, fingerprint.to_json(), number)
        entries.append(ShardEntry(path=file, images=len(ids), captions=len(text), tokens=len(text), content=content))
    write_index(folder / "cache.h5", fingerprint, entries)
    return Cache.open(folder / "cache.h5")


def found(cache: Cache, split: str = "val") -> Nearest:
    nearest = nearest_captions(cache, split)
    assert nearest is not None
    return nearest


@pytest.fixture(params=[(4096, 2048), (2, 3), (1, 1)], ids=["whole", "blocks", "rows"])
def blocks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the search work in blocks of different sizes."""
    queries, block = request.param
    monkeypatch.setattr(neighbours, "QUERIES", queries)
    monkeypatch.setattr(neighbours, "BLOCK", block)


@pytest.mark.usefixtures("blocks")
def test_each_image_gets_the_first_caption_of_the_training_image_at_the_smallest_angle(tmp_path: Path) -> None:
    images: list[Image] = [
        ("right", "train", [4, 0], ["to the right", "rightwards"]),
        ("query", "val", [1, 0.1], ["what it shows"]),
        ("nearest without captions", "train", [1, 0.1], []),
        ("nearest with a blank caption", "train", [1, 0.1], [" "]),
        ("test", "test", [1, 0.1], ["not of the training set"]),
        ("up", "train", [0, 0.5], ["", "upwards"]),
        ("steep", "val", [20, 30], []),
        ("down", "val", [0.2, -9], []),
        ("diagonal", "train", [1, 1], ["both ways"]),
    ]
    nearest = found(save_cache(tmp_path, images))
    assert nearest.ids == ["query", "steep", "down"]
    assert nearest.neighbours == ["right", "diagonal", "right"]
    assert nearest.captions == ["to the right", "both ways", "to the right"]
    expected = [1 / math.hypot(1, np.float16(0.1)), 50 / math.hypot(20, 30) / math.sqrt(2)]
    np.testing.assert_allclose(nearest.cosine[:2], expected, rtol=1e-6)
    assert found(save_cache(tmp_path, images), "test").neighbours == ["right"]


@pytest.mark.usefixtures("blocks")
def test_of_training_images_that_are_equally_near_the_first_is_taken(tmp_path: Path) -> None:
    rows = np.random.default_rng(0).normal(size=(4, 300)).astype(np.float16)
    order = [0, 1, 2, 1, 3, 0, 2, 3, 1]
    # The same direction, at other lengths: powers of two, which float16 keeps exactly.
    images: list[Image] = [
        (f"{number}", "train", rows[row] * 2.0 ** (number % 3 - 1), ["a"]) for number, row in enumerate(order)
    ]
    images += [(f"query {row}", "val", rows[row], []) for row in range(4)]
    nearest = found(save_cache(tmp_path, images))
    assert nearest.neighbours == ["0", "1", "2", "4"]
    np.testing.assert_allclose(nearest.cosine, 1, rtol=1e-6)


@pytest.mark.usefixtures("blocks")
@pytest.mark.parametrize("largest", [1, 2.0**20], ids=["small", "beyond float16"])
@pytest.mark.parametrize("shape", [(16,), (5, 16)], ids=["embedding", "patches"])
def test_the_search_is_exact(shape: tuple[int, ...], largest: float, tmp_path: Path) -> None:
    rows = np.random.default_rng(1).normal(1, 1, (30, *shape)).astype(np.float16).astype(np.float32)
    rows[:14] *= largest  # the first two shards
    images: list[Image] = [
        (f"{number}", "val" if number % 3 == 1 else "train", row, [f"caption {number}"] if number % 4 else [])
        for number, row in enumerate(rows)
    ]
    nearest = found(save_cache(tmp_path, images, shard_size=7))
    exact = rows.astype(np.float64).reshape(30, -1, 16).mean(axis=1)
    exact /= np.sqrt((exact**2).sum(axis=1, keepdims=True))
    training = [number for number in range(30) if number % 3 != 1 and number % 4]
    for place, number in enumerate(range(1, 30, 3)):
        cosines = [float(exact[number] @ exact[other]) for other in training]
        assert nearest.neighbours[place] == f"{training[int(np.argmax(cosines))]}"
        assert nearest.cosine[place] == pytest.approx(max(cosines), rel=1e-6)


@pytest.mark.usefixtures("blocks")
def test_an_image_is_not_its_own_neighbour(tmp_path: Path) -> None:
    images: list[Image] = [(f"{angle}", "train", [angle, 10], [f"at {angle}"]) for angle in (0, 9, 4, 5)]
    # An image that is in two splits under one id, as damaged splits have it.
    images.append(("4", "val", [4, 10], []))
    cache = save_cache(tmp_path, images)
    assert found(cache, "train").captions == ["at 4", "at 5", "at 5", "at 4"]
    assert found(cache, "val").captions == ["at 5"]


@pytest.mark.parametrize(
    ("train", "split"),
    [(0, "val"), (0, "train"), (1, "train"), (2, "test")],
    ids=["no train", "empty", "alone", "no test"],
)
def test_without_other_training_images_there_is_no_baseline(train: int, split: str, tmp_path: Path) -> None:
    images: list[Image] = [("bare", "train", [1, 0], []), *((f"{i}", "train", [1, 0], ["a"]) for i in range(train))]
    if split == "val":
        images.append(("query", "val", [1, 0], ["a caption"]))
    assert nearest_captions(save_cache(tmp_path, images), split) is None


def test_rows_without_a_direction_are_near_to_nothing(tmp_path: Path) -> None:
    images: list[Image] = [
        ("zero", "train", [0, 0], ["zero"]),
        ("nan", "train", [np.nan, 1], ["nan"]),
        ("infinite", "train", [np.inf, 1], ["infinite"]),
        ("right", "train", [1, 1], ["right"]),
        ("query", "val", [1, 0], []),
        ("damaged", "val", [np.nan, 0], []),
    ]
    nearest = found(save_cache(tmp_path, images))
    assert nearest.captions == ["right", "zero"]
    np.testing.assert_allclose(nearest.cosine, [math.sqrt(0.5), 0], rtol=1e-6)


def cider_d(caption: str, reference: str, documents: Sequence[Sequence[str]]) -> float:
    """Return CIDEr-D of one tokenised caption against one reference, with the document frequencies of all images."""

    def grams(text: str, n: int) -> Counter[tuple[str, ...]]:
        words = text.split()
        return Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1))

    total = 0.0
    for n in range(1, 5):

        def vector(text: str, n: int = n) -> dict[tuple[str, ...], float]:
            frequency = {
                gram: sum(any(gram in grams(some, n) for some in texts) for texts in documents)
                for gram in grams(text, n)
            }
            return {
                gram: count * math.log(len(documents) / max(1, frequency[gram]))
                for gram, count in grams(text, n).items()
            }

        one, other = vector(caption), vector(reference)
        lengths = math.hypot(*one.values()) * math.hypot(*other.values())
        dot = sum(min(value, other[gram]) * other[gram] for gram, value in one.items() if gram in other)
        total += dot / lengths if lengths else 0
    difference = max(0, len(caption.split()) - 1) - max(0, len(reference.split()) - 1)
    return 10 * total / 4 * math.exp(-(difference**2) / 72)


def test_the_consensus_is_the_caption_most_like_the_others() -> None:
    captions = [
        [
            "A cat sits.",
            "A black dog runs over the grass.",
            "A dog runs over wet grass.",
            "A dog runs on grass.",
            "Dog",
        ],
        ["Two men", "Two men on a boat", "Two men sit on a small boat.", "Some people on a boat"],
        ["The only caption"],
        [CAPTIONS[3], CAPTIONS[4], CAPTIONS[4].upper(), "An old train in a station", "a train waits in an old station"],
        ["Red apples on a table", "Green pears in a bowl"],
        ["Two kites fly", "Two kites", "Kites"],  # the first one is more like itself than the others are
    ]
    tokens = iter(tokenize_all([caption for some in captions for caption in some]))
    tokenized = [[next(tokens) for _ in some] for some in captions]
    expected = []
    for some in tokenized:
        means = [
            sum(cider_d(one, other, tokenized) for j, other in enumerate(some) if j != i) / max(1, len(some) - 1)
            for i, one in enumerate(some)
        ]
        expected.append(int(np.argmax(np.array(means) > max(means) - 1e-9)))
    assert consensus(captions) == expected
    assert expected[2:] == [0, 1, 0, 1]  # of equal ones the first
    assert len(set(expected)) > 2


def test_the_baseline_takes_the_consensus_of_the_nearest_image(tmp_path: Path) -> None:
    texts = ["Something else", "A red ball on grass", "A red ball on the grass", "A ball on the grass"]
    images: list[Image] = [
        ("ball", "train", [1, 0], texts),
        ("boat", "train", [0, 1], ["A boat"]),
        ("house", "train", [-1, -1], ["A house in a wood", "Trees"]),
        ("first", "val", [1, 0.1], []),
        ("second", "val", [0.1, 1], []),
        ("third", "val", [1, -0.1], []),
    ]
    nearest = found(save_cache(tmp_path, images))
    assert nearest.captions == ["Something else", "A boat", "Something else"]
    assert nearest.consensus == ["A red ball on the grass", "A boat", "A red ball on the grass"]
