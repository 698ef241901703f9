"""Makes the configuration of a GPT-2 from a file's numbers, after checking them, before a model is built from it.

Only what decides a GPT-2's shapes and computation is taken over. Other keys, such as those that choose an
implementation of attention, are left out. A model is built on torch's device `meta` first, which takes no memory, and
compared with the shapes of the weights that are there.
"""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import GPT2Config

    from clipcap.data.pretrained.safetensors_file import Shapes

# The largest values of sizes. GPT-2 XL has 48 layers of width 1,600. A layer takes a millisecond on `meta`, and it
# has a mask of n_positions x n_positions.
_LARGEST = {
    "n_layer": 1000, "n_embd": 1 << 17, "n_head": 1 << 12, "n_positions": 1 << 14, "vocab_size": 1 << 24,
    "n_inner": 1 << 20,
}  # fmt: skip
_FRACTIONS = ("resid_pdrop", "embd_pdrop", "attn_pdrop", "layer_norm_epsilon", "initializer_range")
_SWITCHES = (
    "scale_attn_weights", "scale_attn_by_inverse_layer_idx", "reorder_and_upcast_attn", "tie_word_embeddings",
)  # fmt: skip
_OTHERS = ("activation_function", "bos_token_id", "eos_token_id")
# Names that transformers takes for some of the sizes.
_ALIASES = {
    "hidden_size": "n_embd", "max_position_embeddings": "n_positions", "num_attention_heads": "n_head",
    "num_hidden_layers": "n_layer",
}  # fmt: skip


def gpt2_config(content: Mapping[str, Any]) -> "GPT2Config":
    """Make a configuration from what a file says of a GPT-2. What it does not say is as in GPT-2 Small.

    Args:
        content: sizes and other fields of transformers' GPT2Config. An `eos_token_id` that is no number is left out,
            since the tokenizer decides it.

    Raises:
        ValueError: a value is of another type than it must be, too large, or does not fit the others.
    """
    from transformers import GPT2Config

    known = {*_LARGEST, *_FRACTIONS, *_SWITCHES, *_OTHERS}
    named = {_ALIASES.get(name, name): value for name, value in content.items()}
    values = {name: value for name, value in named.items() if name in known}
    for name, value in values.items():
        if name in _LARGEST and not (name == "n_inner" and value is None):
            _check(name, value, type(value) is int and 1 <= value <= _LARGEST[name], f"from 1 to {_LARGEST[name]:,}")
        if name in _FRACTIONS:
            fits = type(value) in (int, float) and math.isfinite(value) and 0 <= value <= 1
            _check(name, value, fits, "a number from 0 to 1")
        if name in _SWITCHES:
            _check(name, value, type(value) is bool, "true or false")
        if name == "activation_function":
            _check(name, value, isinstance(value, str), "a text")
    for name in ("bos_token_id", "eos_token_id"):
        if type(values.get(name)) is not int:
            values.pop(name, None)
    config = GPT2Config(**values)
    if config.n_embd % config.n_head:
        raise ValueError(f"n_head is {config.n_head}, which does not divide n_embd, {config.n_embd}")
    return config


def check_shapes(expected: "Shapes", found: "Shapes") -> None:
    """Check that weights are exactly those of a model.

    Args:
        expected: the shapes of the model's weights, by name.
        found: those of the file.

    Raises:
        ValueError: a weight is missing, not known, or of another shape.
    """
    for name in sorted(expected.keys() ^ found.keys())[:1]:
        raise ValueError(f"{name} is {'missing' if name in expected else 'not known'}")
    for name, shape in expected.items():
        if found[name] != shape:
            raise ValueError(f"{name} has the shape {found[name]}, not {shape}")


def parameter_count(config: "GPT2Config") -> int:
    """Return how many numbers the weights of a GPT-2 have, the output layer not counted, since it is the embedding."""
    width, inner = config.n_embd, config.n_inner or 4 * config.n_embd
    layer = 4 * width * width + 2 * width * inner + 9 * width + inner
    return (config.vocab_size + config.n_positions) * width + config.n_layer * layer + 2 * width


def _check(name: str, value: object, fits: bool, words: str) -> None:
    if not fits:
        raise ValueError(f"{name} is {str(value)[:60]}, not {words}")
