"""Loads the text tower of the CLIP that made the embeddings of a cache, and encodes texts with it.

The weights of its image tower must have the hash that the cache records, so that images and texts can be compared. This
module knows nothing of metrics. n texts, d numbers in an embedding.
"""

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.func import functional_call

from clipcap.data.cache.fingerprint import UNKNOWN, Fingerprint
from clipcap.data.errors import ModelError, UsageError, one_line
from clipcap.data.memory import exhausted_memory
from clipcap.data.pretrained.device import autocast
from clipcap.data.pretrained.hub import use_hub_if_reachable
from clipcap.data.pretrained.model_folder import check_tokenizer_files
from clipcap.data.pretrained.remote_code import remote_code_refused
from clipcap.data.pretrained.weights import weights_sha256
from clipcap.precompute.encoders.clip import load_clip
from clipcap.precompute.encoders.clip_choice import LOCAL, EncoderChoice

TEXTS_IN_BATCH = 256
Tokenize = Callable[[list[str]], torch.Tensor]  # texts become token ids, int64 (n, context length)


@dataclass(kw_only=True)
class TextTower:
    """A frozen text tower of a CLIP with its tokenizer.

    Attributes:
        name: open_clip's name of the architecture.
        pretrained: the tag of the weights, or the absolute path of their file.
        width: d.
        precision: `fp32`, `bf16` or `fp16`.
    """

    name: str
    pretrained: str
    width: int
    precision: str
    _model: "_TextModel"
    _tokenize: Tokenize
    _device: torch.device

    @torch.inference_mode()
    def encode(self, texts: Sequence[str]) -> torch.Tensor:
        """Encode texts, in batches. A text that is too long loses its end, as open_clip has it.

        Args:
            texts: n texts as people write them; the tokenizer cleans them as the CLIP was trained.

        Returns:
            float32 (n, d) on the CPU, not normalised.
        """
        embedding = torch.empty(len(texts), self.width)
        batches = [self._tokenize(list(texts[i : i + TEXTS_IN_BATCH])) for i in range(0, len(texts), TEXTS_IN_BATCH)]
        if not batches:
            return embedding
        tokens = torch.cat(batches)  # (n, context length)
        length = self._model.lengths(tokens)
        for chosen in length.argsort(stable=True).split(TEXTS_IN_BATCH):  # texts of about the same length
            batch = tokens[chosen, : int(length[chosen].max())]
            with autocast(self._device, self.precision):
                embedding[chosen] = self._model(batch.to(self._device)).float().cpu()
        return embedding


