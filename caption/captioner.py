"""`Captioner`: a checkpoint that captions images and embeddings, and scores captions.

    captioner = Captioner.from_checkpoint("checkpoints/best")
    captioner("dog.jpg")                            # "A dog runs on grass."
    captioner(["dog.jpg", "cat.jpg"])               # a list of two captions
    captioner("dog.jpg", decode="beam", n=3)        # a list of three captions, best first
    captioner(embeddings)                           # float (n, d): a list of n captions; CLIP is not loaded
    captioner.encode(["dog.jpg"])                   # float32 (1, d)
    captioner.score(embeddings, captions)           # the loss of each token of each caption, in nats

n images or embeddings, d numbers in an embedding. For a model that was trained on patches, an embedding is (t, d), and
(n, d) below stands for (n, t, d).
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack, overload

import numpy as np
import torch
from PIL import Image

from clipcap.caption.decoding.base import Strategy
from clipcap.caption.decoding.options import DecodeOptions
from clipcap.caption.decoding.registry import choose_strategy, infer_strategy
from clipcap.caption.scoring import score_captions
from clipcap.caption.settings import CaptionerChanges, CaptionerSettings, DecodeChanges
from clipcap.caption.trained_encoder import choose_embeddings, load_trained_encoder
from clipcap.data.cache.index import Cache
from clipcap.data.errors import CheckpointError, ImageError, UsageError
from clipcap.data.pretrained.device import autocast, choose_device, choose_precision
from clipcap.precompute.encoders.base import Encoder
from clipcap.precompute.images import open_image, to_rgb
from clipcap.precompute.loading import to_pixels
from clipcap.train.foreign import load_foreign
from clipcap.train.model.captioning import ClipCapModel
from clipcap.train.model.checkpoint import CheckpointConfig, load_checkpoint
from clipcap.train.model.find import find_checkpoint

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

ImageInput = str | Path | Image.Image
Embeddings = np.ndarray[Any, Any] | torch.Tensor


class Captioner:
    """Captions images and embeddings with one model. The image encoder is loaded with the first image.

    `Captioner.from_checkpoint` builds one from a checkpoint; the constructor takes a model that is loaded already.

    Args:
        model: mapper and language model; moved to the device, and put into evaluation mode.
        tokenizer: of the language model.
        config: the configuration in the model's checkpoint.
        settings: device, precision, batch size, and what replaces the encoder that the configuration names.

    Attributes:
        device: of the model and of the encoder.
        precision: `fp32`, `bf16` or `fp16`.
        batch_size: images, embeddings or captions in one forward pass.

    Raises:
        UsageError: this machine has no such device.
    """

    def __init__(
        self,
        model: ClipCapModel,
        tokenizer: "PreTrainedTokenizerBase",
        config: CheckpointConfig,
        settings: CaptionerSettings | None = None,
    ) -> None:
        self.settings = settings or CaptionerSettings()
        self.device = choose_device(self.settings.device)
        self.precision = choose_precision(self.settings.precision, self.device)
        self.batch_size = self.settings.batch_size
        self.model, self.tokenizer, self.config = model.to(self.device).eval(), tokenizer, config
        self._encoder: Encoder | None = None

    @classmethod
    def from_checkpoint(
        cls, path: str | Path, settings: CaptionerSettings | None = None, **changes: Unpack[CaptionerChanges]
    ) -> "Captioner":
        """Open a checkpoint of clipcap-train, or a checkpoint file of another system.

            Captioner.from_checkpoint("checkpoints/best", device="cpu")
            Captioner.from_checkpoint("coco_weights.pt", encoder="ViT-B-32")

        Args:
            path: the folder of a checkpoint, or the folder of a run, which stands for its best checkpoint; or a `.pt`
                or `.pkl` file of rmokady/CLIP_prefix_caption, jmisilo/clip-gpt-captioning or
                Lahdhirim/CV-image-captioning-clip-gpt2.
            settings: by default `CaptionerSettings()`.
            changes: fields of `CaptionerSettings` with other values than in `settings`.

        Raises:
            CheckpointError: there is no checkpoint at `path`, or it is damaged.
            ModelError: the tokenizer of a file of another system cannot be loaded.
            UsageError: a setting has a value that is not allowed, this machine has no such device, or `tokenizer`,
                `normalize` or `heads` is given for a checkpoint of clipcap-train, which records them.
        """
        settings = replace(settings or CaptionerSettings(), **changes)
        found = find_checkpoint(Path(path))
        choose_device(settings.device)  # an unknown device is an error before the weights are read
        tokenizer, normalize, heads = settings.tokenizer, settings.normalize, settings.heads
        if found.is_file():
            return cls(*load_foreign(found, tokenizer=tokenizer, normalize=normalize, heads=heads), settings)
        if tokenizer is not None or normalize or heads is not None:
            raise UsageError(
                f"{found} records its tokenizer and embeddings; leave `tokenizer`, `normalize` and `heads` out"
            )
        return cls(*load_checkpoint(found), settings)

    @property
    def encoder(self) -> Encoder:
        """The image encoder that the model was trained on. It is loaded on first use.

        Raises:
            ModelError: it cannot be loaded.
            CheckpointError: the checkpoint does not record an encoder and the settings name none, or its weights are
                not those that the model was trained on.
        """
        if self._encoder is None:
            self._encoder = load_trained_encoder(
                self.config,
                self.settings.encoder,
                self.settings.pretrained,
                device=self.device,
                # A few photographs are worth the time of fp32 on a CPU; on a GPU, the encoder chooses what suits it.
                precision=self.precision if self.device.type == "cpu" else self.settings.precision,
            )
        return self._encoder

    @overload
    def __call__(self, inputs: ImageInput, *, decode: str | None = None, **options: Unpack[DecodeChanges]) -> str: ...

    @overload
    def __call__(
        self,
        inputs: list[str] | list[Path] | list[Image.Image],
        *,
        decode: str | None = None,
        **options: Unpack[DecodeChanges],
    ) -> list[str]: ...

    @overload
    def __call__(
        self,
        inputs: ImageInput | Sequence[ImageInput] | Embeddings,
        *,
        decode: str | Strategy | None = None,
        n: int = 1,
        **options: Unpack[DecodeChanges],
    ) -> Any: ...

    def __call__(
        self,
        inputs: ImageInput | Sequence[ImageInput] | Embeddings,
        *,
        decode: str | Strategy | None = None,
        n: int = 1,
        **options: Unpack[DecodeChanges],
    ) -> Any:
        """Caption images or embeddings.

        Args:
            inputs: an image, as a path or opened by PIL, or a sequence of images; or embeddings as in the cache, float
                (n, d), or (d,) for one of them.
            decode: `greedy`, `beam`, `sample`, or a strategy, which has its own options. Default: the strategy that
                the options ask for (`beams` asks for beam, `temperature` for sample); without such options greedy, or
                what the own code of a foreign checkpoint's system does.
            n: captions of each input.
            options: the other fields of `DecodeOptions`: `max_tokens`, `stop`, `beams`, `temperature`, `top_p`, ...

        Returns:
            `str` for one input and `list[str]` for several. If `n` is above 1, a list of captions, best first, stands
            in the place of each caption; it is shorter than `n` where the model finds no more distinct captions.

        Raises:
            ImageError: an image cannot be read.
            ModelError, CheckpointError: the image encoder cannot be loaded, see `encoder`.
            UsageError: the embeddings have another shape than the model takes, or the strategy cannot honour an option.
        """
        if isinstance(decode, Strategy):
            strategy = decode
        else:
            name = infer_strategy(options, decode)
            strategy = self.strategy(name, DecodeOptions(captions=n, **options))
        if isinstance(inputs, np.ndarray | torch.Tensor):
            single = inputs.ndim == len(self.config.mapper.embedding_shape)
            embedding = self.check_embeddings(inputs[None] if single else inputs)
        else:
            single = isinstance(inputs, str | Path | Image.Image)
            images: list[ImageInput] = [inputs] if single else list(inputs)  # type: ignore[list-item, arg-type]
            embedding = self.encode(images)
        several = strategy.options.captions > 1
        results = [captions if several else captions[0] for captions in self.caption(embedding, strategy)]
        return results[0] if single else results

    def strategy(self, name: str | None, options: DecodeOptions) -> Strategy:
        """Build the decoding strategy of a name for this model.

        Args:
            name: `greedy`, `beam` or `sample`. None takes greedy, or for a foreign checkpoint its system's own
                default.
            options: what is asked of the strategy.

        Raises:
            UsageError: the system has no strategy of that name, or it cannot honour an option.
        """
        return choose_strategy(name, options, self.config.system)

    def caption(self, embedding: torch.Tensor, strategy: Strategy) -> list[list[str]]:
        """Caption embeddings with a strategy, `batch_size` at a time.

        Args:
            embedding: float (n, d), as `encode` and `check_embeddings` return them.
            strategy: built by `strategy`.

        Returns:
            For each embedding its captions, best first.
        """
        with torch.inference_mode(), autocast(self.device, self.precision):
            return strategy.captions(self.model, self._scaled(embedding), self.tokenizer, self.batch_size)

    def encode(self, images: Sequence[ImageInput]) -> torch.Tensor:
        """Encode images, `batch_size` at a time.

        Returns:
            float32 (n, d), on the CPU: the embeddings that stage 1 would cache, before it rounds them to float16.

        Raises:
            ImageError: an image cannot be read; the message names its file.
            ModelError, CheckpointError: the encoder cannot be loaded, see `encoder`.
        """
        parts = [torch.empty(0, *self.encoder.shape)]
        for start in range(0, len(images), self.batch_size):
            batch = images[start : start + self.batch_size]
            parts.append(self.encoder.encode(torch.stack([self.pixels(image) for image in batch])))
        return torch.cat(parts)

    def pixels(self, image: ImageInput) -> torch.Tensor:
        """Resize and crop an image as the encoder takes it.

        Returns:
            uint8 (H, W, 3).

        Raises:
            ImageError: the image cannot be read; the message names its file.
        """
        if isinstance(image, Image.Image):
            return to_pixels(to_rgb(image), self.encoder.transform)
        try:
            return to_pixels(open_image(Path(image)), self.encoder.transform)
        except ImageError as error:
            raise ImageError(f"{image}: {error}") from error

    def score(self, embeddings: Embeddings, captions: Sequence[str] | Sequence[Sequence[int]]) -> list[list[float]]:
        """Compute the loss of each token of captions, given the embeddings that they describe.

        The mean over all tokens is the validation loss of training; the sum over a caption is its negative
        log-probability.

        Args:
            embeddings: float (n, d).
            captions: n texts, one for each embedding; or the token ids of each, to which nothing is added.

        Returns:
            For each caption the losses of its tokens in order, in nats (natural logarithm). After a text comes the loss
            of end-of-text, except with rmokady's models, which were trained without it.

        Raises:
            UsageError: the number of captions is not that of the embeddings, the embeddings have another shape than
                the model takes, or a caption is empty or longer than the model has positions for.
        """
        if isinstance(captions, str) or not isinstance(embeddings, np.ndarray | torch.Tensor):
            raise UsageError("score takes embeddings, (n, d), and a list of n captions; encode() makes embeddings")
        embedding = self._scaled(self.check_embeddings(embeddings))
        return score_captions(
            self.model,
            self.tokenizer,
            embedding,
            captions,
            with_end=self.config.system != "rmokady",
            batch_size=self.batch_size,
            precision=self.precision,
        )

    def check_embeddings(self, embeddings: Embeddings) -> torch.Tensor:
        """Convert embeddings to float32 (n, d).

        Raises:
            UsageError: they have another shape than the model takes, or values that are not finite.
        """
        rows = torch.as_tensor(embeddings).float()
        shape = self.config.mapper.embedding_shape
        if rows.shape[1:] != shape:
            fact = f"embeddings have the shape {tuple(rows.shape)}"
            raise UsageError(f"{fact}; this model takes (n, {', '.join(map(str, shape))})")
        bad = (~rows.isfinite().flatten(1).all(dim=1)).nonzero()[:, 0].tolist()
        if bad:
            fact = f"{len(bad):,} of {len(rows):,} embeddings hold values that are not finite (as row {bad[0]})"
            raise UsageError(f"{fact}; leave those rows out")
        return rows

    def open_cache(self, path: Path) -> Cache:
        """Open a cache with the embeddings of the encoder that this model was trained on.

        Args:
            path: the index, or a single shard.

        Raises:
            CacheError: it cannot be opened.
            CheckpointError: they come from another encoder.
        """
        trained_on = self.config.encoder
        if self.settings.encoder:
            trained_on = replace(trained_on, encoder=self.settings.encoder)
        cache, differences = choose_embeddings(Cache.open(path), trained_on)
        if differences:
            raise CheckpointError(
                f"this model was trained on embeddings of another encoder than those in {path} ({differences[0]}); "
                "caption a cache of the same encoder"
            )
        return cache

    def _scaled(self, embedding: torch.Tensor) -> torch.Tensor:
        """Scale rows to length 1, if the model was trained on such rows."""
        return torch.nn.functional.normalize(embedding, dim=-1) if self.config.encoder.normalized else embedding
