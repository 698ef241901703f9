"""The packed loss and each of its gradients equal those of the plain loss, whichever parts are trained."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from clipcap.train.corpus.captions import Corpus
from clipcap.train.corpus.sampler import epoch_batches
from clipcap.train.mappers import MAPPERS
from clipcap.train.model.captioning import ClipCapModel, train_mode
from clipcap.train.model.tuning import tune
from clipcap.train.packed import attention, cross_entropy
from clipcap.train.packed.cross_entropy import linear_cross_entropy
from clipcap.train.packed.dropout import dropout
from clipcap.train.packed.layout import CELL_MULTIPLE, PACK_CAPTIONS, ROW_MULTIPLE, pack
from clipcap.train.packed.loss import PackedLoss
from plain import PREFIX, make_corpus, make_model, plain_batch, plain_loss, read_back

TUNINGS = ["all", "none", "first+last", "last:1", "from:2"]
BOUNDS = {torch.float32: 1e-5, torch.float64: 1e-10}


def gradients(model: ClipCapModel, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    model.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def assert_same(
    model: ClipCapModel,
    corpus: Corpus,
    dtype: torch.dtype,
    smoothing: float = 0.0,
    captions: NDArray[np.int64] | None = None,
) -> None:
    """Compare loss and every gradient of a batch; by default of all captions, in an order that mixes images."""
    train_mode(model)
    if captions is None:
        captions = np.random.default_rng(0).permutation(len(corpus))
    scale = 1 / int(corpus.length[captions].sum())
    packed = PackedLoss(model, smoothing)(corpus.packed(captions, PREFIX), scale)
    found = gradients(model, packed)
    plain = plain_loss(model, plain_batch(corpus, captions), smoothing) * scale
    expected = gradients(model, plain)
    assert packed.dtype == dtype
    assert abs(packed.item() - plain.item()) <= BOUNDS[dtype] * abs(plain.item())
    assert set(found) == set(expected) == {name for name, p in model.named_parameters() if p.requires_grad}
    for name, gradient in expected.items():
        error = (found[name] - gradient).norm() / gradient.norm()
        assert error <= BOUNDS[dtype], f"{name}: {error}"


@pytest.mark.parametrize("dtype", BOUNDS, ids=str)
@pytest.mark.parametrize("tuning", TUNINGS)
@pytest.mark.parametrize("kind", MAPPERS)
def test_packed_loss_and_gradients_equal_the_plain_ones(kind: str, tuning: str, dtype: torch.dtype) -> None:
    model = make_model(kind, dtype)
    tune(model, tuning)
    assert_same(model, make_corpus(dtype), dtype)


@pytest.mark.parametrize("dtype", BOUNDS, ids=str)
def test_patches_label_smoothing_and_small_chunks_give_the_plain_loss(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert_same(make_model("transformer", dtype, patches=4), make_corpus(dtype, (4, 24)), dtype)
    assert_same(make_model("mlp", dtype), make_corpus(dtype), dtype, smoothing=0.3)
    monkeypatch.setattr(cross_entropy, "CHUNK_ROWS", {"cpu": 37})
    monkeypatch.setattr(cross_entropy, "SOFTMAX_ROWS", 5)
    monkeypatch.setattr(cross_entropy, "VOCABULARY_CHUNK", 50)
    assert_same(make_model("mlp", dtype), make_corpus(dtype), dtype)
    assert_same(make_model("mlp", dtype), make_corpus(dtype), dtype, smoothing=0.3)


@pytest.mark.parametrize("manual", [True, False])
def test_batches_without_padding_give_the_plain_loss(manual: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Empty cells then hold copies of a real row."""
    monkeypatch.setattr(attention, "uses_manual_attention", lambda device: manual)
    corpus, model = make_corpus(torch.float64), make_model("mlp", torch.float64)
    random = np.random.default_rng(0)
    batches = (random.permutation(len(corpus))[: random.integers(1, len(corpus))] for _ in range(400))
    full = [b for b in batches if _real_rows(corpus, b) % ROW_MULTIPLE == 0]
    assert len(full) > 3
    for captions in full:
        assert_same(model, corpus, torch.float64, captions=captions)


def _real_rows(corpus: Corpus, captions: NDArray[np.int64]) -> int:
    batch = corpus.packed(captions, PREFIX)
    return len(batch.embedding) * PREFIX + len(batch.input_token)


