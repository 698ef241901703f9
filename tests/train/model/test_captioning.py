"""The plain loss counts every caption token, end-of-text and token 0 too, but no padding, and equals ClipCap's loss."""

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from transformers import GPT2Config, GPT2LMHeadModel

from clipcap.data.pretrained.tokenizer import load_tokenizer
from clipcap.train.mappers import mapper_config
from clipcap.train.mappers.module import Mapper
from clipcap.train.model.captioning import ClipCapModel, train_mode
from clipcap.train.model.tuning import tune

PREFIX, WIDTH, VOCABULARY, END = 4, 16, 50, 49


def small_model(dropout: float = 0.0) -> ClipCapModel:
    torch.manual_seed(0)
    config = GPT2Config(
        n_embd=WIDTH, n_layer=2, n_head=2, n_positions=32, vocab_size=VOCABULARY, bos_token_id=END, eos_token_id=END,
        resid_pdrop=dropout, embd_pdrop=dropout, attn_pdrop=dropout,
    )  # fmt: skip
    mapper = Mapper(mapper_config(kind="mlp", embedding_width=8, lm_width=WIDTH, prefix_length=PREFIX))
    return ClipCapModel(mapper, GPT2LMHeadModel(config)).double()


def plain_losses(model: ClipCapModel, embedding: torch.Tensor, caption: list[int]) -> torch.Tensor:
    """Compute the losses of one caption in the simplest way: no batch, no padding, all logits, then a shift by one."""
    prefix = model.clip_project(embedding[None])
    token_embedding = model.gpt.transformer.wte(torch.tensor([caption]))
    logits = model.gpt(inputs_embeds=torch.cat([prefix, token_embedding], dim=1)).logits[0]
    predicted = logits[PREFIX - 1 : PREFIX + len(caption) - 1]
    return F.cross_entropy(predicted, torch.tensor(caption), reduction="none")


CAPTIONS = [[5, 0, 7, END], [END], [0, 0, END], [1, 2, 3, 4, 5, 6, 7, 8, 9, END]]


def batch(filler: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    longest = max(map(len, CAPTIONS))
    tokens = torch.tensor([caption + [filler] * (longest - len(caption)) for caption in CAPTIONS])
    generator = torch.Generator().manual_seed(1)
    embedding = torch.randn(len(CAPTIONS), 8, dtype=torch.double, generator=generator)
    return embedding, tokens, torch.tensor([len(caption) for caption in CAPTIONS])


@pytest.mark.parametrize("filler", [0, 17, END])
def test_the_loss_of_a_caption_does_not_depend_on_its_batch_or_padding(filler: int) -> None:
    model = small_model().eval()
    embedding, tokens, lengths = batch(filler)
    losses = model.token_losses(embedding, tokens, lengths)
    alone = [plain_losses(model, row, caption) for row, caption in zip(embedding, CAPTIONS, strict=True)]
    assert losses.shape == (sum(map(len, CAPTIONS)),)
    torch.testing.assert_close(losses, torch.cat(alone).float(), rtol=1e-6, atol=1e-6)


def test_gradients_of_a_batch_are_the_sums_of_those_of_its_captions() -> None:
    model = small_model()
    embedding, tokens, lengths = batch(filler=3)
    model.token_losses(embedding, tokens, lengths).double().sum().backward()
    batched = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    torch.cat([plain_losses(model, row, c) for row, c in zip(embedding, CAPTIONS, strict=True)]).sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None
        difference = (batched[name] - parameter.grad).norm() / parameter.grad.norm().clamp_min(1e-12)
        assert difference < 1e-6, name


def test_tune_none_trains_the_mapper_alone_without_dropout_in_the_language_model() -> None:
    model = small_model(dropout=0.5)
    tune(model, "none")
    train_mode(model)
    embedding, tokens, lengths = batch()
    model.token_losses(embedding, tokens, lengths).sum().backward()
    assert all(p.grad is None for p in model.gpt.parameters())
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.clip_project.parameters())
    assert not model.gpt.training  # a frozen language model has no dropout
    assert model.clip_project.training
    first = model.token_losses(embedding, tokens, lengths)
    assert torch.equal(first, model.token_losses(embedding, tokens, lengths))


def test_tune_all_trains_every_parameter() -> None:
    model = small_model()
    tune(model, "all")
    train_mode(model)
    model.token_losses(*batch()).sum().backward()
    assert all(p.grad is not None for p in model.parameters())
    assert model.gpt.training


def test_continuations_end_at_the_last_position_of_the_language_model() -> None:
    model = small_model().eval()
    tokens = model.continue_prefix(torch.randn(2, 8, dtype=torch.double), max_new_tokens=1000)
    assert tokens.shape[1] <= 32 - PREFIX


@pytest.mark.parametrize("kind", ["mlp", "transformer"])
def test_weights_of_clipcap_give_the_losses_and_captions_of_clipcap(shared: Path, kind: str) -> None:
    """Names, shapes, the shift by one and the loss are compared with numbers that ClipCap's own code computed."""
    answers = json.loads((shared / f"golden/rmokady-{kind}.json").read_text())
    state = torch.load(shared / f"golden/rmokady-{kind}.pt", weights_only=True)
    buffers = {name for name in state if name.endswith(".attn.masked_bias")}
    buffers |= {name.removesuffix("masked_bias") + "bias" for name in buffers}
    mapper = mapper_config(
        kind=kind, embedding_width=answers["prefix_dim"], lm_width=32, prefix_length=answers["prefix_length"],
        clip_length=answers["prefix_length_clip"], layers=answers["num_layers"],
    )  # fmt: skip
    model = ClipCapModel(Mapper(mapper), GPT2LMHeadModel(GPT2Config(**answers["gpt2"]))).eval()
    model.load_state_dict({name: tensor for name, tensor in state.items() if name not in buffers})
    tokenizer = load_tokenizer(str(shared / "data/gpt2"))
    captions = [tokenizer.encode(caption) for caption in answers["captions"]]
    lengths = torch.tensor([len(caption) for caption in captions])
    tokens = torch.nn.utils.rnn.pad_sequence([torch.tensor(caption) for caption in captions], batch_first=True)
    embedding = torch.tensor(answers["embeddings"])
    logits, targets = model.target_logits(embedding, tokens, lengths)
    # ClipCap's code sums over the vocabulary in the order in which torch sums a transposed tensor on a CPU. In float32
    # this loses the smallest of 50,000 probabilities, which changes a loss by up to 0.002 nats.
    losses = F.cross_entropy(logits.T[None], targets[None], reduction="none")[0]
    expected = torch.tensor([loss for caption in answers["token_nll"] for loss in caption])
    torch.testing.assert_close(losses, expected, rtol=0, atol=1e-4)
    exact = F.cross_entropy(logits.double(), targets, reduction="none").float()
    torch.testing.assert_close(model.token_losses(embedding, tokens, lengths), exact, rtol=0, atol=3e-4)
    texts = tokenizer.batch_decode(model.continue_prefix(embedding, max_new_tokens=30))
    assert [text.split(".")[0] + "." for text in texts] == answers["greedy"]
