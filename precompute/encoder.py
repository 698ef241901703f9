"""The frozen image tower of a CLIP: loading it through open_clip by name and tag or from a file, and encoding batches.

Knows nothing of datasets and caches.
"""

import difflib
import importlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from clipcap.data.errors import ModelError, UsageError, one_line
from clipcap.data.pretrained.bundled import EMBEDDED_ENCODERS
from clipcap.data.pretrained.device import autocast
from clipcap.data.pretrained.hub import use_hub_if_reachable
from clipcap.data.pretrained.remote_code import remote_code_refused
from clipcap.data.pretrained.weights import weights_sha256
from clipcap.precompute.features import FEATURES, Forward
from clipcap.precompute.weights_file import weights_file_error

if TYPE_CHECKING:
    from clipcap.precompute.images import Transform


@dataclass(kw_only=True)
class Encoder:
    """A frozen image encoder with its preprocessing.

    Attributes:
        name: open_clip's name of the architecture.
        pretrained: tag, or absolute path of the weights' file.
        weights_sha256: over the image tower.
        quick_gelu: whether it computes with QuickGELU.
        preprocess: size (height, width), mean, std, interpolation, resize_mode, fill_color.
        transform: a PIL picture in RGB -> a PIL picture of the right size.
        features: `projected`, `pooled` or `patches`.
        precision: `fp32`, `bf16` or `fp16`.
    """

    name: str
    pretrained: str
    weights_sha256: str
    quick_gelu: bool
    preprocess: dict[str, Any]
    transform: "Transform"
    features: str
    precision: str
    _forward: Forward
    _device: torch.device

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """Of an embedding, (d,) or (t, d): one black picture tells, for every architecture."""
        return tuple(self.encode(torch.zeros(1, *self.preprocess["size"], 3, dtype=torch.uint8)).shape[1:])

    @torch.inference_mode()
    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        """Embed pictures.

        Args:
            pixels: uint8 (B, H, W, 3), on any device.

        Returns:
            float32 (B, d), or (B, t, d) of patches, on the CPU, not normalised.
        """
        mean = torch.tensor(self.preprocess["mean"], device=self._device).view(3, 1, 1)
        std = torch.tensor(self.preprocess["std"], device=self._device).view(3, 1, 1)
        batch = pixels.to(self._device, non_blocking=True).permute(0, 3, 1, 2)  # (B, 3, H, W)
        batch = ((batch.float() / 255) - mean) / std
        with autocast(self._device, self.precision):
            embedding = self._forward(batch)
        return embedding.float().cpu()


def load_encoder(
    name: str,
    pretrained: str | None = None,
    *,
    device: torch.device,
    precision: str = "fp32",
    features: str = "projected",
    quick_gelu: bool = False,
) -> Encoder:
    """Load a CLIP for encoding pictures.

    Args:
        name: an open_clip name (`ViT-B-32`), a folder with open_clip's `open_clip_config.json` and weights,
            `hf-hub:NAME`, or `demo`.
        pretrained: a tag (`openai`), a file of weights, or such a folder; by default the tag `openai` where there is
            one.
        device: where to encode.
        precision: `fp32`, `bf16` or `fp16`.
        features: `projected`: the embedding that CLIP compares with texts; `pooled`: before its projection;
            `patches`: one for each patch.
        quick_gelu: compute with QuickGELU though neither name nor tag say so, as weights in a file may need.

    Raises:
        UsageError: the tag or the kind of features is not known.
        ModelError: the architecture is not known, its weights cannot be had, or do not fit it.
    """
    if features not in FEATURES:
        raise UsageError(f"--features {features} is not known; use {', '.join(FEATURES)}")
    open_clip = importlib.import_module("open_clip")
    choice = _choose(open_clip, name, pretrained)
    try:
        with remote_code_refused():  # a folder may name a text tower of transformers
            model = open_clip.create_model(
                choice.model_name,
                pretrained=choice.weights,
                force_quick_gelu=quick_gelu or choice.quick_gelu,
                precision="fp32",
                device="cpu",
                require_pretrained=True,
            )
    except Exception as error:  # open_clip raises RuntimeError, OSError, KeyError, and what torch.load raises
        raise _load_error(choice, error) from error
    # The text tower goes: of the large ones it is gigabytes.
    return freeze_tower(
        model.visual, choice.name, choice.pretrained, device=device, precision=precision, features=features
    )


def quick_gelu_twin(encoder: Encoder) -> str | None:
    """The architecture that its weights may be meant for, where they came from a file, which does not say so.

    OpenAI trained with QuickGELU; computed with GELU, their weights give embeddings that are quietly worse.
    """
    twin = f"{encoder.name}-quickgelu"
    doubtful = Path(encoder.pretrained).is_file() and not encoder.quick_gelu and encoder.name.startswith("ViT")
    return twin if doubtful and twin in importlib.import_module("open_clip").list_models() else None


