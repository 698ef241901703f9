"""Decoding: sampling that obeys the probabilities, by seed and picture alone, and what all strategies share."""

from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from transformers import GenerationConfig

from clipcap.caption import Captioner
from clipcap.caption.decoding.strategies import DecodeOptions, Sample, choose_strategy
from clipcap.data.cache.index import Cache
from clipcap.data.demo import dataset
from clipcap.data.demo.judge import judge
from clipcap.data.errors import UsageError
from clipcap.data.records import SPLITS
from small_world import DEMO_IMAGES


@pytest.fixture(scope="module")
def captioner(demo_run: Any) -> Captioner:
    return Captioner.from_checkpoint(demo_run[0] / "checkpoints", device="cpu")


@pytest.fixture(scope="module")
def embeddings(demo_run: Any) -> "np.ndarray[Any, Any]":
    """Of 17 scenes that were held out."""
    (tables,) = Cache.open(demo_run[0] / "cache.h5").tables()
    rows: np.ndarray[Any, Any] = tables.embedding[tables.split == SPLITS.index("val")][:17].astype(np.float32)
    return rows


def test_a_sample_depends_on_seed_and_picture_alone(captioner: Captioner, embeddings: Any) -> None:
    options: dict[str, Any] = {"decode": "sample", "n": 3, "temperature": 3.0, "max_tokens": 8}
    together = captioner(embeddings, seed=4, **options)
    assert captioner(embeddings, seed=4, **options) == together
    assert [captioner(row, seed=4, **options) for row in embeddings] == together
    assert captioner(embeddings[::-1].copy(), seed=4, **options) == together[::-1]
    assert captioner(embeddings, seed=5, **options) != together


def test_samples_are_distinct_and_best_first(captioner: Captioner, embeddings: Any) -> None:
    said = captioner(embeddings, decode="sample", n=5, temperature=3.0, max_tokens=8)
    assert all(len(set(captions)) == len(captions) == 5 for captions in said)
    strategy = Sample(DecodeOptions(captions=4, temperature=3.0, max_tokens=8))
    rows = torch.from_numpy(embeddings[:3])
    with torch.inference_mode():
        tokens = strategy.decode(captioner.model, rows, captioner.tokenizer)
    for row, captions in zip(rows, tokens, strict=True):
        means = []
        for caption in captions:
            batch = (row[None], torch.tensor([caption]), torch.tensor([len(caption)]))
            means.append(captioner.model.token_losses(*batch).mean().item())
        assert means == sorted(means)


