"""The fingerprint: the encoder, tokenizer, dataset and settings that a cache was made with.

All shards of a cache have the same one, and a checkpoint keeps the one of the cache that it was trained on:

    stage 1 --fingerprint--> cache --fingerprint--> checkpoint --encoder_differences--> the encoder that captions
"""

import json
import typing
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from clipcap.data.errors import CacheError, UsageError
from clipcap.data.files import as_object, parse_json
from clipcap.data.settings import check_type

# Fields that say where something came from. They do not change a number in the tables.
_PROVENANCE = ("pretrained", "tokenizer", "version")
# Fields that describe the dataset. It may grow after some shards were written.
_DATASET = ("source_format", "source_sha256")
# What messages call the fields that hold a hash.
_LABELS = {
    "weights_sha256": "weights of the encoder",
    "tokenizer_sha256": "tokens of the tokenizer",
    "source_sha256": "images, captions or splits of the source",
}
# The encoder of imported embeddings whose encoder is not recorded.
UNKNOWN = "unknown"
# Fields that are compared if either hash of the weights is not known.
_UNCHECKED = ("features", "width", "normalized")
# No encoder has wider embeddings, nor as many images in a pass, shards or views.
_LARGEST = {"width": 1 << 20, "batch_size": 1 << 31, "shard_size": 1 << 31, "views": 1 << 16}
# Fields that two image encoders must share for their embeddings to mean the same.
_ENCODER = ("encoder", "weights_sha256", "quick_gelu", "features", "width", "preprocess", "normalized")


