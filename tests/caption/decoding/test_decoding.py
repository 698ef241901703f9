"""Decoding with the models of the demo: which captions each strategy chooses, and what they depend on."""

from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch

from clipcap.caption import Captioner
from clipcap.caption.decoding.base import Strategy
from clipcap.caption.decoding.options import DecodeOptions
from clipcap.caption.decoding.reader import Reader
from clipcap.caption.decoding.registry import choose_strategy
from clipcap.caption.decoding.sample import Sample
from clipcap.data.cache.index import Cache
from clipcap.data.demo import dataset
from clipcap.data.demo.judge import judge
from clipcap.data.records import SPLITS
from small_world import DEMO_IMAGES


@pytest.fixture(scope="module")
def captioner(demo_run: Any) -> Captioner:
    return Captioner.from_checkpoint(demo_run[0] / "checkpoints", device="cpu")


@pytest.fixture(scope="module")
def embeddings(demo_run: Any) -> "np.ndarray[Any, Any]":
    """The embeddings of 17 scenes that were held out."""
    (tables,) = Cache.open(demo_run[0] / "cache.h5").tables()
    rows: np.ndarray[Any, Any] = tables.embedding[tables.split == SPLITS.index("val")][:17].astype(np.float32)
    return rows


def test_a_sample_depends_on_seed_and_embedding_alone(captioner: Captioner, embeddings: Any) -> None:
    options: dict[str, Any] = {"decode": "sample", "n": 3, "temperature": 3.0, "max_tokens": 8}
    together = captioner(embeddings, seed=4, **options)
    assert captioner(embeddings, seed=4, **options) == together
    assert [captioner(row, seed=4, **options) for row in embeddings] == together
    assert captioner(embeddings[::-1].copy(), seed=4, **options) == together[::-1]
    assert captioner(embeddings, seed=5, **options) != together


def test_samples_are_distinct_and_best_first(captioner: Captioner, embeddings: Any) -> None:
    sampled = captioner(embeddings, decode="sample", n=5, temperature=3.0, max_tokens=8)
    assert all(len(set(captions)) == len(captions) == 5 for captions in sampled)
    strategy = Sample(DecodeOptions(captions=4, temperature=3.0, max_tokens=8))
    rows = torch.from_numpy(embeddings[:3])
    for row, captions in zip(rows, strategy.decode(captioner.model, rows, captioner.tokenizer), strict=True):
        means = []
        for caption in captions:
            batch = (row[None], torch.tensor([caption]), torch.tensor([len(caption)]))
            means.append(captioner.model.token_losses(*batch).mean().item())
        assert means == sorted(means)


def first_tokens(captioner: Captioner, embedding: torch.Tensor, count: int, **options: Any) -> Counter[int]:
    """How often each token begins a caption, in `count` samples of one image."""
    strategy = Sample(DecodeOptions(**options))
    strategy.decode(captioner.model, embedding, captioner.tokenizer)
    strategy.reset(torch.device("cpu"), 2)
    strategy.add([0] * count)
    with torch.inference_mode():
        logits = Reader(captioner.model, 1).read_prefix(embedding)[1].expand(count, -1)
        drawn = strategy.pick(torch.empty(count, 0, dtype=torch.long), logits)
    return Counter(drawn.tolist())


def test_samples_obey_the_probabilities(captioner: Captioner, embeddings: Any) -> None:
    row = torch.from_numpy(embeddings[:1])
    with torch.inference_mode():
        logits = captioner.model.gpt(inputs_embeds=captioner.model.clip_project(row)).logits[0, -1].double()
    expected = (logits / 4).softmax(dim=0)
    found = first_tokens(captioner, row, 3000, temperature=4.0)
    for token in expected.topk(5).indices.tolist():
        share = float(expected[token])
        deviation = (share * (1 - share) / 3000) ** 0.5
        assert abs(found[token] / 3000 - share) < 4.5 * deviation, token

    likeliest = logits.argsort(descending=True).tolist()
    assert set(first_tokens(captioner, row, 500, temperature=4.0, top_k=3)) == set(likeliest[:3])
    # The nucleus is the smallest set of the likeliest tokens that has the probability.
    nucleus = int((expected[likeliest].cumsum(0) < 0.5).sum()) + 1
    assert set(first_tokens(captioner, row, 2000, temperature=4.0, top_p=0.5)) == set(likeliest[:nucleus])


