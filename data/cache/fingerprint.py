"""What a cache was made with: the recipe that two shards must share, and that a checkpoint remembers of its encoder."""

import json
from dataclasses import asdict, dataclass
from typing import Any

from clipcap.data.errors import CacheError

# What says where something came from, but does not change a single number in the tables.
_PROVENANCE = ("pretrained", "tokenizer", "version")
# What a person calls a sum.
_WORDS = {
    "weights_sha256": "weights of the encoder",
    "tokenizer_sha256": "tokens of the tokenizer",
    "source_sha256": "pictures, captions or splits of the source",
}
# The encoder of embeddings that came without its name.
UNKNOWN = "unknown"
# What is compared where the weights of either are not known.
_UNCHECKED = ("features", "width", "normalized")
# What an image encoder must have in common with another for their embeddings to mean the same.
_ENCODER = ("encoder", "weights_sha256", "quick_gelu", "features", "width", "preprocess", "normalized")


@dataclass(frozen=True, kw_only=True)
class Fingerprint:
    """The recipe of a cache. Stored as JSON in the index and in every shard.

    Attributes:
        encoder: open_clip's name of the architecture; of a folder that open_clip saved, the folder's.
        pretrained: the tag of its weights, or the absolute path of the file they came from.
        weights_sha256: over the image tower as it was loaded, whatever kind of file it came from.
        quick_gelu: whether the tower computes with QuickGELU; the same weights mean something else without.
        features: the kind of feature: `projected`, `pooled` or `patches`.
        width: numbers in an embedding.
        preprocess: size (height, width), mean, std, interpolation, resize_mode and fill_color of the picture's way in.
        normalized: whether rows were scaled to length 1.
        tokenizer: name or folder of the tokenizer.
        tokenizer_sha256: over what decides its tokens.
        source_format: the reader's name.
        source_sha256: over ids, paths, splits and captions of all records.
        split_seed: seed of the drawn split, None where the dataset's own splits were used.
        precision: `fp32`, `bf16` or `fp16` arithmetic in the encoder.
        batch_size: pictures in a forward pass; it moves the last bits of an embedding.
        shard_size: records in a shard's share of the source.
        version: of the program.
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

    @classmethod
    def unchecked(cls, *, encoder: str, width: int, **known: Any) -> "Fingerprint":
        """Of embeddings that somebody else made: what is not known is empty, and never compared.

        Args:
            encoder: the architecture that somebody names, or `UNKNOWN`.
            width: numbers in an embedding.
            known: other fields.
        """
        empty: dict[str, Any] = {
            "pretrained": UNKNOWN, "weights_sha256": "", "quick_gelu": False, "features": "projected", "preprocess": {},
            "normalized": False, "tokenizer": "", "tokenizer_sha256": "", "source_format": "", "source_sha256": "",
            "split_seed": None, "precision": "", "batch_size": 0, "shard_size": 0, "version": "",
        }  # fmt: skip
        return cls(**{**empty, **known, "encoder": encoder, "width": width})

    @property
    def checked(self) -> bool:
        """Whether its embeddings were made here, by weights whose sum is known."""
        return bool(self.weights_sha256)

    def to_json(self) -> str:
        """As it is stored: one line, keys sorted."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> "Fingerprint":
        """Read what `to_json` wrote; keys of later minor versions are ignored.

        Raises:
            CacheError: not JSON, or a key is missing.
        """
        try:
            content = json.loads(text)
            return cls(**{name: content[name] for name in cls.__dataclass_fields__})
        except (ValueError, KeyError, TypeError) as error:
            raise CacheError(f"its fingerprint cannot be read ({type(error).__name__}: {error})") from error

    def differences(self, other: "Fingerprint") -> list[str]:
        """What makes the other a different recipe, as `encoder: ViT-B-32, not RN50`; empty when it is the same."""
        names = [name for name in self.__dataclass_fields__ if name not in _PROVENANCE]
        return self._compare(other, names)

    def encoder_differences(self, other: "Fingerprint") -> list[str]:
        """What makes embeddings of the other mean something else, as far as is known; empty when they can be mixed."""
        if self.checked and other.checked:
            return self._compare(other, list(_ENCODER))
        mine, theirs = (_plain_name(name) for name in (self.encoder, other.encoder))
        differences = self._compare(other, list(_UNCHECKED))
        if UNKNOWN not in (mine, theirs) and mine != theirs:
            differences.insert(0, f"encoder: {self.encoder}, not {other.encoder}")
        return differences

    def _compare(self, other: "Fingerprint", names: list[str]) -> list[str]:
        return [
            f"{_WORDS.get(name, name)}: {_short(getattr(self, name))}, not {_short(getattr(other, name))}"
            for name in names
            if getattr(self, name) != getattr(other, name)
            # One tower may go by several names: `ViT-B-32`, and any folder that it was saved to.
            and not (name == "encoder" and self.checked and self.weights_sha256 == other.weights_sha256)
        ]


def _plain_name(encoder: str) -> str:
    """An architecture's name without what people write differently: ViT-B/32, ViT-B-32-quickgelu."""
    return encoder.replace("/", "-").removesuffix("-quickgelu").lower()


def _short(value: Any) -> str:
    """A sum by its first twelve digits, anything else whole."""
    text = json.dumps(value) if isinstance(value, dict) else str(value)
    return text[:12] if len(text) == 64 and text.isalnum() else text
