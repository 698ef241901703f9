"""Decoding against references: transformers' `generate`, its logits processors, and sampling written plainly."""

import hashlib
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoTokenizer,
    GPT2Config,
    GPT2LMHeadModel,
    LogitsProcessorList,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from clipcap.caption.decoding import rules
from clipcap.caption.decoding.base import Strategy
from clipcap.caption.decoding.options import DecodeOptions
from clipcap.caption.decoding.registry import choose_strategy
from clipcap.caption.decoding.sample import drawing_device
from clipcap.train.foreign.jmisilo import JmisiloModel
from clipcap.train.mappers import mapper_config
from clipcap.train.mappers.module import Mapper
from clipcap.train.model.captioning import ClipCapModel

WIDTH = 8
STOPS = [None, None, None, "a", "e", " ", "the", "t a", "on a", "."]


@pytest.fixture(scope="module")
def tokenizer(tokenizer_folder: Path) -> Any:
    return AutoTokenizer.from_pretrained(str(tokenizer_folder))


def random_model(seed: int, end: int, vocabulary: int) -> ClipCapModel:
    """A small GPT-2 with random weights that ends texts now and then."""
    torch.manual_seed(seed)
    scale = random.Random(seed).choice([0.1, 0.3, 0.6])
    sizes: dict[str, Any] = {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 40, "vocab_size": vocabulary}
    lm = GPT2LMHeadModel(GPT2Config(**sizes, bos_token_id=end, eos_token_id=end, initializer_range=scale))
    towards_end = lm.transformer.wte.weight[end].detach()
    lm.transformer.ln_f.bias.data += random.Random(seed).choice([0, 1, 4]) * towards_end / towards_end.norm()
    mapper = Mapper(mapper_config(kind="mlp", embedding_width=WIDTH, lm_width=16, prefix_length=3))
    return ClipCapModel(mapper, lm).eval()


def without_end(rows: list[list[int]], end: int) -> list[list[int]]:
    return [row[: row.index(end)] if end in row else row for row in rows]


@pytest.mark.filterwarnings("ignore:Passing `repetition_penalty` with `inputs_embeds`")
@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_greedy_and_beam_equal_generate(tokenizer: Any, monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype) -> None:
    monkeypatch.setattr(Strategy, "text", lambda _self, tokens, _tokenizer: str(tokens))  # `generate` keeps equal texts
    end, lengths = tokenizer.eos_token_id, set()
    for seed in range(60):
        draw = random.Random(seed)
        model = random_model(seed, end, len(tokenizer)).to(dtype)
        beams, stop, penalty = draw.randint(1, 6), draw.choice(STOPS), draw.choice([1.0, 1.0, 0.7, 1.3, 3.0])
        options = DecodeOptions(
            beams=beams,
            captions=draw.randint(1, beams),
            max_tokens=draw.choice([1, 2, 5, 12, 30, 100]),
            repetition_penalty=penalty,
            length_penalty=draw.choice([1.0, 1.0, 0.0, 0.6, 2.0]),
            stop=stop,
        )
        embedding = 3 * torch.randn(draw.randint(1, 5), WIDTH, dtype=dtype)
        more: dict[str, Any] = {} if penalty == 1 else {"repetition_penalty": penalty}
        more |= {} if stop is None else {"stop_strings": [stop], "tokenizer": tokenizer}
        expected = model.continue_prefix(
            embedding,
            max_new_tokens=options.max_tokens,
            num_beams=beams,
            num_return_sequences=options.captions,
            length_penalty=options.length_penalty,
            **more,
        ).tolist()
        for name in ("beam", "greedy")[: 2 if beams == 1 else 1]:
            found = choose_strategy(name, options).decode(model, embedding, tokenizer)
            flat = without_end([tokens for captions in found for tokens in captions], end)
            assert flat == without_end(expected, end), (seed, options)
            lengths |= {len(tokens) for tokens in flat}
    assert {0, 1, 2, 12, 37} <= lengths  # ended at once, by limits, and by the model's last position


@pytest.mark.parametrize("name", ["greedy", "beam", "sample"])
def test_tokens_end_with_end_of_text_only_where_the_model_ended(tokenizer: Any, name: str) -> None:
    end, ended = tokenizer.eos_token_id, set()
    for seed in range(20):
        model = random_model(seed, end, len(tokenizer))
        options = DecodeOptions(max_tokens=6, stop=random.Random(seed).choice(STOPS))
        for (tokens,) in choose_strategy(name, options).decode(model, 3 * torch.randn(4, WIDTH), tokenizer):
            text = tokenizer.decode(tokens)
            assert end not in tokens[:-1]
            assert len(tokens) == 6 or tokens[-1] == end or str(options.stop) in text
            ended.add((tokens[-1] == end, len(tokens) == 6))
    assert len(ended) > 2, ended