def test_sampling_from_one_token_is_greedy(captioner: Captioner, embeddings: Any) -> None:
    greedy = captioner(embeddings)
    assert captioner(embeddings, decode="sample", top_k=1) == greedy
    assert captioner(embeddings, decode="sample", temperature=1e-4) == greedy


def test_fewer_captions_where_the_model_has_no_more_to_say(captioner: Captioner, embeddings: Any) -> None:
    greedy = captioner(embeddings)
    assert captioner(embeddings, decode="sample", top_k=1, n=3) == [[caption] for caption in greedy]


def test_captions_of_the_same_text_are_returned_once(
    captioner: Captioner, embeddings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    beams = captioner(embeddings[0], decode="beam", beams=5, n=5)
    assert len(set(beams)) == 5
    text = Strategy.text

    def three_words(self: Any, tokens: list[int], tokenizer: Any) -> str:
        return " ".join(text(self, tokens, tokenizer).split()[:3])

    monkeypatch.setattr(Strategy, "text", three_words)
    found = captioner(embeddings[0], decode="beam", beams=5, n=5)
    assert found == list(dict.fromkeys(" ".join(caption.split()[:3]) for caption in beams))
    found = captioner(embeddings[0], decode="sample", n=4)
    assert len(set(found)) == len(found)


def test_beam_captions_are_as_true_as_greedy_ones(captioner: Captioner, demo_run: Any) -> None:
    (tables,) = Cache.open(demo_run[0] / "cache.h5").tables()
    rows = tables.embedding[tables.split == SPLITS.index("val")]
    truth = [dataset.make_scene(number) for number in dataset.held_out(DEMO_IMAGES)]

    def true(captions: list[str]) -> int:
        """Number of attributes that are right, over all captions."""
        return sum(sum(judge(caption, scene).values()) for caption, scene in zip(captions, truth, strict=True))

    greedy = true(captioner(rows))
    assert greedy > 0.5 * 6 * len(rows)  # a scene has six attributes
    for beams in (2, 5):
        assert true(captioner(rows, decode="beam", beams=beams)) > greedy - 0.05 * 6 * len(rows)
    assert true(captioner(np.roll(rows, 1, axis=0))) < greedy - 0.2 * 6 * len(rows)


@pytest.mark.parametrize("decode", ["greedy", "beam", "sample"])
def test_a_caption_ends_at_the_text_to_stop_at(captioner: Captioner, embeddings: Any, decode: str) -> None:
    plain = captioner(embeddings, decode=decode)
    stop = plain[0].split()[1]
    stopped = captioner(embeddings, decode=decode, stop=stop)
    assert all(caption.find(stop) in (-1, len(caption) - len(stop)) for caption in stopped)
    if decode != "beam":  # where captions may end decides which of the beams is best
        assert sum(stop in caption for caption in stopped) > 1
        assert stopped == [caption.partition(stop)[0] + stop * (stop in caption) for caption in plain]


def test_a_repetition_penalty_avoids_repeated_tokens(captioner: Captioner, embeddings: Any) -> None:
    def repeats(decode: str, penalty: float, **options: Any) -> int:
        strategy = choose_strategy(decode, DecodeOptions(repetition_penalty=penalty, max_tokens=30, **options))
        captions = strategy.decode(captioner.model, torch.from_numpy(embeddings), captioner.tokenizer)
        return sum(len(tokens) - len(set(tokens)) for (tokens,) in captions)

    assert repeats("sample", 1e4, temperature=3.0) < repeats("sample", 1.0, temperature=3.0) / 2
    assert repeats("greedy", 1e4) == 0
    assert captioner(embeddings, repetition_penalty=1e4) != captioner(embeddings)


def test_the_command_samples_by_seed(run: Any, demo_run: Any) -> None:
    arguments = [demo_run[0] / "cache.h5", "--split", "val", "--model", demo_run[0] / "checkpoints", "--jsonl"]
    arguments += ["--device", "cpu", "--decode", "sample", "-n", 2]
    arguments += ["--temperature", 3, "--top-p", 0.9, "--top-k", 40, "--max-tokens", 6, "--batch-size", 5]
    first = run("caption", *arguments, "--seed", 1)
    assert first.status == 0
    assert run("caption", *arguments, "--seed", 1).out == first.out
    assert run("caption", *arguments, "--seed", 2).out != first.out
