"""A corpus has the right tokens for each caption, and the right embedding for each image."""

from pathlib import Path

import numpy as np
import torch

from clipcap.data.cache.index import Cache
from clipcap.data.pretrained.tokenizer import load_tokenizer
from clipcap.train.corpus.captions import in_order, load_corpora
from plain import plain_batch, read_back


def expected(cache: Path, split: int) -> list[tuple[list[float], list[int], str]]:
    rows = []
    for tables in Cache.open(cache).tables():
        for i in range(len(tables.id)):
            for j in range(tables.first_caption[i], tables.first_caption[i + 1]):
                if tables.split[i] == split:
                    tokens = tables.token[tables.first_token[j] : tables.first_token[j + 1]].tolist()
                    rows.append((tables.embedding[i].tolist(), tokens, tables.text[j]))
    return rows


def test_every_caption_has_its_tokens_and_its_image(small_cache: Path) -> None:
    corpora = load_corpora(Cache.open(small_cache), 60)
    assert set(corpora) == {"train", "val"}
    for number, split in enumerate(("train", "val")):
        corpus, rows = corpora[split], expected(small_cache, number)
        assert len(corpus) == len(rows)
        numbers = np.random.default_rng(0).permutation(len(corpus))
        embedding, tokens, lengths = plain_batch(corpus, numbers)
        assert embedding.dtype == torch.float32
        for row, i in enumerate(numbers):
            expected_embedding, expected_tokens, text = rows[i]
            assert embedding[row].tolist() == expected_embedding
            assert tokens[row, : lengths[row]].tolist() == expected_tokens
            assert corpus.text[i] == text


def test_a_packed_batch_has_each_caption_after_the_prefix_of_its_image(small_cache: Path) -> None:
    corpus = load_corpora(Cache.open(small_cache), 60)["train"]
    rows = expected(small_cache, 0)
    numbers = np.random.default_rng(0).permutation(len(corpus))[:20]
    batch = corpus.packed(numbers, 3)
    images = np.unique(corpus.image[numbers])
    assert torch.equal(batch.embedding, corpus.embedding[images])
    assert sorted((int(images[pack]), seen) for pack, seen in read_back(batch, 3)) == sorted(
        (int(corpus.image[c]), list(rows[c][1][: n + 1])) for c in numbers for n in range(len(rows[c][1]))
    )


def test_long_captions_are_cut_and_counted(small_cache: Path) -> None:
    corpus = load_corpora(Cache.open(small_cache), 5)["train"]
    whole = expected(small_cache, 0)
    assert corpus.cut == sum(len(tokens) > 5 for _, tokens, _ in whole) > 0
    _, tokens, _ = plain_batch(corpus, range(len(corpus)))
    assert tokens.tolist() == [tokens[:5] for _, tokens, _ in whole]


def test_another_tokenizer_tokenises_the_texts_again(shared: Path, small_cache: Path) -> None:
    tokenizer = load_tokenizer(str(shared / "data/gpt2"))
    corpus = load_corpora(Cache.open(small_cache), 60, tokenizer)["train"]
    _, tokens, lengths = plain_batch(corpus, range(len(corpus)))
    for row, text in enumerate(corpus.text):
        assert tokens[row, : lengths[row]].tolist() == [*tokenizer.encode(" ".join(text.split())), 50256]


def test_captions_of_some_images_in_order(small_cache: Path) -> None:
    corpus = load_corpora(Cache.open(small_cache), 60)["train"]
    chosen = np.concatenate(in_order(corpus, np.array([1, 4]), 3))
    assert chosen.tolist() == [i for i, image in enumerate(corpus.image.tolist()) if image in (1, 4)]