def first_tokens(captioner: Captioner, embedding: torch.Tensor, count: int, **options: Any) -> Counter[int]:
    """How often each token begins a caption, in many samples of one picture."""
    found: Counter[int] = Counter()
    for seed in range(count // 50):
        strategy = Sample(DecodeOptions(max_tokens=1, seed=seed, **options))
        with torch.inference_mode():
            streams = [f"{seed} {number}" for number in range(50)]
            sampled = strategy._sample(captioner.model, embedding.expand(50, -1), streams, captioner.tokenizer)
        found.update(tokens[0] for tokens, _ in sampled)
    return found


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
    # The nucleus: as few of the likeliest tokens as make up the share.
    nucleus = int((expected[likeliest].cumsum(0) < 0.5).sum()) + 1
    assert set(first_tokens(captioner, row, 2000, temperature=4.0, top_p=0.5)) == set(likeliest[:nucleus])


def test_the_narrowest_sampling_is_greedy(captioner: Captioner, embeddings: Any) -> None:
    greedy = captioner(embeddings)
    assert captioner(embeddings, decode="sample", top_k=1) == greedy
    assert captioner(embeddings, decode="sample", temperature=1e-4) == greedy
    # There is nothing else to say: one caption, not the same one three times.
    assert captioner(embeddings, decode="sample", top_k=1, n=3) == [[caption] for caption in greedy]


def test_greedy_and_beam_are_transformers_own(captioner: Captioner, embeddings: Any) -> None:
    end = captioner.tokenizer.eos_token_id
    prefix = captioner.model.clip_project(torch.from_numpy(embeddings))
    for beams in (1, 5):
        config = GenerationConfig(
            max_new_tokens=15, num_beams=beams, do_sample=False, eos_token_id=end, pad_token_id=end
        )
        mask = torch.ones(prefix.shape[:2], dtype=torch.long)
        tokens: Any = captioner.model.gpt.generate(  # type: ignore[misc]
            inputs_embeds=prefix, attention_mask=mask, generation_config=config
        )
        theirs = [text.strip() for text in captioner.tokenizer.batch_decode(tokens, skip_special_tokens=True)]
        assert captioner(embeddings, decode="beam" if beams > 1 else "greedy", max_tokens=15) == theirs


def test_captions_that_are_the_same_words_are_one(
    captioner: Captioner, embeddings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    beams = captioner(embeddings[0], decode="beam", beams=5, n=5)
    assert len(set(beams)) == 5
    text = type(choose_strategy("beam"))._text

    def colourless(self: Any, tokens: list[int], tokenizer: Any) -> str:
        return " ".join(text(self, tokens, tokenizer).split()[:3])

    monkeypatch.setattr("clipcap.caption.decoding.strategies.Strategy._text", colourless)
    found = captioner(embeddings[0], decode="beam", beams=5, n=5)
    assert found == list(dict.fromkeys(" ".join(caption.split()[:3]) for caption in beams))
    found = captioner(embeddings[0], decode="sample", n=4)
    assert len(set(found)) == len(found)


def test_what_is_said_is_as_true_by_beam_as_by_greedy(captioner: Captioner, demo_run: Any) -> None:
    (tables,) = Cache.open(demo_run[0] / "cache.h5").tables()
    rows = tables.embedding[tables.split == SPLITS.index("val")]
    truth = [dataset.make_scene(number) for number in dataset.held_out(DEMO_IMAGES)]

    def true(captions: list[str]) -> int:
        """Attributes that are right, over all captions."""
        return sum(sum(judge(caption, scene).values()) for caption, scene in zip(captions, truth, strict=True))

    greedy = true(captioner(rows))
    assert greedy > 0.5 * 6 * len(rows)  # of six attributes
    for beams in (2, 5):
        assert true(captioner(rows, decode="beam", beams=beams)) > greedy - 0.05 * 6 * len(rows)
    assert true(captioner(np.roll(rows, 1, axis=0))) < greedy - 0.2 * 6 * len(rows)


@pytest.mark.parametrize("decode", ["greedy", "beam", "sample"])
def test_a_caption_ends_at_the_text_to_stop_at(captioner: Captioner, embeddings: Any, decode: str) -> None:
    plain = captioner(embeddings, decode=decode)
    stop = plain[0].split()[1]
    stopped = captioner(embeddings, decode=decode, stop=stop)
    assert all(caption.find(stop) in (-1, len(caption) - len(stop)) for caption in stopped)
    if decode != "beam":  # where captions may end decides which of its beams is best
        assert sum(stop in caption for caption in stopped) > 1
        assert stopped == [caption.partition(stop)[0] + stop * (stop in caption) for caption in plain]


def test_a_penalty_keeps_it_from_saying_the_same_again(captioner: Captioner, embeddings: Any) -> None:
    def repeats(decode: str, penalty: float, **options: Any) -> int:
        strategy = choose_strategy(decode, DecodeOptions(repetition_penalty=penalty, max_tokens=30, **options))
        with torch.inference_mode():
            said = strategy.decode(captioner.model, torch.from_numpy(embeddings), captioner.tokenizer)
        return sum(len(tokens) - len(set(tokens)) for (tokens,) in said)

    assert repeats("sample", 1e4, temperature=3.0) < repeats("sample", 1.0, temperature=3.0) / 2
    assert repeats("greedy", 1e4) == 0
    assert captioner(embeddings, repetition_penalty=1e4) != captioner(embeddings)


@pytest.mark.parametrize(
    ("options", "fact"),
    [
        ({"top_p": 1.5}, "--top-p must be at most 1, not 1.5"),
        ({"top_p": 0.0}, "--top-p must be a number above 0, not 0.0"),
        ({"temperature": -1.0}, "--temperature must be a number above 0, not -1.0"),
        ({"temperature": float("nan")}, "--temperature must be a number above 0, not nan"),
        ({"repetition_penalty": 0.0}, "--repetition-penalty must be a number above 0, not 0.0"),
        ({"top_k": -1}, "--top-k must be at least 0, not -1"),
        ({"captions": 0}, "-n must be at least 1, not 0"),
        ({"stop": ""}, "--stop is empty"),
    ],
)
def test_options_that_cannot_be(options: dict[str, Any], fact: str) -> None:
    with pytest.raises(UsageError) as caught:
        choose_strategy("sample", DecodeOptions(**options))
    assert fact in str(caught.value)


def test_the_command_line_samples(run: Any, demo_run: Any) -> None:
    arguments = [demo_run[0] / "cache.h5", "--split", "val", "--model", demo_run[0] / "checkpoints", "--jsonl"]
    arguments += ["--device", "cpu", "--decode", "sample", "-n", 2]
    arguments += ["--temperature", 3, "--top-p", 0.9, "--top-k", 40, "--max-tokens", 6, "--batch-size", 5]
    first = run("caption", *arguments, "--seed", 1)
    assert first.status == 0
    assert run("caption", *arguments, "--seed", 1).out == first.out
    assert run("caption", *arguments, "--seed", 2).out != first.out
