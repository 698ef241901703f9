"""What a person holds: a checkpoint that captions pictures and embeddings.

    captioner = Captioner.from_checkpoint("checkpoints/best")
    captioner("dog.jpg")                     # one caption
    captioner(["dog.jpg", "cat.jpg"])        # a list of them
    captioner(embeddings)                    # (n, d): a list; no CLIP is loaded
    captioner.score(embeddings, captions)    # the loss of each token

n pictures or embeddings, d numbers in an embedding. Where a model was trained on patches, an embedding is (t, d), and
every (n, d) here is (n, t, d).
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image

from clipcap.caption.decoding.base import Strategy
from clipcap.caption.decoding.options import DecodeOptions
from clipcap.caption.decoding.registry import choose_strategy
from clipcap.caption.trained_encoder import load_trained_encoder
from clipcap.data.cache.fingerprint import Fingerprint
from clipcap.data.errors import CheckpointError, ImageError, UsageError
from clipcap.data.pretrained.device import autocast, choose_device, choose_precision
from clipcap.data.pretrained.tokenizer import encode_captions
from clipcap.precompute.encoder import Encoder
from clipcap.precompute.images import open_image, to_pixels, to_rgb
from clipcap.train.foreign import load_foreign
from clipcap.train.model.captioning import ClipCapModel
from clipcap.train.model.checkpoint import CheckpointConfig, load_checkpoint
from clipcap.train.model.find import find_checkpoint

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Picture = str | Path | Image.Image
Embeddings = np.ndarray[Any, Any] | torch.Tensor


class Captioner:
    """Captions pictures and embeddings with one checkpoint. CLIP is loaded when the first picture comes, not before.

    Args:
        model: in evaluation mode, on `device`.
        tokenizer: of its language model.
        config: what its checkpoint says of it.
        device: of the model, and of CLIP.
        precision: `fp32`, `bf16` or `fp16`.
        encoder_name: CLIP, where the checkpoint does not say which, or is to be overruled.
        pretrained: a file or folder of CLIP weights, where the one that the checkpoint names has moved.
        batch_size: pictures, embeddings or captions in a forward pass.
    """

    def __init__(
        self,
        model: ClipCapModel,
        tokenizer: "PreTrainedTokenizerBase",
        config: CheckpointConfig,
        device: torch.device,
        precision: str,
        encoder_name: str | None = None,
        pretrained: str | None = None,
        batch_size: int = 32,
    ) -> None:
        self.model, self.tokenizer, self.config = model, tokenizer, config
        self.device, self.precision = device, precision
        self.batch_size = batch_size
        self._encoder_name, self._pretrained = encoder_name, pretrained
        self._encoder: Encoder | None = None

    @classmethod
    def from_checkpoint(
        cls,
        path: str | Path,
        *,
        device: str = "auto",
        precision: str = "auto",
        encoder: str | None = None,
        pretrained: str | None = None,
        tokenizer: str | None = None,
        normalize: bool = False,
        heads: int | None = None,
        batch_size: int = 32,
    ) -> "Captioner":
        """Open a checkpoint that `clipcap-train` wrote, or a file of one of the systems before it.

        Args:
            path: its folder, or a run's folder (then its best); or a `.pt` or `.pkl` file of rmokady's, jmisilo's or
                Lahdhirim's code.
            device: `auto`, `cpu`, `cuda`, `cuda:1` or `mps`.
            precision: `auto`, `fp32`, `bf16` or `fp16`; `auto` is bf16 on a GPU that has it, else fp32.
            encoder: CLIP, where the checkpoint does not know it; of a foreign file, by default the published one.
            pretrained: CLIP weights, where they are no longer where the checkpoint says.
            tokenizer: of a foreign file; by default GPT-2's.
            normalize: a foreign file was trained on embeddings of length 1.
            heads: of the attention of a foreign file's GPT-2, where it is of no published size.
            batch_size: pictures, embeddings or captions in a forward pass.

        Raises:
            CheckpointError: there is none, or it is broken.
            UsageError: the device or the precision is not known, or what only a foreign file lacks is given for ours.
        """
        found = find_checkpoint(Path(path))
        where = choose_device(device)
        arithmetic = choose_precision(precision, where)
        model: ClipCapModel
        if found.is_file():
            model, words, config = load_foreign(found, tokenizer=tokenizer, normalize=normalize, heads=heads)
        elif tokenizer is not None or normalize or heads is not None:
            raise UsageError(
                f"{found} knows its tokenizer, rows and heads; leave --tokenizer, --normalize, --heads out"
            )
        else:
            model, words, config = load_checkpoint(found)
        return cls(model.to(where), words, config, where, arithmetic, encoder, pretrained, batch_size)

    @property
    def encoder(self) -> Encoder:
        """The image encoder that the model was trained on; loaded on first use.

        Raises:
            ModelError: it cannot be had.
            CheckpointError: its weights are not those that the model was trained on.
        """
        if self._encoder is None:
            self._encoder = load_trained_encoder(
                self.config, self._encoder_name, self._pretrained, device=self.device, precision=self.precision
            )
        return self._encoder

    def __call__(
        self,
        inputs: "Picture | Sequence[Picture] | Embeddings",
        *,
        decode: str | Strategy | None = None,
        n: int = 1,
        **options: Any,
    ) -> Any:
        """Caption pictures or embeddings.

        Args:
            inputs: a path, a PIL picture, a list of them, or embeddings, float (n, d) or (d,), as the cache has them.
            decode: `greedy`, `beam`, `sample`, or a strategy (which brings its own options); by default greedy, or what
                a foreign checkpoint's own code does.
            n: captions of each input.
            options: of `DecodeOptions`: max_tokens, stop, beams, temperature, top_p, ...

        Returns:
            A caption for a single input, a list for several. With `n` above 1 each caption is a list, best first.

        Raises:
            ImageError: a picture cannot be read.
            UsageError: the embeddings have another width, or an option cannot be honoured.
        """
        strategy = (
            decode if isinstance(decode, Strategy) else self.strategy(decode, DecodeOptions(captions=n, **options))
        )
        if isinstance(inputs, np.ndarray | torch.Tensor):
            single = inputs.ndim == len(self.config.mapper.embedding_shape)
            embedding = self.check_embeddings(inputs[None] if single else inputs)
        else:
            single = isinstance(inputs, str | Path | Image.Image)
            pictures: list[Picture] = [inputs] if single else list(inputs)  # type: ignore[list-item, arg-type]
            embedding = self.encode(pictures)
        several = strategy.options.captions > 1
        results = [some if several else some[0] for some in self.caption(embedding, strategy)]
        return results[0] if single else results

    def strategy(self, name: str | None, options: DecodeOptions) -> Strategy:
        """The decoding strategy of that name for this model, or its own.

        Raises:
            UsageError: there is none of that name, or it cannot do what the options ask for.
        """
        return choose_strategy(name, options, self.config.system)

    def caption(self, embedding: torch.Tensor, strategy: Strategy) -> list[list[str]]:
        """The captions of each embedding, float (n, d), best first."""
        captions: list[list[str]] = []
        for part in self._scaled(embedding).split(self.batch_size) if len(embedding) else ():
            with torch.inference_mode(), autocast(self.device, self.precision):
                captions.extend(strategy.captions(self.model, part.to(self.device), self.tokenizer))
        return captions

    def encode(self, pictures: Sequence[Picture]) -> torch.Tensor:
        """The embeddings of pictures, float32 (n, d), as stage 1 would cache them (but not rounded to float16).

        Raises:
            ImageError: one cannot be read; the message names it.
        """
        parts = [torch.empty(0, *self.encoder.shape)]
        for start in range(0, len(pictures), self.batch_size):
            some = pictures[start : start + self.batch_size]
            parts.append(self.encoder.encode(torch.stack([self.pixels(picture) for picture in some])))
        return torch.cat(parts)

    def pixels(self, picture: Picture) -> torch.Tensor:
        """What the encoder takes of a picture, uint8 (H, W, 3).

        Raises:
            ImageError: it cannot be read; the message names its file.
        """
        if isinstance(picture, Image.Image):
            return to_pixels(to_rgb(picture), self.encoder.transform)
        try:
            return to_pixels(open_image(Path(picture)), self.encoder.transform)
        except ImageError as error:
            raise ImageError(f"{picture}: {error}") from error

    def _scaled(self, embedding: torch.Tensor) -> torch.Tensor:
        """Rows of length 1, where the model was trained on such; else as they are."""
        return torch.nn.functional.normalize(embedding, dim=-1) if self.config.encoder.normalized else embedding

    def score(self, embeddings: Embeddings, captions: Sequence[str] | Sequence[Sequence[int]]) -> list[list[float]]:
        """The loss of each token of each caption, the end-of-text that follows it included.

        Captions of rmokady's models have none: they were trained without.

        Args:
            embeddings: float (n, d).
            captions: n texts, one an embedding; or their tokens, to which nothing is added.

        Returns:
            A list a caption: natural-log losses (nats) of its tokens in order.

        Raises:
            UsageError: the numbers or widths do not fit, or a caption has nothing in it or more than fits into the
                model.
        """
        if isinstance(captions, str) or not isinstance(embeddings, np.ndarray | torch.Tensor):
            raise UsageError("score takes embeddings, (n, d), and a list of n captions; encode() makes embeddings")
        embedding = self._scaled(self.check_embeddings(embeddings))
        if len(embedding) != len(captions):
            raise UsageError(f"{len(embedding)} embeddings and {len(captions)} captions; give one caption an embedding")
        tokens = [self._tokens(caption) for caption in captions]
        room = self.model.gpt.config.n_positions - self.config.mapper.prefix_length
        for text, row in zip(captions, tokens, strict=True):
            nothing = not text.strip() if isinstance(text, str) else not text
            if nothing or len(row) > room:
                fact = f"a caption of {0 if nothing else len(row)} tokens cannot be scored"
                raise UsageError(f"{fact} (1 to {room} can): {text[:60]!r}")
        losses: list[list[float]] = []
        for start in range(0, len(tokens), self.batch_size):
            rows = [torch.tensor(row) for row in tokens[start : start + self.batch_size]]
            lengths = torch.tensor([len(row) for row in rows])
            padded = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
            part = embedding[start : start + self.batch_size]
            with torch.inference_mode(), autocast(self.device, self.precision):
                flat = self.model.token_losses(
                    part.to(self.device), padded.to(self.device), lengths.to(self.device)
                ).cpu()
            losses.extend(part.tolist() for part in flat.split(lengths.tolist()))
        return losses

    def _tokens(self, caption: str | Sequence[int]) -> list[int]:
        if not isinstance(caption, str):
            return list(caption)
        (tokens,) = encode_captions(self.tokenizer, [caption])
        return tokens[:-1] if self.config.system == "rmokady" else tokens

    def check_embeddings(self, embeddings: Embeddings) -> torch.Tensor:
        """Embeddings as float32 (n, d).

        Raises:
            UsageError: they have another shape, or values that are not finite.
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

    def check_fingerprint(self, cache: Path, fingerprint: Fingerprint) -> None:
        """Refuse a cache whose embeddings came from another encoder than this model was trained on.

        Raises:
            CheckpointError: they did.
        """
        trained_on = self.config.encoder
        if self._encoder_name:
            trained_on = replace(trained_on, encoder=self._encoder_name)
        if trained_on.normalized:  # rows are scaled here, whatever their length
            fingerprint = replace(fingerprint, normalized=True)
        differences = trained_on.encoder_differences(fingerprint)
        if differences:
            raise CheckpointError(
                f"this model was trained on embeddings of another encoder than those in {cache} ({differences[0]}); "
                "caption a cache of the same encoder"
            )
