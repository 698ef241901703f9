"""The gradient of the token embedding is added to that of the output layer, in the same order in every run."""

from collections.abc import Iterator

import pytest
import torch

from clipcap.train.packed.tied_embedding import SharedGradient, embed

VOCABULARY, WIDTH, TOKENS = 459, 192, 672  # of the demo: many rows go to the same token


@pytest.fixture
def four_threads() -> Iterator[None]:
    """More than one thread, whatever the machine has."""
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)


def gradient(token: torch.Tensor, upstream: torch.Tensor, of_output: torch.Tensor) -> torch.Tensor:
    """Run the backward pass of an embedding after the output layer left its gradient; return the sum of both."""
    weight = torch.zeros(VOCABULARY, WIDTH, requires_grad=True)
    shared = SharedGradient()
    rows = embed(weight, token, shared)
    shared.gradient = of_output.clone()
    total = shared.gradient
    rows.backward(upstream)
    assert weight.grad is None  # nothing is left to add
    return total


def test_rows_of_one_token_are_added_up() -> None:
    token = torch.tensor([7, 9, 7])
    upstream = torch.arange(3.0)[:, None].expand(3, WIDTH) + 1  # rows of 1, 2 and 3
    total = gradient(token, upstream, torch.ones(VOCABULARY, WIDTH))
    assert total[7].unique().tolist() == [1 + 1 + 3]
    assert total[9].unique().tolist() == [1 + 2]
    assert total[8].unique().tolist() == [1]


def test_several_threads_add_in_the_same_order_in_every_run(four_threads: None) -> None:
    random = torch.Generator().manual_seed(0)
    token = torch.randint(VOCABULARY, (TOKENS,), generator=random)
    upstream = torch.randn(TOKENS, WIDTH, generator=random)
    of_output = torch.randn(VOCABULARY, WIDTH, generator=random)
    first = gradient(token, upstream, of_output)
    assert all(torch.equal(gradient(token, upstream, of_output), first) for _ in range(30))
