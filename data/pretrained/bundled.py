"""The small models that come inside the package, by the names that options take. A new one is a folder and its line.

Such a name goes before a folder of the same name in the current directory.
"""

from pathlib import Path

_DEMO = Path(__file__).parents[1] / "demo" / "models"

# As open_clip saves a model: `--encoder`.
EMBEDDED_ENCODERS = {"demo": _DEMO / "demo-clip"}
# As transformers saves a GPT-2, with its tokenizer: `--lm`, `--tokenizer`.
EMBEDDED_LANGUAGE_MODELS = {"demo": _DEMO / "demo-gpt2"}


def locate_language_model(name: str) -> str:
    """What the libraries are given for a name: the folder of an embedded model, else the name itself."""
    return str(EMBEDDED_LANGUAGE_MODELS.get(name, name))


def lasting_name(name: str) -> str:
    """A language model's or tokenizer's name as caches and checkpoints keep it: folders by their absolute path."""
    return str(Path(name).resolve()) if name not in EMBEDDED_LANGUAGE_MODELS and Path(name).is_dir() else name
