"""The loop: which logits a decoder sees, whatever it does with the rows."""

import random
from collections.abc import Callable

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from clipcap.caption.decoding.loop import Choice, Continuation, TokenDecoder, run_loop
from clipcap.train.mappers import mapper_config
from clipcap.train.mappers.module import Mapper
from clipcap.train.model.captioning import ClipCapModel

VOCABULARY, POSITIONS, PREFIX = 30, 16, 3


class Scripted(TokenDecoder):
    """Appends random tokens to random rows, and keeps the logits that it saw beside the texts that they belong to."""

    def __init__(self, choose_rows: Callable[[int], list[int] | None], steps: int) -> None:
        self.choose_rows, self.steps = choose_rows, steps
        self.seen: list[tuple[int, list[int], torch.Tensor]] = []

    def reset(self, images: torch.Tensor, limit: int) -> None:
        self.images, self.limit = images, limit

    def update(self, tokens: torch.Tensor, logits: torch.Tensor) -> Choice:
        self.seen += zip(self.images.tolist(), tokens.tolist(), logits, strict=True)
        chosen = self.choose_rows(len(tokens))
        rows = None if chosen is None else torch.tensor(chosen)
        self.images = self.images if rows is None else self.images[rows]
        return Choice(torch.randint(VOCABULARY, (len(self.images),)), rows, done=tokens.shape[1] + 1 == self.steps)

    def finalize(self, tokens: torch.Tensor) -> list[list[list[int]]]:
        return [[row] for row in tokens.tolist()]


@pytest.fixture(scope="module")
def model() -> ClipCapModel:
    torch.manual_seed(0)
    config = GPT2Config(n_embd=16, n_layer=2, n_head=2, n_positions=POSITIONS, vocab_size=VOCABULARY, eos_token_id=0)
    mapper = Mapper(mapper_config(kind="mlp", embedding_width=4, lm_width=16, prefix_length=PREFIX))
    return ClipCapModel(mapper, GPT2LMHeadModel(config)).eval().double()


def check_logits(model: ClipCapModel, embedding: torch.Tensor, decoder: Scripted) -> None:
    """Compare the logits that a decoder saw with those of whole texts, read without a cache."""
    for image, tokens, logits in decoder.seen:
        words = model.gpt.transformer.wte(torch.tensor([tokens], dtype=torch.long))
        inputs = torch.cat([model.clip_project(embedding[image : image + 1]), words], dim=1)
        torch.testing.assert_close(logits, model.gpt(inputs_embeds=inputs).logits[0, -1], rtol=0, atol=1e-12)


@torch.no_grad()
@pytest.mark.parametrize("seed", range(10))
def test_rows_that_are_reordered_repeated_and_left_out_keep_their_texts(model: ClipCapModel, seed: int) -> None:
    draw = random.Random(seed)
    torch.manual_seed(seed)
    embedding = torch.randn(3, 4, dtype=torch.double)

    def choose_rows(count: int) -> list[int] | None:
        return draw.choice([None, [draw.randrange(count) for _ in range(draw.randint(1, 6))]])

    prefixes = Continuation(model, embedding)
    for images in ([0, 1, 2], [2, 2, 0, 1, 1]):  # the same prefixes serve both runs
        decoder = Scripted(choose_rows, steps=8)
        texts = run_loop(prefixes, torch.tensor(images), decoder, max_tokens=10)
        assert {len(tokens) for (tokens,) in texts} == {8}
        check_logits(model, embedding, decoder)


@torch.no_grad()
@pytest.mark.parametrize(("max_tokens", "length"), [(1, 1), (5, 5), (100, POSITIONS - PREFIX)])
def test_texts_end_at_the_limit_and_at_the_last_position(model: ClipCapModel, max_tokens: int, length: int) -> None:
    embedding = torch.randn(2, 4, dtype=torch.double)
    decoder = Scripted(lambda _count: None, steps=1000)
    texts = run_loop(Continuation(model, embedding), torch.tensor([0, 1]), decoder, max_tokens)
    assert [len(tokens) for (tokens,) in texts] == [length, length]
    assert decoder.limit == length
    check_logits(model, embedding, decoder)
