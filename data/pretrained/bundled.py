"""The small models inside the package, by the names that parameters take. A new one is a folder and a line here.

Such a name wins over a folder of the same name in the current directory.
"""

from pathlib import Path

_DEMO = Path(__file__).parents[1] / "demo" / "models"

# Folders as open_clip saves a model, for `encoder`.
BUNDLED_ENCODERS = {"demo": _DEMO / "demo-clip"}
# Folders as transformers saves a GPT-2 with its tokenizer, for `lm` and `tokenizer`.
BUNDLED_LANGUAGE_MODELS = {"demo": _DEMO / "demo-gpt2"}


def locate_language_model(name: str) -> str:
    """Return the folder of a bundled language model, or any other name unchanged, as transformers takes it."""
    return str(BUNDLED_LANGUAGE_MODELS.get(name, name))


def lasting_name(name: str) -> str:
    """Return the name that caches and checkpoints store for a language model or tokenizer: a folder's is absolute."""
    return str(Path(name).resolve()) if name not in BUNDLED_LANGUAGE_MODELS and Path(name).is_dir() else name