@pytest.mark.parametrize(
    ("system", "name"),
    [
        ("clipcap", "greedy"), ("clipcap", "beam"), ("clipcap", "sample"), ("rmokady", "beam"), ("jmisilo", "greedy"),
    ],
)  # fmt: skip
def test_how_many_images_are_captioned_at_once_changes_no_caption(tokenizer: Any, system: str, name: str) -> None:
    for seed in range(6):
        draw = random.Random(seed)
        stop = draw.choice(STOPS) if system == "clipcap" else "a" if system == "rmokady" else None
        # rmokady's captions end with the stop text, not with end-of-text.
        end = tokenizer.encode(stop)[0] if system == "rmokady" else tokenizer.eos_token_id
        model = random_model(seed, end, len(tokenizer)).double()
        if system == "jmisilo":
            model = JmisiloModel(model.clip_project, model.gpt).eval()
        options = DecodeOptions(
            captions=1 if name == "greedy" else 3,
            max_tokens=draw.choice([3, 12, 100]),
            repetition_penalty=draw.choice([1.0, 1.3]) if system == "clipcap" else 1.0,
            stop=stop,
            temperature=draw.choice([0.5, 2.0]) if name == "sample" else 1.0,
        )
        embedding = 3 * torch.randn(11, WIDTH, dtype=torch.double)
        strategy = choose_strategy(name, options, system)
        found = [strategy.decode(model, embedding, tokenizer, count) for count in (1, 4, 11, 99)]
        assert found[0] == found[1] == found[2] == found[3], (seed, options)
        assert strategy.decode(model, embedding[:0], tokenizer) == []


@pytest.mark.parametrize(
    ("system", "name"), [("clipcap", "greedy"), ("clipcap", "beam"), ("clipcap", "sample"), ("rmokady", "beam")]
)
def test_a_step_in_which_all_images_stay_makes_no_tensor_of_a_list(
    tokenizer: Any, monkeypatch: pytest.MonkeyPatch, system: str, name: str
) -> None:
    # A GPU would copy it from the CPU, which waits for all that the GPU has been given to do.
    model = random_model(0, tokenizer.eos_token_id, len(tokenizer))
    model.gpt.transformer.ln_f.bias.data -= 30 * model.gpt.transformer.wte.weight[model.end].detach()
    embedding, make, made = torch.randn(4, WIDTH), torch.tensor, []

    def counted(*given: Any, **more: Any) -> torch.Tensor:
        made.append(given)
        return make(*given, **more)

    monkeypatch.setattr(torch, "tensor", counted)
    counts = set()
    for limit in (2, 20):
        options = DecodeOptions(max_tokens=limit, repetition_penalty=1.3 if system == "clipcap" else 1.0)
        made.clear()
        captions = choose_strategy(name, options, system).decode(model, embedding, tokenizer)
        counts.add(len(made))
        assert [len(row) for (row,) in captions] == [limit] * 4
    assert len(counts) == 1


def test_tokens_are_drawn_on_a_device_that_has_float64() -> None:
    assert drawing_device(torch.device("mps")) == torch.device("cpu")
    assert drawing_device(torch.device("cuda:1")) == torch.device("cuda:1")


def test_a_nucleus_larger_than_what_is_sorted_is_kept_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rules, "_SORTED", 5)
    logits = torch.arange(50.0).double() * torch.tensor([[0.001], [1.0]])  # nearly even odds, and far from it
    for share in (0.05, 0.3, 0.9):
        expected = TopPLogitsWarper(share)(torch.empty(2, 0, dtype=torch.long), logits)
        assert torch.equal(rules.keep_nucleus(logits, share), expected)


def test_what_is_no_token_is_not_penalized() -> None:
    logits = torch.randn(2, 9, dtype=torch.double)
    padded = torch.tensor([[-1, -1, 4], [0, 8, 8]])
    found = rules.penalize_repetition(logits, padded, 2.0)
    alone = RepetitionPenaltyLogitsProcessor(2.0)(torch.tensor([[4]]), logits[:1])
    assert torch.equal(found[:1], alone)
    assert torch.equal(found[1:], RepetitionPenaltyLogitsProcessor(2.0)(padded[1:], logits[1:]))