@pytest.mark.parametrize(
    "options",
    [{"activation_function": "relu"}, {"scale_attn_by_inverse_layer_idx": True}, {"scale_attn_weights": False},
     {"n_inner": 48}, {"layer_norm_epsilon": 0.01}],
    ids=str,
)  # fmt: skip
def test_variants_of_gpt2_give_the_plain_loss(options: dict[str, Any]) -> None:
    assert_same(make_model("mlp", torch.float64, **options), make_corpus(torch.float64), torch.float64)


def test_attention_of_torch_gives_the_plain_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    """GPUs use it."""
    monkeypatch.setattr(attention, "uses_manual_attention", lambda device: False)
    for dtype in BOUNDS:
        assert_same(make_model("mlp", dtype), make_corpus(dtype), dtype)


@pytest.mark.slow
def test_attention_with_dropout_has_the_right_gradient_and_mean() -> None:
    corpus = make_corpus(torch.float64)
    packing = corpus.packed(np.array([0, 1, 2, 3]), PREFIX)
    rows, heads, width = len(packing.position), 2, 3
    cells = attention.lay_out(packing.row_of_cell, packing.cell_of_row, packing.branch_end, heads, torch.float64)
    last = packing.predicting_row[: int(packing.predicting_row.ne(rows - 1).sum())]

    def attended(projected: torch.Tensor) -> torch.Tensor:
        torch.manual_seed(0)
        return attention.attend(projected, cells, scaling=0.7, p=0.4)[last]

    projected = torch.randn(rows, 3 * heads * width, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(attended, projected)
    everything = attention.attend(projected, cells, scaling=0.7, p=0.0)[last]
    drawn = torch.stack([attention.attend(projected, cells, 0.7, 0.4)[last] for _ in range(3000)])
    assert (drawn.mean(dim=0) - everything).abs().max() < 5 * drawn.std(dim=0).max() / 3000**0.5


def test_a_wrong_layout_changes_the_loss() -> None:
    """The comparison notices a position that is off by one, and a caption that sees another."""
    corpus, model = make_corpus(torch.float64), make_model("mlp", torch.float64)
    captions = np.arange(len(corpus))
    batch = corpus.packed(captions, PREFIX)
    right = plain_loss(model, plain_batch(corpus, captions)).item()
    assert PackedLoss(model)(batch).item() == pytest.approx(right, rel=1e-10)
    full = torch.maximum(batch.branch_end, batch.branch_end[:, :1])
    for name, wrong in (("position", batch.position + 1), ("branch_end", full)):
        changed = type(batch)(**{**vars(batch), name: wrong})
        loss = PackedLoss(model)(changed)
        assert loss.isfinite() and loss.item() != pytest.approx(right, rel=1e-6)


def packings() -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Images and tokens: with a vocabulary of three, so that many captions have common beginnings, and with a large
    one.
    """
    random = np.random.default_rng(0)
    yield np.array([3]), np.array([[7]])
    for vocabulary in [3, 50000] * 10:
        count = int(random.integers(1, 200))
        length = random.integers(1, 40, count)
        token = random.integers(0, vocabulary, (count, length.max()))
        yield (
            random.integers(0, random.choice([3, 30]), count),
            np.where(np.arange(length.max()) < length[:, None], token, -1),
        )


def test_the_example_in_the_docstring_is_what_pack_returns() -> None:
    a, dog, runs, sleeps, two, cats, end = range(7)
    token = np.array([[a, dog, runs, end], [a, dog, sleeps, end], [two, cats, end, -1]])
    found = pack(np.array([0, 0, 1]), token, prefix_length=2)
    assert found.first_caption.tolist() == [0, 2]
    assert found.input_token.tolist() == [a, dog, runs, sleeps, two, cats]
    assert (len(found.position), found.branch_end.shape) == (32, (2, 16))
    assert found.position.tolist()[:11] == [0, 1, 0, 1, 2, 3, 4, 4, 2, 3, 0]
    predicts = {1: [a, a], 3: [two], 4: [dog, dog], 5: [runs, sleeps], 6: [end], 7: [end], 8: [cats], 9: [end]}
    rows = found.predicting_row[found.target_row].tolist()
    assert {row: [t for r, t in zip(rows, found.target.tolist(), strict=True) if r == row] for row in rows} == predicts
    assert found.row_of_cell[:6].tolist() == [0, 1, 4, 5, 6, 7]
    assert found.row_of_cell[16:20].tolist() == [2, 3, 8, 9]
    assert found.branch_end[0].tolist() == [6, 6, 6, 6, 5, *range(6, 17)]
    assert found.branch_end[1].tolist() == [4, 4, 4, 4, *range(5, 17)]
    seen = [[c for c in range(6) if c <= cell < found.branch_end[0, c]] for cell in range(2, 6)]
    assert seen == [[0, 1, 2], [0, 1, 2, 3], [0, 1, 2, 3, 4], [0, 1, 2, 3, 5]]


def test_an_image_with_more_than_16_captions_in_a_batch_is_several_packs() -> None:
    image, token = np.zeros(33, np.int64), np.arange(33)[:, None]
    packs = [len(pack(image[:count], token[:count], PREFIX).first_caption) for count in (16, 17, 32, 33)]
    assert packs == [1, 2, 2, 3]


def test_the_longest_pack_has_one_empty_cell_after_it_and_no_more_than_fill_up_to_16() -> None:
    shapes = [pack(np.array([0]), np.arange(length)[None], 2).branch_end.shape for length in (14, 15)]
    assert shapes == [(1, 16), (1, 32)]  # 2 + 13 cells and an empty one, 2 + 14 cells and an empty one


def test_rows_and_cells_are_inverse_to_each_other() -> None:
    for image, token in packings():
        found = pack(image, token, PREFIX)
        rows, packs, cells = len(found.position), *found.branch_end.shape
        assert rows % ROW_MULTIPLE == cells % CELL_MULTIPLE == len(found.predicting_row) % ROW_MULTIPLE == 0
        real = np.arange(packs * PREFIX + len(found.input_token))
        assert len(real) <= rows < len(real) + ROW_MULTIPLE
        assert (found.row_of_cell[found.cell_of_row[real]] == real).all()
        full = found.cell_of_row[real]
        empty = np.setdiff1d(np.arange(packs * cells), full)
        assert len(np.unique(full)) == len(real) < packs * cells
        assert (found.row_of_cell[empty] == rows - 1).all()
        # An empty cell sees only itself; padding is in empty cells only.
        column = np.tile(np.arange(cells), packs)
        assert (found.branch_end.ravel()[empty] == column[empty] + 1).all()
        assert (found.cell_of_row[len(real) :] == packs * cells - 1).all()
        assert (found.predicting_row[packs + len(found.input_token) :] == rows - 1).all()
        assert (np.diff(found.target_row) >= 0).all()
        assert packs == sum(-(-n // PACK_CAPTIONS) for n in np.bincount(image))


def test_each_target_is_predicted_from_its_own_caption_and_no_token_is_read_twice() -> None:
    for image, token in packings():
        captions = [(int(i), [int(t) for t in row if t >= 0]) for i, row in zip(image, token, strict=True)]
        found = pack(image, token, PREFIX)
        targets = read_back(found, PREFIX)
        assert sorted((int(image[found.first_caption[number]]), seen) for number, seen in targets) == sorted(
            (i, caption[: n + 1]) for i, caption in captions for n in range(len(caption))
        )
        read = {(number, *seen[:-1]) for number, seen in targets if len(seen) > 1}
        assert len(read) == len(found.input_token)


def test_padding_is_below_3_percent_and_shapes_are_few() -> None:
    """Captions are as long as COCO's, five or six an image, 40 in a batch."""
    random = np.random.default_rng(0)
    image = np.repeat(np.arange(800), random.choice([5, 6], 800, p=[0.98, 0.02]))
    length = random.normal(12.9, 2.5, len(image)).round().clip(8, 40).astype(np.int64)
    token = np.where(np.arange(40) < length[:, None], random.integers(0, 50257, (len(image), 40)), -1)
    batches = epoch_batches(image, 40, sampling="image", seed=0, epoch=0)[:-1]
    found = [pack(image[batch], token[batch], 10) for batch in batches]
    rows = [len(packing.position) for packing in found]
    real = sum(len(packing.first_caption) * 10 + len(packing.input_token) for packing in found)
    assert 1 - real / sum(rows) < 0.03
    assert len(set(rows)) <= 6
    assert len({(len(packing.position), packing.branch_end.shape) for packing in found}) <= 18


def test_the_loss_of_a_batch_is_the_sum_of_its_captions_alone() -> None:
    corpus, model = make_corpus(torch.float64), make_model("mlp", torch.float64)
    captions = np.arange(len(corpus))
    alone = [PackedLoss(model)(corpus.packed(np.array([c]), PREFIX)).item() for c in captions]
    assert PackedLoss(model)(corpus.packed(captions, PREFIX)).item() == pytest.approx(sum(alone), rel=1e-12)


def test_cross_entropy_equals_torch() -> None:
    torch.manual_seed(0)
    hidden = torch.randn(40, 8, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(99, 8, dtype=torch.float64, requires_grad=True)
    row = torch.sort(torch.randint(40, (60,))).values
    target = torch.randint(99, (60,))
    found = torch.autograd.grad(3 * linear_cross_entropy(hidden, weight, row, target, scale=0.5), [hidden, weight])
    plain = 1.5 * F.cross_entropy(hidden[row] @ weight.T, target, reduction="sum")
    for one, other in zip(found, torch.autograd.grad(plain, [hidden, weight]), strict=True):
        torch.testing.assert_close(one, other)
    with torch.no_grad():
        far = linear_cross_entropy(1000 * hidden, weight, row, target)
        torch.testing.assert_close(far, F.cross_entropy(1000 * hidden[row] @ weight.T, target, reduction="sum"))


def test_cross_entropy_in_bf16_reads_no_uninitialised_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    hidden = torch.randn(20, 32, dtype=torch.bfloat16, requires_grad=True)
    weight = torch.randn(400, 32, requires_grad=True)
    row, target = torch.arange(20), torch.randint(400, (20,))
    expected = torch.autograd.grad(linear_cross_entropy(hidden, weight, row, target), [hidden, weight])
    monkeypatch.setattr(
        torch.Tensor,
        "new_empty",
        lambda x, *shape: torch.full(shape, torch.nan, dtype=x.dtype),  # what memory may hold
    )
    found = torch.autograd.grad(linear_cross_entropy(hidden, weight, row, target), [hidden, weight])
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_dropout_drops_its_share_and_keeps_the_mean() -> None:
    torch.manual_seed(0)
    x = torch.ones(1001, 999)
    for p in (0.1, 0.5):
        dropped = dropout(x, p, training=True)
        assert (dropped == 0).float().mean().item() == pytest.approx(p, abs=0.002)
        assert dropped.unique().tolist() == pytest.approx([0, 1 / (1 - p)], rel=1e-4)
        assert not torch.equal(dropped, dropout(x, p, training=True))
        rows, columns = ((dropped == 0).float().mean(dim=dim) for dim in (0, 1))
        assert rows.std().item() == pytest.approx((p * (1 - p) / 1001) ** 0.5, rel=0.15)
        assert columns.std().item() == pytest.approx((p * (1 - p) / 999) ** 0.5, rel=0.15)
    assert dropout(x, 0.1, training=False) is x
    assert dropout(x, 0.0, training=True) is x


def test_bf16_is_close_to_fp32() -> None:
    corpus, model = make_corpus(torch.float32), make_model("mlp", torch.float32)
    captions = np.arange(len(corpus))
    exact = gradients(model, PackedLoss(model)(corpus.packed(captions, PREFIX), 1e-3))
    with torch.autocast("cpu", torch.bfloat16):
        loss = PackedLoss(model)(corpus.packed(captions, PREFIX), 1e-3)
    rounded = gradients(model, loss)
    for name, gradient in exact.items():
        assert (rounded[name] - gradient).norm() < 0.05 * gradient.norm(), name


def test_no_gradient_is_computed_under_no_grad(monkeypatch: pytest.MonkeyPatch) -> None:
    corpus, model = make_corpus(torch.float32), make_model("mlp", torch.float32)
    batch = corpus.packed(np.arange(20), PREFIX)
    with torch.no_grad():
        monkeypatch.setattr(torch, "empty_like", None)  # which allocates memory for gradients
        alone = PackedLoss(model)(batch)
    monkeypatch.undo()
    assert alone.item() == PackedLoss(model)(batch).item()
