"""A cache in memory: the right tokens beside the right embedding, every caption once an epoch."""

from pathlib import Path

import torch

from clipcap.data.cache import Cache
from clipcap.data.tokenizer import load_tokenizer
from clipcap.train.corpus import POOL, epoch_batches, in_order, load_corpora


def expected(cache: Path, split: int) -> list[tuple[list[float], list[int], str]]:
    rows = []
    for tables in Cache.open(cache).tables():
        for i in range(len(tables.id)):
            for j in range(tables.first_caption[i], tables.first_caption[i + 1]):
                if tables.split[i] == split:
                    tokens = tables.token[tables.first_token[j] : tables.first_token[j + 1]].tolist()
                    rows.append((tables.embedding[i].tolist(), tokens, tables.text[j]))
    return rows


def test_every_caption_has_its_tokens_and_its_picture(small_cache: Path) -> None:
    corpora = load_corpora(Cache.open(small_cache), 60)
    assert set(corpora) == {"train", "val"}
    for number, split in enumerate(("train", "val")):
        corpus, rows = corpora[split], expected(small_cache, number)
        assert len(corpus) == len(rows)
        numbers = torch.randperm(len(corpus), generator=torch.Generator().manual_seed(0))
        batch = corpus.batch(numbers)
        assert batch.embedding.dtype == torch.float32
        assert batch.tokens.shape == (len(rows), max(len(tokens) for _, tokens, _ in rows))
        for row, i in enumerate(numbers.tolist()):
            embedding, tokens, text = rows[i]
            assert batch.embedding[row].tolist() == embedding
            assert batch.tokens[row, : batch.lengths[row]].tolist() == tokens
            assert corpus.text[i] == text


def test_long_captions_are_cut_and_counted(small_cache: Path) -> None:
    corpus = load_corpora(Cache.open(small_cache), 5)["train"]
    whole = expected(small_cache, 0)
    assert corpus.cut == sum(len(tokens) > 5 for _, tokens, _ in whole) > 0
    batch = corpus.batch(torch.arange(len(corpus)))
    assert batch.tokens.tolist() == [tokens[:5] for _, tokens, _ in whole]


def test_another_tokenizer_makes_the_tokens_anew_without_any_picture(shared: Path, small_cache: Path) -> None:
    tokenizer = load_tokenizer(str(shared / "data/gpt2"))
    corpus = load_corpora(Cache.open(small_cache), 60, tokenizer)["train"]
    batch = corpus.batch(torch.arange(len(corpus)))
    for row, text in enumerate(corpus.text):
        assert batch.tokens[row, : batch.lengths[row]].tolist() == [*tokenizer.encode(" ".join(text.split())), 50256]


def test_an_epoch_has_every_caption_once_in_an_order_of_its_own() -> None:
    length = torch.randint(1, 40, (1003,), generator=torch.Generator().manual_seed(0))
    first, again, second, other = (
        epoch_batches(length, 4, seed, epoch) for seed, epoch in ((0, 0), (0, 0), (0, 1), (1, 0))
    )
    assert [batch.tolist() for batch in first] == [batch.tolist() for batch in again]
    for batches in (first, second, other):
        assert sorted(torch.cat(batches).tolist()) == list(range(1003))
        assert sorted(map(len, batches)) == [3] + [4] * 250
    assert torch.cat(first).tolist() != torch.cat(second).tolist() != torch.cat(other).tolist()


def test_sorting_by_length_leaves_little_padding() -> None:
    length = torch.randint(1, 40, (20 * POOL,), generator=torch.Generator().manual_seed(0))
    batches = epoch_batches(length, 20, 0, 0)
    padded = sum(int(length[batch].max()) * len(batch) for batch in batches)
    assert padded < 1.05 * int(length.sum())
    shortest_first = [int(length[batch].max()) for batch in batches]
    assert shortest_first != sorted(shortest_first)  # but the batches come in random order


def test_fewer_captions_than_a_batch_still_train() -> None:
    assert [batch.tolist() for batch in epoch_batches(torch.tensor([3]), 40, 0, 0)] == [[0]]


def test_the_captions_of_some_pictures(small_cache: Path) -> None:
    corpus = load_corpora(Cache.open(small_cache), 60)["train"]
    chosen = torch.cat(list(in_order(corpus, torch.tensor([1, 4]), 3)))
    assert sorted(chosen.tolist()) == [i for i, image in enumerate(corpus.image.tolist()) if image in (1, 4)]
    assert corpus.length[chosen].tolist() == sorted(corpus.length[chosen].tolist())
