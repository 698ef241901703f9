"""Trains the small models inside the package from scratch on drawn scenes: the tokenizer, the CLIP and the GPT-2.

    python -m clipcap.data.demo.models.training FOLDER

On two cores this takes about forty minutes and 6 GB of memory; nothing is downloaded. No scene has a pair of
`HELD_OUT_PAIRS` in its image or captions, and none has a seed that the demo uses.

The CLIP is trained with three losses on its embedding:

* contrastive, against its text encoder (CLIP, arXiv:2103.00020);
* captioning, by a GPT-2 that sees a linear prefix of the embedding and is discarded afterwards (CoCa, arXiv:2205.01917,
  combines these two);
* classification of each attribute of the scene by a linear layer, also discarded, which makes training much faster.
"""

import io
import json
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
from open_clip.model import CLIP
from PIL import Image
from safetensors.torch import save_file
from tokenizers import Tokenizer, processors
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from clipcap.data.demo.dataset import make_sample
from clipcap.data.demo.scenes import BACKGROUNDS, COLOURS, MAX_COUNT, RELATIONS, SHAPES, SIZES, Scene, scenes
from clipcap.data.demo.wording import OPPOSITE
from clipcap.data.pretrained.new_tokenizer import END, train_tokenizer

SEED = 1000
SCENES = 80_000
BATCH = 128
TEXT_BATCH = 64  # images of the batch whose captions are used: the image encoder needs more examples than the rest
STEPS = 4000
LM_STEPS = 1500
PIXELS = 96
WIDTH = 512
PREFIX = 8
TOKENS = 512
CLIP_CONFIG: dict[str, Any] = {
    "embed_dim": WIDTH,
    "vision_cfg": {"layers": [1, 2, 3, 2], "width": 16, "image_size": PIXELS, "head_width": 64},
    "text_cfg": {"context_length": 32, "width": 128, "heads": 2, "layers": 2},
}
LM_CONFIG: dict[str, Any] = {"n_embd": 192, "n_layer": 3, "n_head": 3, "n_positions": 128}
PREPROCESS: dict[str, Any] = {"mean": OPENAI_DATASET_MEAN, "std": OPENAI_DATASET_STD, "interpolation": "bicubic"}


def main() -> None:
    """Write the folders `demo-clip` and `demo-gpt2` to the folder that the command line names."""
    folder = Path(sys.argv[1])
    torch.manual_seed(SEED)
    log("drawing")
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as workers:
        samples = list(workers.map(draw, range(SCENES), chunksize=64))
    pixels = np.stack([sample[0] for sample in samples])  # uint8 (SCENES, PIXELS, PIXELS, 3)
    captions = [sample[1] for sample in samples]
    labels = torch.tensor([attributes(scene) for scene in scenes(SEED, SCENES)])
    tokenizer = train_tokenizer((caption for texts in captions for caption in texts), TOKENS)
    tokens = tokenize(tokenizer, captions)
    clip = train_clip(pixels, tokens, labels, len(tokenizer))
    save_clip(clip, folder / "demo-clip")
    save_text_tokenizer(tokenizer, folder / "demo-clip")
    lm = train_language_model(tokens.flatten(0, 1), tokenizer)
    lm.half().save_pretrained(str(folder / "demo-gpt2"))
    tokenizer.save_pretrained(str(folder / "demo-gpt2"))


def draw(number: int) -> tuple[np.ndarray[Any, Any], tuple[str, ...]]:
    """Return the pixels, uint8 (PIXELS, PIXELS, 3), as stage 1 decodes the scene's file, and the captions."""
    _, captions, image = make_sample(number, seed=SEED)
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=90)
    return np.asarray(Image.open(stream).resize((PIXELS, PIXELS), Image.Resampling.BICUBIC)), captions


def tokenize(tokenizer: PreTrainedTokenizerFast, captions: Sequence[tuple[str, ...]]) -> torch.Tensor:
    """Return the tokens, int64 (n, 5, T), with end-of-text at the end and padded with -100."""
    rows = [tokenizer([text + END for text in texts])["input_ids"] for texts in captions]
    longest = max(len(row) for texts in rows for row in texts)
    padded = [[row + [-100] * (longest - len(row)) for row in texts] for texts in rows]
    return torch.tensor(padded)