@pytest.mark.parametrize("seed", range(5))
def test_rules_equal_those_of_transformers(seed: int) -> None:
    torch.manual_seed(seed)
    logits, tokens = 4 * torch.randn(6, 50, dtype=torch.double), torch.randint(50, (6, 9))
    for penalty in (0.5, 1.2, 3.0):
        expected = RepetitionPenaltyLogitsProcessor(penalty)(tokens, logits)
        torch.testing.assert_close(rules.penalize_repetition(logits, tokens, penalty), expected, rtol=0, atol=0)
    for count in (1, 7, 50, 60):
        expected = TopKLogitsWarper(count)(tokens, logits)
        assert torch.equal(rules.keep_likeliest(logits, count), expected)
    for share in (1e-9, 0.3, 0.9, 0.999):
        expected = TopPLogitsWarper(share)(tokens, logits)
        assert torch.equal(rules.keep_nucleus(logits, share), expected)
    assert rules.keep_likeliest(logits, 0) is rules.keep_nucleus(logits, 1.0) is logits
    assert rules.penalize_repetition(logits, tokens, 1.0) is logits
    assert rules.penalize_repetition(logits, tokens[:, :0], 2.0) is logits


def plain_sample(
    model: ClipCapModel, embedding: torch.Tensor, tokenizer: Any, options: DecodeOptions, stream: str
) -> tuple[float, list[int]]:
    """One sample written plainly: no cache, no batch, transformers' processors, the whole text decoded each time."""
    shape = LogitsProcessorList()
    if options.temperature != 1:
        shape.append(TemperatureLogitsWarper(options.temperature))
    if options.top_k:
        shape.append(TopKLogitsWarper(options.top_k))
    if options.top_p < 1:
        shape.append(TopPLogitsWarper(options.top_p))
    digest = hashlib.sha256(f"{options.seed} {stream}".encode() + embedding.float().numpy().tobytes()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
    limit = min(options.max_tokens or 67, 40 - 3)
    prefix, tokens, total = model.clip_project(embedding[None]), torch.empty(1, 0, dtype=torch.long), 0.0
    for uniform in torch.rand(limit, dtype=torch.double, generator=generator):
        words = model.gpt.transformer.wte(tokens)
        logits = model.gpt(inputs_embeds=torch.cat([prefix, words], dim=1)).logits[:, -1].double()
        shaped = logits
        if options.repetition_penalty != 1 and tokens.shape[1]:
            shaped = RepetitionPenaltyLogitsProcessor(options.repetition_penalty)(tokens, shaped)
        running = shape(tokens, shaped).softmax(dim=-1)[0].cumsum(dim=0)  # type: ignore[arg-type]
        token = int((running <= uniform * running[-1]).sum())
        total += float(logits[0].log_softmax(dim=0)[token])
        tokens = torch.cat([tokens, torch.tensor([[token]])], dim=1)
        stopped = options.stop is not None and options.stop in tokenizer.decode(tokens[0])
        if token == model.end or stopped:
            break
    return total / tokens.shape[1], tokens[0].tolist()


@pytest.mark.slow
def test_sampling_equals_the_plain_algorithm(tokenizer: Any) -> None:
    for seed in range(25):
        draw = random.Random(seed)
        model = random_model(seed, tokenizer.eos_token_id, len(tokenizer)).double()
        options = DecodeOptions(
            captions=draw.choice([1, 3]),
            max_tokens=draw.choice([2, 12, 100]),
            repetition_penalty=draw.choice([1.0, 1.3]),
            stop=draw.choice(STOPS),
            temperature=draw.choice([0.5, 1.0, 2.0]),
            top_p=draw.choice([0.6, 1.0]),
            top_k=draw.choice([0, 1, 5]),
            seed=seed,
        )
        strategy = choose_strategy("sample", options)
        embedding = 3 * torch.randn(3, WIDTH, dtype=torch.double)
        expected = []
        with torch.no_grad():
            for row in embedding:
                found: dict[str, tuple[float, list[int]]] = {}
                for trial in range(10 if options.captions > 1 else 1):
                    for number in range(options.captions - len(found)):
                        mean, tokens = plain_sample(model, row, tokenizer, options, f"{trial} {number}")
                        found.setdefault(strategy.text(tokens, tokenizer), (mean, tokens))
                expected.append([tokens for _, tokens in sorted(found.values(), key=lambda pair: -pair[0])])
        assert strategy.decode(model, embedding, tokenizer) == expected, (seed, options)
