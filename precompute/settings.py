"""The settings of stage 1: what is read, which encoder and tokenizer are used, and how the work is divided."""

import math
from dataclasses import dataclass
from pathlib import Path

from clipcap.data.readers import READERS
from clipcap.data.settings import Settings, device_setting, precision_setting, setting
from clipcap.precompute.encoders.clip_features import FEATURES

READING, ENCODER, CAPTIONS = "What it reads", "Encoder", "Captions and splits"
SPEED, OUTPUT = "Speed and memory", "Output"

TIMM = "timm:"  # how the name of an encoder of timm begins
DEFAULT_ENCODER = "ViT-B-32"
DEFAULT_PRETRAINED = "openai"
DEFAULT_FEATURES = "projected"
# Default features of formats of embeddings that do not use `projected`.
FEATURES_OF_FORMAT = {"clipxgpt-pickle": "pooled"}
SHARD_SIZE = 4096  # images
SHARD_BYTES = 256 << 20  # of embeddings: a shard is built in memory
MAX_WORKERS = 32


@dataclass(frozen=True, kw_only=True)
class PrecomputeSettings(Settings):
    """Settings of stage 1. The help of each field describes it.

    Raises:
        UsageError: a value is not allowed.
    """

    format: str | None = setting(
        None,
        f"Format of the dataset: {', '.join(READERS)}. Default: the format is detected.",
        group=READING, choices=tuple(READERS), metavar="FORMAT",
    )  # fmt: skip
    image_column: str | None = setting(
        None,
        "Column of a table that names the image files or, in Parquet, holds them. Default: the column is guessed.",
        group=READING, metavar="NAME", spellings=("--image-column", "--picture-column"),
    )  # fmt: skip
    caption_column: str | None = setting(
        None,
        "Column of a table that holds the captions. Default: the column is guessed.",
        group=READING, metavar="NAME",
    )  # fmt: skip
    captions: Path | None = setting(  # noqa: RUF009 (`setting` makes a field)
        None,
        "Dataset that has the captions of existing embeddings. Default: the captions that come with the embeddings.",
        group=READING, metavar="DATASET",
    )  # fmt: skip
    limit: int | None = setting(
        None,
        "Use at most this many images in total, drawn by `seed`; each split keeps its share. Default: all images.",
        group=READING, minimum=1,
    )  # fmt: skip
    skip_missing: bool = setting(
        False,
        "Leave out listed images that do not exist, even if they are more than half. By default, that is an error.",
        group=READING,
    )  # fmt: skip
    allow_outside: bool = setting(
        False,
        "Read images outside the folder of the dataset that its annotations name by `..` or by an absolute path. By "
        "default, they count as missing. Links in the folder are always followed.",
        group=READING,
    )  # fmt: skip
    strict: bool = setting(
        False,
        "Stop at the first image that cannot be read, or the first embedding that is not finite. By default, such "
        "images are skipped and recorded in the cache.",
        group=READING,
    )  # fmt: skip

    encoder: str | None = setting(
        None,
        "Image encoder: open_clip's name of a CLIP architecture, a folder that open_clip saved, hf-hub:NAME, demo, or "
        "timm:NAME for a model of timm, such as timm:vit_small_patch14_dinov2. For existing embeddings, the encoder "
        "that computed them. Default: "
        f"{DEFAULT_ENCODER} for images; for existing embeddings it is recorded as unknown.",
        group=ENCODER, metavar="MODEL",
    )  # fmt: skip
    pretrained: str | None = setting(
        None,
        f"Weights of the encoder: a tag of open_clip or timm, or a file. Default: for CLIP {DEFAULT_PRETRAINED}, "
        "where there is such a tag; for timm its own.",
        group=ENCODER, metavar="WEIGHTS",
    )  # fmt: skip
    features: str | None = setting(
        None,
        "What to cache of an image: projected is the embedding that CLIP compares with texts, pooled is the embedding "
        "before its projection, patches are the embeddings of all patches. Default: "
        f"{DEFAULT_FEATURES}; for timm, pooled; "
        f"{', '.join(f'for {name}, {kind}' for name, kind in FEATURES_OF_FORMAT.items())}.",
        group=ENCODER, choices=tuple(FEATURES),
    )  # fmt: skip
    precision: str = precision_setting(ENCODER)
    views: int = setting(
        0,
        "Random crops and flips of each training image to encode besides it. Training takes another one in each epoch, "
        "which helps where images are few.",
        group=ENCODER, minimum=0,
    )  # fmt: skip

    tokenizer: str = setting(
        "gpt2",
        "Tokenizer of the language model: its name, a folder, or demo; new:5000 trains one of so many tokens on the "
        "training captions.",
        group=CAPTIONS, metavar="MODEL",
    )  # fmt: skip
    val_fraction: float = setting(
        0.05,
        "Fraction of the training images to put into a val split, if the dataset has none. 0 draws none.",
        group=CAPTIONS, minimum=0.0, maximum=0.99,
    )  # fmt: skip
    seed: int = setting(0, "Seed of the drawn val split and of `limit`.", group=CAPTIONS)

    batch_size: int | None = setting(
        None,
        "Images in a forward pass of the encoder. Default: 128 on a GPU; on a CPU 16, or 4 for convolutional models.",
        group=SPEED, minimum=1,
    )  # fmt: skip
    workers: int | None = setting(
        None,
        "Threads that load images, and on a CPU encode them as well; 0 does all in the main thread. Default: one per "
        f"core, at most {MAX_WORKERS}.",
        group=SPEED, minimum=0, stored=False,
    )  # fmt: skip
    shard_size: int | None = setting(
        None,
        f"Images in a shard, which is built in memory. Default: {SHARD_SIZE}, or fewer if their embeddings would take "
        f"more than {SHARD_BYTES >> 20} MB.",
        group=SPEED, minimum=1,
    )  # fmt: skip
    device: str = device_setting(SPEED)

    def features_for(self, source_format: str) -> str:
        """Return the kind of features to record for a source of this format."""
        if self.features is None and self.encoder is not None and self.encoder.startswith(TIMM):
            return "pooled"
        return self.features or FEATURES_OF_FORMAT.get(source_format, DEFAULT_FEATURES)

    def shard_size_for(self, embedding_shape: tuple[int, ...]) -> int:
        """Return the number of images in a shard, for float16 embeddings of this shape: (d,) or (t, d).

        The default is a power of two.
        """
        if self.shard_size is not None:
            return self.shard_size
        fitting = SHARD_BYTES // (2 * math.prod(embedding_shape) * (1 + self.views))
        return min(SHARD_SIZE, 1 << max(0, fitting.bit_length() - 1))