@dataclass(frozen=True, kw_only=True)
class Fingerprint:
    """What a cache was made with. It is stored as JSON in the index, in every shard and in checkpoints.

    Attributes:
        encoder: open_clip's name of the architecture, or the name of a folder that open_clip saved.
        pretrained: the tag of its weights, or the absolute path of the file they came from.
        weights_sha256: hash of the weights of the image tower; it does not depend on the kind of file.
        quick_gelu: whether the encoder computes with QuickGELU; without it the same weights give other embeddings.
        features: the kind of feature: `projected`, `pooled` or `patches`.
        width: d, the numbers in an embedding, or in one patch of it.
        preprocess: size (height, width), mean, std, interpolation, resize_mode and fill_color of the preprocessing.
        normalized: whether the embeddings were scaled to length 1.
        tokenizer: name or folder of the tokenizer.
        tokenizer_sha256: hash of what decides its tokens.
        source_format: name of the reader.
        source_sha256: hash of ids, paths, splits and captions of all records.
        split_seed: seed of the drawn split, None where the dataset's own splits were used.
        precision: precision of the encoder: `fp32`, `bf16` or `fp16`.
        batch_size: images in a forward pass; it changes the last bits of an embedding.
        shard_size: records of the source in each shard.
        version: version of the program.
        views: random crops and flips of each training image that were encoded besides the image.
    """

    encoder: str
    pretrained: str
    weights_sha256: str
    quick_gelu: bool
    features: str
    width: int
    preprocess: dict[str, Any]
    normalized: bool
    tokenizer: str
    tokenizer_sha256: str
    source_format: str
    source_sha256: str
    split_seed: int | None
    precision: str
    batch_size: int
    shard_size: int
    version: str
    views: int = 0

    @classmethod
    def unchecked(cls, *, encoder: str, width: int, **known: Any) -> "Fingerprint":
        """Make the fingerprint of imported embeddings. Fields that are not known are empty and are never compared.

        Args:
            encoder: the architecture as the user names it, or `UNKNOWN`.
            width: numbers in an embedding.
            known: other fields that are known.
        """
        empty: dict[str, Any] = {
            "pretrained": UNKNOWN, "weights_sha256": "", "quick_gelu": False, "features": "projected", "preprocess": {},
            "normalized": False, "tokenizer": "", "tokenizer_sha256": "", "source_format": "", "source_sha256": "",
            "split_seed": None, "precision": "", "batch_size": 0, "shard_size": 0, "version": "",
        }  # fmt: skip
        return cls(**{**empty, **known, "encoder": encoder, "width": width})

    @property
    def checked(self) -> bool:
        """Whether the hash of the encoder's weights is known, as for all embeddings that this program made."""
        return bool(self.weights_sha256)

    def to_json(self) -> str:
        """Return the JSON that is stored: one line with sorted keys."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> "Fingerprint":
        """Read what `to_json` wrote. Unknown keys are ignored.

        Raises:
            CacheError: the text is not JSON, a key is missing, or a value is of another type or out of bounds.
        """
        try:
            content = {"views": 0, **as_object(parse_json(text))}  # version 0.1 did not record views
            for name, kind in typing.get_type_hints(cls).items():
                _check_field(name, content[name], kind)
            return cls(**{name: content[name] for name in cls.__dataclass_fields__})
        except (ValueError, KeyError, UsageError) as error:
            fact = str(error).replace("`", "")  # a field is no option, though some have the same name
            raise CacheError(f"its fingerprint cannot be read ({type(error).__name__}: {fact})") from error

    def differences(self, other: "Fingerprint") -> list[str]:
        """Return the fields that differ, such as `encoder: ViT-B-32, not RN50`, without those that say only origins."""
        names = [name for name in self.__dataclass_fields__ if name not in _PROVENANCE]
        return self._compare(other, names)

    def recipe_differences(self, other: "Fingerprint") -> list[str]:
        """Return the differences that keep rows out of one cache: all but what describes the dataset."""
        return self._compare(other, [n for n in self.__dataclass_fields__ if n not in (*_PROVENANCE, *_DATASET)])

    def reuse_differences(self, other: "Fingerprint") -> list[str]:
        """Return what keeps rows with this fingerprint from being copied into a cache with the other one."""
        return self._compare(other, [*_ENCODER, "precision"])

    def encoder_differences(self, other: "Fingerprint") -> list[str]:
        """Return what makes the embeddings differ in meaning, as far as is known; empty if they can be mixed."""
        if self.checked and other.checked:
            return self._compare(other, list(_ENCODER))
        names = [_plain_name(name) for name in (self.encoder, other.encoder)]
        differences = self._compare(other, list(_UNCHECKED))
        if UNKNOWN not in names and names[0] != names[1]:
            differences.insert(0, f"encoder: {self.encoder}, not {other.encoder}")
        return differences

    def token_differences(self, other: "Fingerprint") -> list[str]:
        """Return what makes the tokens of the same captions differ; empty if it is the same tokenizer."""
        return self._compare(other, ["tokenizer_sha256"])

    def _compare(self, other: "Fingerprint", names: list[str]) -> list[str]:
        return [
            f"{_LABELS.get(name, name)}: {_short(getattr(self, name))}, not {_short(getattr(other, name))}"
            for name in names
            if getattr(self, name) != getattr(other, name)
            # The same weights may have several names: `ViT-B-32`, and any folder that they were saved to.
            and not (name == "encoder" and self.checked and self.weights_sha256 == other.weights_sha256)
        ]


def distinct_names(fingerprints: Sequence[Fingerprint]) -> list[str]:
    """Name encoders, no two alike: by `encoder`, and where that is not enough by `features` and `pretrained` too."""
    candidates = [
        [one.encoder, f"{one.encoder}:{one.features}", f"{one.encoder}:{one.pretrained}", f"{one.encoder}:{number}"]
        for number, one in enumerate(fingerprints)
    ]
    return [
        next((name for name in own if sum(name in others for others in candidates) == 1), own[-1]) for own in candidates
    ]


def _check_field(name: str, value: Any, kind: Any) -> None:
    """Check a field of stored JSON.

    Raises:
        ValueError, UsageError: the value is of another type than the field, or out of bounds.
    """
    check_type(name, value, kind)
    if name == "preprocess":
        as_object(value)
    least = 1 if name == "width" else 0
    if name in _LARGEST and not least <= value <= _LARGEST[name]:
        raise ValueError(f"{name} is {value}")


def _plain_name(encoder: str) -> str:
    """Return one spelling of a name that is written in several ways: ViT-B/32, ViT-B-32, ViT-B-32-quickgelu."""
    return encoder.replace("/", "-").removesuffix("-quickgelu").lower()


def _short(value: Any) -> str:
    """Return the first twelve digits of a hash, or any other value as text."""
    text = json.dumps(value) if isinstance(value, dict) else str(value)
    return text[:12] if len(text) == 64 and text.isalnum() else text
