"""The three training loops that the benchmarks compare: as ClipCap published it, a modern plain one, and ours."""

from collections.abc import Callable
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from clipcap.data.pretrained.device import autocast
from clipcap.train.corpus.captions import Corpus
from clipcap.train.corpus.sampler import epoch_batches
from clipcap.train.engine.distributed import World
from clipcap.train.engine.step import Engine
from clipcap.train.model.captioning import ClipCapModel
from clipcap.train.settings import TrainSettings

PUBLISHED_TOKENS = 39  # ClipCap pads COCO's captions to this length

Step = Callable[[int], int]  # trains on batch `number` and returns its number of captions
Rate = Callable[[int], float]  # the learning rate of a step


def ours(model: ClipCapModel, data: Corpus, settings: TrainSettings, device: torch.device, rate: Rate) -> Step:
    """Make a step of the engine of clipcap-train."""
    engine = Engine(model, settings, device, World())
    steps = len(data) // settings.batch_size
    epoch, batches, unread = -1, [], []  # type: int, list[Any], list[Any]

    def step(number: int) -> int:
        nonlocal epoch, batches
        if number // steps != epoch:
            epoch = number // steps
            batches = epoch_batches(
                data.image, settings.batch_size, sampling=settings.sampling, seed=settings.seed, epoch=epoch
            )
        captions = batches[number % steps]
        unread.append(engine.step(data, captions, rate=rate(number), number=number))
        if len(unread) > 1 or device.type == "cpu":
            unread.pop(0).read()
        return len(captions)

    return step


def plain(
    model: ClipCapModel, data: Corpus, settings: TrainSettings, device: torch.device, rate: Rate, *, published: bool
) -> Step:
    """Make a step of a plain loop: a DataLoader of padded captions, transformers' own loss, and AdamW.

    The published loop computes in fp32 and pads every caption to 39 tokens. The modern loop uses bf16 autocast, pads to
    the longest caption of the batch, uses a fused optimiser, clips gradients, and uses torch.compile on a GPU.

    Args:
        data: the corpus, on the CPU.
        published: whether to make the published loop, instead of the modern one.
    """
    prefix_length = model.clip_project.config.prefix_length
    embedding = data.embedding[data.image]

    class Captions(Dataset[Any]):
        def __len__(self) -> int:
            return len(data)

        def __getitem__(self, caption: int) -> Any:
            first = int(data.first_token[caption])
            tokens = data.token[first : first + int(data.length[caption])][:PUBLISHED_TOKENS]
            return embedding[caption], torch.from_numpy(tokens)

    def collate(rows: Any) -> Any:
        longest = PUBLISHED_TOKENS if published else max(len(tokens) for _, tokens in rows)
        tokens = torch.zeros(len(rows), longest, dtype=torch.long)
        labels = torch.full((len(rows), prefix_length + longest), -100)
        mask = torch.zeros(len(rows), prefix_length + longest)
        for row, (_, some) in enumerate(rows):
            tokens[row, : len(some)] = some
            labels[row, prefix_length : prefix_length + len(some)] = some
            mask[row, : prefix_length + len(some)] = 1
        return torch.stack([embedding for embedding, _ in rows]), tokens, mask, labels

    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=settings.lr, weight_decay=0.0, fused=None if published else True)

    def loss_of(embedding: Any, tokens: Any, mask: Any, labels: Any) -> Any:
        words = model.gpt.transformer.wte(tokens)
        inputs = torch.cat([model.clip_project(embedding).to(words.dtype), words], dim=1)
        return model.gpt(inputs_embeds=inputs, attention_mask=mask, labels=labels).loss

    if not published and device.type == "cuda":
        loss_of = torch.compile(loss_of, dynamic=True)
    generator = torch.Generator().manual_seed(settings.seed)
    loader = DataLoader(
        Captions(), settings.batch_size, shuffle=True, drop_last=True, collate_fn=collate, generator=generator,
        num_workers=0 if device.type == "cpu" else 4,
    )  # fmt: skip
    batches = iter(loader)

    def step(number: int) -> int:
        nonlocal batches
        batch = next(batches, None)
        if batch is None:
            batches = iter(loader)
            batch = next(batches)
        for group in optimizer.param_groups:
            group["lr"] = rate(number)
        moved = [tensor.to(device, non_blocking=True) for tensor in batch]
        with autocast(device, settings.precision):
            loss = loss_of(*moved)
        loss.backward()
        if not published:
            torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        loss.item()
        return settings.batch_size

    return step