class _TextModel(nn.Module):
    """An open_clip model as a function of texts, which leaves out padding where that changes nothing.

    A CLIP takes the output at the end-of-text token, which sees only the tokens before it. Captions fill a fifth of the
    context length, so that most of the time would go into padding. Models of other kinds get all of it.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        clip: Any = importlib.import_module("open_clip").CLIP
        self._ignores_padding = (
            isinstance(model, clip) and model.text_pool_type == "argmax" and model.attn_mask is not None
        )

    def lengths(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return how many tokens of each text are needed: int64 (n) of tokens (n, context length)."""
        if self._ignores_padding:
            return tokens.argmax(dim=1) + 1  # end-of-text has the highest number
        return torch.full((len(tokens),), tokens.shape[1])

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Encode texts: int64 (B, T) to float (B, d), not normalised."""
        T = tokens.shape[1]
        embedding: torch.Tensor
        if self._ignores_padding and len(self.model.positional_embedding) != T:
            shorter = {
                "positional_embedding": self.model.positional_embedding[:T],
                "attn_mask": self.model.attn_mask[:T, :T],
            }
            # Calls this function again, with these tensors in place of those of the whole context length.
            embedding = functional_call(self, {f"model.{name}": value for name, value in shorter.items()}, tokens)
        else:
            embedding = self.model.encode_text(tokens, normalize=False)
        return embedding


def load_text_tower(
    fingerprint: Fingerprint, pretrained: str | None = None, *, device: torch.device, precision: str = "fp32"
) -> TextTower:
    """Load the text tower of the encoder that made the embeddings of a cache.

    If the fingerprint has no hash, as for imported embeddings whose encoder the user named, only the width is checked.

    Args:
        fingerprint: the recipe of the cache.
        pretrained: the weights, if they are no longer where the fingerprint records them.
        device: where the text tower runs.
        precision: `fp32`, `bf16` or `fp16`.

    Raises:
        ModelError: the encoder is not recorded or is not one of open_clip, the embeddings are not those that CLIP
            compares with texts, the weights are not those that made the embeddings, or something cannot be loaded.
    """
    if fingerprint.encoder == UNKNOWN:
        raise ModelError(
            "the encoder of these embeddings is not recorded, so there is no text tower for them; import them again "
            "with their `encoder`"
        )
    if fingerprint.features != "projected":
        raise ModelError(
            f"embeddings of `features` {fingerprint.features} cannot be compared with texts; make a cache with "
            "`features` projected"
        )
    if pretrained is None and fingerprint.pretrained != UNKNOWN:
        pretrained = fingerprint.pretrained
    if pretrained is not None and Path(pretrained).is_absolute() and not Path(pretrained).exists():
        raise ModelError(
            f"the CLIP weights that made these embeddings are no longer at {pretrained}; give the file as `pretrained`"
        )
    try:
        choice, model = load_clip(fingerprint.encoder, pretrained, quick_gelu=fingerprint.quick_gelu)
    except UsageError as error:  # a tag that this version of open_clip does not have
        raise ModelError(str(error)) from error
    sha256 = weights_sha256(model.visual)
    if fingerprint.checked and sha256 != fingerprint.weights_sha256:
        raise ModelError(
            f"{choice.pretrained} is not the encoder that made these embeddings (hash of the weights {sha256[:12]}, "
            f"not {fingerprint.weights_sha256[:12]}); give the right weights as `pretrained`"
        )
    for part in ("visual", "text_decoder"):  # the image tower, and CoCa's captioner, may take gigabytes
        if hasattr(model, part):
            delattr(model, part)
    model = _TextModel(model.eval().requires_grad_(False))
    tokenize = _load_tokenizer(choice)
    width = _text_width(choice, model, tokenize)  # on the CPU: on a GPU, an unknown token ends the process
    if width != fingerprint.width:
        raise ModelError(
            f"the text tower of {choice.name} makes {width} numbers and the embeddings have {fingerprint.width}, so "
            "another encoder made them; import them again with their `encoder`"
        )
    return TextTower(
        name=choice.name,
        pretrained=choice.pretrained,
        width=width,
        precision=precision,
        _model=model.to(device),
        _tokenize=tokenize,
        _device=device,
    )


def _load_tokenizer(choice: EncoderChoice) -> Tokenize:
    """Load the tokenizer that open_clip has for a model."""
    open_clip = importlib.import_module("open_clip")
    if choice.weights is not None and "hf_tokenizer_name" in open_clip.get_model_config(choice.name)["text_cfg"]:
        use_hub_if_reachable()
    try:
        if choice.model_name.startswith(LOCAL):
            check_tokenizer_files(Path(choice.model_name.removeprefix(LOCAL)))
        with remote_code_refused():
            tokenizer: Tokenize = open_clip.get_tokenizer(choice.model_name)
    except Exception as error:  # transformers raises OSError, ValueError, ImportError and the errors of its parsers
        if exhausted_memory(error):
            raise
        raise ModelError(
            f"the tokenizer of the text tower of {choice.name} cannot be loaded ({one_line(error)[:200]}); connect "
            "once, or put its files into the folder of the encoder"
        ) from error
    return tokenizer


@torch.inference_mode()
def _text_width(choice: EncoderChoice, model: _TextModel, tokenize: Tokenize) -> int:
    """Return d of a text tower, found by encoding a short text, which also shows whether the tokenizer is its own.

    Raises:
        ModelError: the tower lacks tokens of the tokenizer.
    """
    try:
        return int(model(tokenize(["A photo"])).shape[1])
    except IndexError as error:
        raise ModelError(
            f"the text tower of {choice.name} lacks tokens of its tokenizer, which must be another one; put the "
            "right tokenizer into the folder of the encoder, and name it in open_clip_config.json"
        ) from error