def freeze_tower(
    tower: nn.Module, name: str, pretrained: str, *, device: torch.device, precision: str, features: str
) -> Encoder:
    """An encoder of an open_clip model's image tower.

    Args:
        tower: `model.visual`, with its weights; is moved and frozen, and loses what `features` leaves out.
        name, pretrained: what to call it.
        device, precision, features: as for `load_encoder`.

    Raises:
        UsageError: the tower has no features of this kind.
    """
    tower.eval().requires_grad_(False)
    config: Any = tower.preprocess_cfg
    preprocess = {
        key: list(value) if isinstance(value, tuple) else value for key, value in config.items() if key != "mode"
    }
    size = preprocess["size"]
    preprocess["size"] = [size, size] if isinstance(size, int) else size
    sha256 = weights_sha256(tower)  # of the whole tower, whichever features are taken from it
    forward = FEATURES[features](tower)
    tower.to(device)
    return Encoder(
        name=name,
        pretrained=pretrained,
        weights_sha256=sha256,
        quick_gelu=any(type(part).__name__ == "QuickGELU" for part in tower.modules()),
        preprocess=preprocess,
        transform=_picture_transform(config),
        features=features,
        precision=precision,
        _forward=forward,
        _device=device,
    )


@dataclass(frozen=True, kw_only=True)
class _Choice:
    """What was asked for: `name` and `pretrained` as the fingerprint records it, the rest as open_clip takes it."""

    name: str
    pretrained: str
    model_name: str
    weights: str | None = None
    quick_gelu: bool = False


def _choose(open_clip: Any, name: str, pretrained: str | None) -> _Choice:
    if name.startswith("hf-hub:") or name in EMBEDDED_ENCODERS:
        if pretrained not in (None, name):
            raise UsageError(f"--encoder {name} brings its own weights; leave --pretrained {pretrained} out")
        if name in EMBEDDED_ENCODERS:
            return _Choice(name=name, pretrained=name, model_name=f"local-dir:{EMBEDDED_ENCODERS[name]}")
        use_hub_if_reachable()
        return _Choice(name=name, pretrained=name, model_name=name)
    known = open_clip.list_models()
    folder = Path(pretrained or name.removeprefix("local-dir:"))
    if folder.is_dir() and str(folder) not in known:
        if not (folder / "open_clip_config.json").is_file():
            raise ModelError(f"{folder} has no open_clip_config.json; give a folder that open_clip saved, or a name")
        return _Choice(name=folder.name, pretrained=str(folder.resolve()), model_name=f"local-dir:{folder}")
    name = name.replace("/", "-")  # OpenAI's spelling, ViT-B/32
    if name not in known:
        near = ", ".join(difflib.get_close_matches(name, known, 3, 0.4)) or "none"
        raise ModelError(f"--encoder {name} is neither a folder nor an architecture of open_clip; near names: {near}")
    tags = open_clip.list_pretrained_tags_by_model(name)
    listed = ", ".join(tags) or "(it has none)"
    if pretrained is None and "openai" not in tags:
        raise UsageError(f"{name} has no weights by default; give --pretrained FILE or one of: {listed}")
    pretrained = pretrained or "openai"
    if Path(pretrained).is_file():
        file = str(Path(pretrained).resolve())
        return _Choice(name=name, pretrained=file, model_name=name, weights=file)
    tag = open_clip.get_pretrained_cfg(name, pretrained)
    if not tag:
        raise UsageError(f"--pretrained {pretrained} is neither a file nor a tag of {name}; its tags: {listed}")
    use_hub_if_reachable()
    # open_clip itself only warns when an architecture without QuickGELU gets weights that were trained with it.
    gelu = bool(tag.get("quick_gelu"))
    return _Choice(name=name, pretrained=pretrained, model_name=name, weights=pretrained, quick_gelu=gelu)


def _load_error(choice: _Choice, error: Exception) -> ModelError:
    fact = one_line(error)
    if Path(choice.pretrained).is_file():
        return weights_file_error(Path(choice.pretrained), choice.name, fact)
    if choice.model_name.startswith("local-dir:"):
        return ModelError(f"{choice.pretrained} could not be loaded ({fact[:200]}); see that its weights are there")
    if use_hub_if_reachable():
        return ModelError(f"the weights {choice.pretrained!r} of {choice.name} could not be loaded ({fact[:200]})")
    return ModelError(
        f"the weights {choice.pretrained!r} of {choice.name} could not be had: no network, and they were never "
        "downloaded here; connect once, or give a file of weights with --pretrained FILE"
    )


def _picture_transform(config: dict[str, Any]) -> "Transform":
    """open_clip's own way from a picture to a square, without its last two steps: those run on the device."""
    transforms = importlib.import_module("open_clip.transform")
    whole = transforms.image_transform_v2(transforms.PreprocessCfg(**config), is_train=False)
    steps = whole.transforms[:-2]
    assert [type(step).__name__ for step in whole.transforms[-2:]] == ["MaybeToTensor", "Normalize"], whole
    return type(whole)(steps)  # type: ignore[no-any-return]