# Number of classes of each attribute, in the order of `attributes`. From the third on, class 0 means "no such group".
_GROUP_CLASSES = [max(MAX_COUNT.values()) + 1, len(SIZES) + 1, len(COLOURS) + 1, len(SHAPES) + 1]
CLASSES = [len(BACKGROUNDS), 3, *_GROUP_CLASSES, *_GROUP_CLASSES]


def attributes(scene: Scene) -> list[int]:
    """Return the scene as class numbers, the left or upper group first, so that the answer is unique."""
    relation, groups = scene.relation, list(scene.groups)
    if relation is not None and RELATIONS.index(relation) % 2:
        relation, groups = OPPOSITE[relation], groups[::-1]
    row = [BACKGROUNDS.index(scene.background), 0 if relation is None else 1 + RELATIONS.index(relation) // 2]
    for group in groups:
        row += [
            group.count,
            1 + SIZES.index(group.size),
            1 + COLOURS.index(group.colour),
            1 + SHAPES.index(group.shape),
        ]
    return row + [0] * (len(CLASSES) - len(row))


def train_clip(pixels: np.ndarray[Any, Any], tokens: torch.Tensor, labels: torch.Tensor, vocabulary: int) -> CLIP:
    """Train the image encoder and the text encoder; the top of this file describes the losses."""
    clip = CLIP(**{**CLIP_CONFIG, "text_cfg": {**CLIP_CONFIG["text_cfg"], "vocab_size": vocabulary}})
    clip.visual.to(memory_format=torch.channels_last)
    lm = GPT2LMHeadModel(language_model_config(vocabulary))
    to_prefix = nn.Linear(WIDTH, PREFIX * lm.config.n_embd)
    to_attributes = nn.Linear(WIDTH, sum(CLASSES))
    optimizer = Optimizer(nn.ModuleList([clip, lm, to_prefix, to_attributes]), STEPS)
    rng = np.random.default_rng(SEED)
    for step, chosen in enumerate(batches(rng, len(pixels), BATCH, STEPS)):
        captioned = chosen[:TEXT_BATCH]
        target = tokens[captioned, rng.integers(0, tokens.shape[1], len(captioned))]
        inputs = target.clamp(min=0)  # padding becomes token 0, which the loss ignores
        with torch.autocast("cpu", torch.bfloat16):
            embedding = clip.encode_image(to_input(shift(pixels[chosen], rng)))
            prefix = to_prefix(embedding[: len(captioned)]).unflatten(1, (PREFIX, -1))
            embedded = torch.cat([prefix, lm.transformer.wte(inputs)], dim=1)
            logits = lm(inputs_embeds=embedded).logits[:, PREFIX - 1 : -1]
            captioning = F.cross_entropy(logits.float().flatten(0, 1), target.flatten(), ignore_index=-100)
            text = F.normalize(
                clip.encode_text(F.pad(inputs, (0, clip.context_length - inputs.shape[1]))).float(), dim=-1
            )
            image = F.normalize(embedding[: len(captioned)].float(), dim=-1)
            similarity = clip.logit_scale.exp().clamp(max=100) * image @ text.T
            own = torch.arange(len(captioned))
            contrastive = (F.cross_entropy(similarity, own) + F.cross_entropy(similarity.T, own)) / 2
            guesses = to_attributes(embedding.float()).split(CLASSES, dim=1)
        named = sum(F.cross_entropy(guess, labels[chosen, i]) for i, guess in enumerate(guesses))
        optimizer.step(captioning + 0.1 * contrastive + 0.2 * named)
        if step % 100 == 99:
            right = torch.stack([guess.argmax(1) == labels[chosen, i] for i, guess in enumerate(guesses)]).all(0)
            losses = f"captioning {captioning:.4f}, contrastive {contrastive:.4f}, attributes {named:.4f}"
            log(f"clip {step + 1}/{STEPS}: {losses}; all attributes right {100 * right.float().mean():.1f}%")
    return clip.eval()


def train_language_model(tokens: torch.Tensor, tokenizer: PreTrainedTokenizerFast) -> GPT2LMHeadModel:
    """Train a GPT-2 on the text of the captions alone."""
    lm = GPT2LMHeadModel(language_model_config(len(tokenizer)))
    optimizer = Optimizer(lm, LM_STEPS)
    begin = torch.full((BATCH, 1), tokenizer.eos_token_id)
    for step, chosen in enumerate(batches(np.random.default_rng(SEED), len(tokens), BATCH, LM_STEPS)):
        target = tokens[chosen]
        with torch.autocast("cpu", torch.bfloat16):
            logits = lm(torch.cat([begin, target[:, :-1].clamp(min=0)], dim=1)).logits
        loss = F.cross_entropy(logits.float().flatten(0, 1), target.flatten(), ignore_index=-100)
        optimizer.step(loss)
        if step % 100 == 99:
            log(f"gpt-2 {step + 1}/{LM_STEPS}: {loss:.4f}")
    return lm


def language_model_config(vocabulary: int) -> GPT2Config:
    """Return the config of a small GPT-2, without dropout, since it cannot memorise this much text."""
    no_dropout: dict[str, Any] = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    end = vocabulary - 1
    return GPT2Config(vocab_size=vocabulary, bos_token_id=end, eos_token_id=end, **LM_CONFIG, **no_dropout)


class Optimizer:
    """AdamW with warm-up, a cosine decay to zero, weight decay on matrices only, and clipped gradients."""

    def __init__(self, module: nn.Module, steps: int, lr: float = 1e-3, warmup: int = 100) -> None:
        self.parameters = list(module.parameters())
        groups = [
            {"params": [p for p in self.parameters if p.ndim > 1], "weight_decay": 0.05},
            {"params": [p for p in self.parameters if p.ndim <= 1], "weight_decay": 0.0},
        ]
        self.adamw = torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.98))
        rise = torch.optim.lr_scheduler.LinearLR(self.adamw, 1 / warmup, total_iters=warmup)
        fall = torch.optim.lr_scheduler.CosineAnnealingLR(self.adamw, steps - warmup)
        self.schedule = torch.optim.lr_scheduler.SequentialLR(self.adamw, [rise, fall], [warmup])

    def step(self, loss: torch.Tensor) -> None:
        """Make one step along the gradient of this loss."""
        loss.backward()
        nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.adamw.step()
        self.adamw.zero_grad(set_to_none=True)
        self.schedule.step()


