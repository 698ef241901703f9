"""The loop: which logits a decoder sees, whatever it does with the rows, and whenever images come and go."""

import copy
import random
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from clipcap.caption.decoding.loop import Choice, TokenDecoder, run_loop
from clipcap.caption.decoding.reader import Reader
from clipcap.data.pretrained.device import autocast
from clipcap.train.mappers import mapper_config
from clipcap.train.mappers.module import Mapper
from clipcap.train.model.captioning import ClipCapModel

VOCABULARY, POSITIONS, PREFIX = 30, 16, 3


class Scripted(TokenDecoder):
    """Appends random tokens to random rows of each image, and keeps the logits that it saw beside their texts.

    Args:
        rows_per_image: k.
        length: how many tokens the captions of an image get.
        draw: what is random; without it the rows stay as they are.
    """

    def __init__(self, rows_per_image: int, length: Callable[[int], int], draw: random.Random | None = None) -> None:
        self.rows_per_image, self.length, self.draw = rows_per_image, length, draw
        self.seen: list[tuple[int, list[int], torch.Tensor]] = []
        self.texts: list[tuple[int, list[list[int]]]] = []
        self.most = 0

    def reset(self, device: torch.device, limit: int) -> None:
        self.images: list[int] = []
        self.limit = limit

    def add(self, images: Sequence[int]) -> None:
        self.images += images

    def update(self, tokens: torch.Tensor, ages: Sequence[int], logits: torch.Tensor) -> Choice:
        k = self.rows_per_image
        self.most = max(self.most, len(ages))
        assert len(tokens) == len(logits) == k * len(ages) == k * len(self.images)
        assert tokens.shape[1] == max(ages)  # no column without a token
        texts = [row[len(row) - ages[i // k] :] for i, row in enumerate(tokens.tolist())]
        assert all(
            token == Reader.PAD for i, row in enumerate(tokens.tolist()) for token in row[: -len(texts[i]) or None]
        )
        self.seen += zip([self.images[i // k] for i in range(len(texts))], texts, logits, strict=True)
        within = [[i * k + (self.draw.randrange(k) if self.draw else j) for j in range(k)] for i in range(len(ages))]
        chosen = torch.randint(VOCABULARY, (len(ages), k))
        stay = [i for i, age in enumerate(ages) if age + 1 < min(self.limit, self.length(self.images[i]))]
        for i in sorted({*range(len(ages))} - {*stay}):
            self.texts.append((self.images[i], [texts[row] + [int(chosen[i, j])] for j, row in enumerate(within[i])]))
        self.images = [self.images[i] for i in stay]
        rows = torch.tensor([within[i] for i in stay], dtype=torch.long).flatten()
        everything_stays = len(stay) == len(ages)
        as_they_are = self.draw is None
        return Choice(
            chosen[stay].flatten(),
            None if as_they_are else rows,
            None if everything_stays else stay,
        )


@pytest.fixture(scope="module")
def model() -> ClipCapModel:
    torch.manual_seed(0)
    config = GPT2Config(n_embd=16, n_layer=2, n_head=2, n_positions=POSITIONS, vocab_size=VOCABULARY, eos_token_id=0)
    mapper = Mapper(mapper_config(kind="mlp", embedding_width=4, lm_width=16, prefix_length=PREFIX))
    return ClipCapModel(mapper, GPT2LMHeadModel(config)).eval().double()


def check_logits(model: ClipCapModel, embedding: torch.Tensor, decoder: Scripted, tolerance: float = 1e-12) -> None:
    """Compare the logits that a decoder saw with those of whole texts, read by transformers without a cache."""
    for image, tokens, logits in decoder.seen:
        words = model.gpt.transformer.wte(torch.tensor([tokens], dtype=torch.long))
        inputs = torch.cat([model.clip_project(embedding[image : image + 1]), words], dim=1)
        expected = model.gpt(inputs_embeds=inputs).logits[0, -1]
        torch.testing.assert_close(logits.to(expected.dtype), expected, rtol=0, atol=tolerance)


@torch.no_grad()
@pytest.mark.parametrize("seed", range(12))
def test_images_that_come_and_go_and_rows_that_change_places_keep_their_texts(model: ClipCapModel, seed: int) -> None:
    draw = random.Random(seed)
    torch.manual_seed(seed)
    embedding = torch.randn(9, 4, dtype=torch.double)
    lengths = [draw.randint(1, 12) for _ in embedding]
    decoder = Scripted(draw.randint(1, 3), lengths.__getitem__, draw if seed % 3 else None)
    images, at_once = [draw.randrange(9) for _ in range(draw.randint(1, 20))], draw.randint(1, 8)
    run_loop(Reader(model, decoder.rows_per_image), embedding, images, decoder, 10, at_once)
    assert sorted(image for image, _ in decoder.texts) == sorted(images)
    assert {(image, len(row)) for image, rows in decoder.texts for row in rows} == {
        (image, min(10, lengths[image])) for image in images
    }
    assert decoder.most == min(at_once, len(images))
    assert {(image, tuple(row[:-1])) for image, rows in decoder.texts for row in rows} <= {
        (image, tuple(tokens)) for image, tokens, _ in decoder.seen
    }
    check_logits(model, embedding, decoder)


@torch.no_grad()
@pytest.mark.parametrize(("max_tokens", "length"), [(1, 1), (5, 5), (100, POSITIONS - PREFIX)])
def test_texts_end_at_the_limit_and_at_the_last_position(model: ClipCapModel, max_tokens: int, length: int) -> None:
    embedding = torch.randn(2, 4, dtype=torch.double)
    decoder = Scripted(1, lambda _image: 1000)
    run_loop(Reader(model, 1), embedding, [0, 1], decoder, max_tokens, at_once=2)
    assert [len(row) for _, (row,) in decoder.texts] == [length, length]
    assert decoder.limit == length
    check_logits(model, embedding, decoder)


@torch.no_grad()
@pytest.mark.parametrize(
    "options",
    [{"scale_attn_weights": False}, {"scale_attn_by_inverse_layer_idx": True}, {"activation_function": "relu"}],
)
def test_the_options_of_a_config_are_followed(options: dict[str, object]) -> None:
    torch.manual_seed(1)
    sizes = {"n_embd": 16, "n_layer": 3, "n_head": 2, "n_positions": POSITIONS, "vocab_size": VOCABULARY}
    lm = GPT2LMHeadModel(GPT2Config(**sizes, eos_token_id=0, initializer_range=0.5, **options))  # type: ignore[arg-type]
    mapper = Mapper(mapper_config(kind="mlp", embedding_width=4, lm_width=16, prefix_length=PREFIX))
    model = ClipCapModel(mapper, lm).eval().double()
    embedding = torch.randn(3, 4, dtype=torch.double)
    decoder = Scripted(2, lambda image: 3 + image, random.Random(0))
    run_loop(Reader(model, 2), embedding, [0, 1, 2], decoder, 10, at_once=2)
    check_logits(model, embedding, decoder)


@torch.no_grad()
@pytest.mark.parametrize(("precision", "tolerance"), [("bf16", 0.05), ("fp16", 0.005)])
def test_logits_in_half_precision_are_near_those_in_float32(
    model: ClipCapModel, precision: str, tolerance: float
) -> None:
    single = copy.deepcopy(model).float()
    embedding = torch.randn(5, 4)
    decoder = Scripted(2, lambda image: 3 + image, random.Random(0))
    with autocast(torch.device("cpu"), precision):
        run_loop(Reader(single, 2), embedding, range(5), decoder, 10, at_once=3)
    check_logits(single, embedding, decoder, tolerance)


@torch.no_grad()
def test_large_products_of_queries_and_keys_do_not_overflow_in_fp16() -> None:
    torch.manual_seed(0)
    sizes: dict[str, Any] = {
        "n_embd": 256,
        "n_layer": 1,
        "n_head": 1,
        "n_positions": POSITIONS,
        "vocab_size": VOCABULARY,
    }
    lm = GPT2LMHeadModel(GPT2Config(**sizes, eos_token_id=0))
    attention: Any = lm.transformer.h[0].attn
    attention.c_attn.weight.data.zero_()
    attention.c_attn.bias.data[:512] = 30  # every product is 256 * 30 * 30, which divided by 16 is within fp16
    mapper = Mapper(mapper_config(kind="mlp", embedding_width=4, lm_width=256, prefix_length=PREFIX))
    half, embedding = ClipCapModel(mapper, lm).eval().half(), torch.randn(2, 4).half()
    decoder = Scripted(2, lambda image: 3 + image, random.Random(0))
    run_loop(Reader(half, 2), embedding, range(2), decoder, 10, at_once=2)
    assert all(logits.isfinite().all() for _, _, logits in decoder.seen)
