"""Measure captioning from embeddings: captions/s of four ways to decode, and whether they choose the same tokens.

    python tests/bench/caption.py                            # GPT-2 small with random weights, 5 beams, 20 tokens
    python tests/bench/caption.py --model run --cache c.h5   # a trained model, on validation images of its cache

* `seed`: ClipCap's procedure, an image at a time, without keys and values: each step reads the whole text again.
* `one`: transformers' `generate`, an image at a time.
* `batched`: transformers' `generate`, all images in one batch.
* `ours`: prefixes read once and shared by beams, images that are done make room for others.

Arms take turns in each round; the table has medians of CPU seconds and of wall seconds, and ratios of the latter.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from transformers import GPT2Config, GPT2LMHeadModel

from clipcap.caption import Captioner
from clipcap.caption.decoding.beam import Beam
from clipcap.caption.decoding.greedy import Greedy
from clipcap.caption.decoding.options import DecodeOptions
from clipcap.data.cache.index import Cache
from clipcap.data.records import SPLITS
from clipcap.train.mappers import mapper_config
from clipcap.train.mappers.module import Mapper
from clipcap.train.model.captioning import ClipCapModel

Rows = list[list[int]]


def main() -> None:
    """Time the arms in turn, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--cache", type=Path)
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--at-once", type=int, default=32)
    parser.add_argument("--beams", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--arms", nargs="+", default=["seed", "one", "batched", "ours"])
    options = parser.parse_args()
    model, embedding = load(options.model, options.cache, options.images)
    model, embedding = model.to(options.device).eval(), embedding.to(options.device)
    arms = {name: make(name, model, embedding, options) for name in options.arms}
    found = {name: arm(embedding[:2]) for name, arm in arms.items()}  # warms up
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in arms}
    for _ in range(options.rounds):
        for name, arm in arms.items():
            begin = time.perf_counter(), time.process_time()
            found[name] = arm(embedding)
            taken[name].append((time.perf_counter() - begin[0], time.process_time() - begin[1]))
    print("| arm | wall s | CPU s | captions/s | ours is faster by | captions equal to ours |")
    print("|---|---|---|---|---|---|")
    wall = {name: statistics.median(one for one, _ in times) for name, times in taken.items()}
    for name, times in taken.items():
        equal = sum(one == other for one, other in zip(found[name], found["ours"], strict=True))
        cpu = statistics.median(one for _, one in times)
        print(
            f"| {name} | {wall[name]:.1f} | {cpu:.1f} | {len(embedding) / wall[name]:.2f} | "
            f"{wall[name] / wall['ours']:.2f} | {equal} of {len(embedding)} |"
        )


def load(checkpoint: Path | None, cache: Path | None, images: int) -> tuple[ClipCapModel, torch.Tensor]:
    """Return a model in fp32 and embeddings for it."""
    torch.manual_seed(0)
    if checkpoint is None or cache is None:
        config = GPT2Config(bos_token_id=0, eos_token_id=0)
        mapper = Mapper(mapper_config(kind="mlp", embedding_width=512, lm_width=config.n_embd, prefix_length=10))
        return ClipCapModel(mapper, GPT2LMHeadModel(config)), torch.randn(images, 512)
    rows = torch.cat(
        [
            torch.from_numpy(tables.values(tables.split == SPLITS.index("val"))).float()
            for tables in Cache.open(cache).tables()
        ]
    )
    return Captioner.from_checkpoint(checkpoint, device="cpu", precision="fp32").model, rows[:images]


def make(
    name: str, model: ClipCapModel, embedding: torch.Tensor, options: argparse.Namespace
) -> Callable[[torch.Tensor], Rows]:
    """Return the function of an arm: from embeddings to the tokens of the best caption of each, without their end."""
    more = {"max_new_tokens": options.tokens, "num_beams": options.beams}

    def cut(row: list[int]) -> list[int]:
        return row[: row.index(model.end)] if model.end in row else row

    def one(rows: torch.Tensor) -> Rows:
        return [cut(model.continue_prefix(row[None], **more)[0].tolist()) for row in rows]

    def batched(rows: torch.Tensor) -> Rows:
        return [cut(row) for row in model.continue_prefix(rows, **more).tolist()]

    def ours(rows: torch.Tensor) -> Rows:
        kind = Beam if options.beams > 1 else Greedy
        strategy = kind(DecodeOptions(beams=options.beams, max_tokens=options.tokens))
        strategy.text = lambda tokens, _: str(tokens)  # type: ignore[method-assign, assignment]
        decoded = strategy.decode(model, rows, None, options.at_once)  # type: ignore[arg-type]
        return [cut(captions[0]) for captions in decoded]

    return {"seed": lambda rows: [cut(seed_beam(model, row, options)) for row in rows], "one": one,
            "batched": batched, "ours": ours}[name]  # fmt: skip


@torch.no_grad()
def seed_beam(model: ClipCapModel, row: torch.Tensor, options: argparse.Namespace) -> list[int]:
    """Search as `generate_beam` of ClipCap's predict.py does: k texts, read as a whole at each step."""
    k = options.beams
    texts = model.clip_project(row[None])
    tokens, scores = torch.empty(1, 0, dtype=torch.long, device=row.device), torch.zeros(1, device=row.device)
    lengths, stopped = torch.ones(k, device=row.device), torch.zeros(k, dtype=torch.bool, device=row.device)
    for step in range(options.tokens):
        logits = model.gpt(inputs_embeds=texts).logits[:, -1].log_softmax(-1)
        if step == 0:
            scores, chosen = logits[0].topk(k)
            texts, tokens = texts.expand(k, -1, -1), chosen[:, None]
        else:
            logits[stopped] = -torch.inf
            logits[stopped, 0] = 0
            lengths = lengths + ~stopped
            means, chosen = ((scores[:, None] + logits) / lengths[:, None]).flatten().topk(k)
            beam, chosen = chosen // logits.shape[1], chosen % logits.shape[1]
            tokens, texts = torch.cat([tokens[beam], chosen[:, None]], dim=1), texts[beam]
            lengths, stopped = lengths[beam], stopped[beam]
            scores = means * lengths
        texts = torch.cat([texts, model.gpt.transformer.wte(tokens[:, -1:])], dim=1)
        stopped = stopped | (tokens[:, -1] == model.end)
        if bool(stopped.all()):
            break
    best = int((scores / lengths).argmax())
    row_tokens: list[int] = tokens[best, : int(lengths[best])].tolist()
    return row_tokens


if __name__ == "__main__":
    main()