def batches(rng: np.random.Generator, count: int, size: int, steps: int) -> Iterator[np.ndarray[Any, Any]]:
    """Yield the numbers of the examples of each step; every example comes once before any comes again."""
    left = np.empty(0, dtype=np.int64)
    for _ in range(steps):
        if len(left) < size:
            left = rng.permutation(count)
        yield left[:size]
        left = left[size:]


def shift(pixels: np.ndarray[Any, Any], rng: np.random.Generator) -> np.ndarray[Any, Any]:
    """Return the images shifted by up to three pixels, as augmentation."""
    down, right = rng.integers(0, 7, 2)
    wide = np.pad(pixels, ((0, 0), (3, 3), (3, 3), (0, 0)), mode="edge")
    return wide[:, down : down + PIXELS, right : right + PIXELS]


def to_input(pixels: np.ndarray[Any, Any]) -> torch.Tensor:
    """Normalize pixels for the encoder: uint8 (B, H, W, 3) -> float32 (B, 3, H, W)."""
    mean, std = (torch.tensor(PREPROCESS[name]).view(3, 1, 1) for name in ("mean", "std"))
    batch = (torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255 - mean) / std
    return batch.contiguous(memory_format=torch.channels_last)


def save_clip(clip: CLIP, folder: Path) -> None:
    """Save the model in half precision, in the layout of open_clip."""
    folder.mkdir(parents=True, exist_ok=True)
    state = {
        name: (tensor.half() if tensor.is_floating_point() else tensor).contiguous()
        for name, tensor in clip.state_dict().items()
    }
    save_file(state, folder / "open_clip_model.safetensors")
    # open_clip reads the tokenizer from the same folder; the name only says that it is not CLIP's own.
    text = {**CLIP_CONFIG["text_cfg"], "vocab_size": clip.vocab_size, "hf_tokenizer_name": folder.name}
    config = {"model_cfg": {**CLIP_CONFIG, "text_cfg": text}, "preprocess_cfg": PREPROCESS}
    (folder / "open_clip_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def save_text_tokenizer(tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Save the tokenizer as open_clip calls it: end-of-text ends and fills up every text, even one that is cut."""
    backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    backend.post_processor = processors.TemplateProcessing(
        single=f"$A {END}", special_tokens=[(END, tokenizer.eos_token_id)]
    )
    own = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token=END, pad_token=END, bos_token=END)
    own.save_pretrained(str(folder))


def log(text: str) -> None:
    """Print a line with the time."""
    print(time.strftime("%H:%M:%S"), text, flush=True)


if __name__ == "__main__":
    main()
