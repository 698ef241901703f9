"""BERTScore: how alike the tokens of a caption and of a reference are, by their embeddings in a BERT.

Each token is embedded in its sentence. With c and r the unit embeddings of the tokens of a caption and of a reference,
without the tokens that begin and end a sentence:

    P = mean over c of max over r' of c . r',    R = mean over r of max over c' of r . c',    F = 2 P R / (P + R)

where r' and c' include these tokens, as in the authors' program. The figure of an image is the highest F of its
references, and that of a set is the mean. By default the model is RoBERTa-large, layer 17, without weights by frequency
and without rescaling: `roberta-large_L17_no-idf` in the authors' notation.

The authors' program (bert-score 0.3.13) cannot be used with transformers 5: it fails on empty captions, and RoBERTa's
tokenizer ignores its option for the space before the first word, so that the figures are others. Those here are the
figures of that program with transformers 4.

Source: Zhang et al. 2020, "BERTScore: Evaluating Text Generation with BERT" (arXiv:1904.09675).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from clipcap.data.errors import ModelError, UsageError, one_line
from clipcap.data.metrics.base import Score, check_pairs, mean_score
from clipcap.data.pretrained.device import choose_device
from clipcap.data.pretrained.hub import is_path, use_hub_if_reachable

if TYPE_CHECKING:
    import torch

MODEL = "roberta-large"
# The layer of each model that agreed best with people, as the authors measured it.
LAYERS = {"roberta-large": 17, "roberta-base": 10, "bert-base-uncased": 9, "bert-large-uncased": 18}
BATCH = 64  # texts that the model encodes at once
BLOCK = 256  # images whose embeddings are in memory at once


class _Text(NamedTuple):
    """A text in tokens."""

    embeddings: "torch.Tensor"  # float32 (T, D) of unit length, with the tokens that begin and end a sentence
    words: "torch.Tensor"  # bool (T,), False for these


def _f_score(caption: _Text, reference: _Text) -> float:
    """Compute F of one caption and one reference; without words it is 0."""
    if not caption.words.any() or not reference.words.any():
        return 0.0
    alike = caption.embeddings @ reference.embeddings.T  # (T of the caption, T of the reference)
    precision = alike.amax(1)[caption.words].mean()
    recall = alike.amax(0)[reference.words].mean()
    if precision + recall == 0:
        return 0.0
    return float(2 * precision * recall / (precision + recall))


class BertScorer:
    """Computes BERTScore with a model that is loaded once. Thousands of images take minutes on a CPU.

    Args:
        model: a BERT or RoBERTa by its name on the hub, or a folder that transformers saved one to.
        layers: the layer, from 1, whose outputs are compared. By default the one in `LAYERS` for the model's name.
        device: as `choose_device` takes it.

    Raises:
        UsageError: the model has no known layer, or fewer layers; or this machine has no such device.
        ModelError: the model cannot be loaded.
    """

    def __init__(self, model: str = MODEL, layers: int | None = None, device: str = "auto") -> None:
        if layers is None:
            layers = LAYERS.get(Path(model).name)
        if layers is None:
            raise UsageError(f"`layers` of {model} are not known; give them, or a model of {', '.join(LAYERS)}")
        self.device = choose_device(device)
        self.tokenizer, self.model = _load(model, layers)
        self.model.to(self.device)

    def __call__(self, captions: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, Score]:
        """Compute BERTScore of N captions, at most 1.

        Args:
            captions: one caption per image, N in all, as they are.
            references: the references of each image, in the same order and form.

        Returns:
            A `Score` named BERTScore. An empty caption has 0.

        Raises:
            UsageError: the numbers of captions and images differ, are 0, or an image has no references.
        """
        import numpy as np

        check_pairs(captions, references)
        values: list[float] = []
        for start in range(0, len(captions), BLOCK):
            block = list(zip(captions[start : start + BLOCK], references[start : start + BLOCK], strict=True))
            texts = self._encode({text.strip() for caption, some in block for text in (caption, *some)})
            for caption, some in block:
                values.append(max(_f_score(texts[caption.strip()], texts[text.strip()]) for text in some))
        return {"BERTScore": mean_score(np.array(values, np.float64))}

    def _encode(self, texts: set[str]) -> dict[str, _Text]:
        """Embed texts, batches of about equal length after each other."""
        import torch
        from torch.nn.functional import normalize
        from transformers import GPT2Tokenizer, RobertaTokenizer

        # For these a space belongs to the word after it; the authors put one before the first word.
        before = " " if isinstance(self.tokenizer, (GPT2Tokenizer, RobertaTokenizer)) else ""
        longest = min(self.tokenizer.model_max_length, self.model.config.max_position_embeddings - 2)
        ends = {self.tokenizer.cls_token_id, self.tokenizer.sep_token_id}
        ordered = sorted(texts, key=lambda text: (len(text), text))
        encoded: dict[str, _Text] = {}
        for start in range(0, len(ordered), BATCH):
            batch = ordered[start : start + BATCH]
            tokens = self.tokenizer(
                [before + text if text else text for text in batch],
                padding=True,
                truncation=True,
                max_length=longest,
                return_tensors="pt",
            )
            ids, mask = tokens["input_ids"], tokens["attention_mask"].bool()  # (B, T)
            with torch.inference_mode():
                output = self.model(ids.to(self.device), attention_mask=mask.to(self.device)).last_hidden_state
            embeddings = normalize(output, dim=-1).float().cpu()  # (B, T, D)
            words = torch.tensor([[token not in ends for token in row] for row in ids.tolist()])
            for row, text in enumerate(batch):
                encoded[text] = _Text(embeddings[row, mask[row]], words[row, mask[row]])
        return encoded


def _load(name: str, layers: int) -> tuple[Any, Any]:
    """Load a tokenizer, and the first layers of its model in float32.

    Raises:
        UsageError: the model has fewer layers.
        ModelError: it cannot be loaded, or lacks weights.
    """
    import torch
    from transformers import AutoConfig, AutoModel, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # it would list the weights of the layers above as a surprise
    is_folder = Path(name).is_dir()
    if not is_folder and is_path(name):
        raise ModelError(f"the folder {name} of the model for BERTScore does not exist; give another, or {MODEL}")
    if not is_folder:
        use_hub_if_reachable()
    try:
        config = AutoConfig.from_pretrained(name, trust_remote_code=False)
        if not 0 < layers <= config.num_hidden_layers:
            raise UsageError(f"`layers` {layers}: {name} has {config.num_hidden_layers}")
        config.num_hidden_layers = layers
        tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
        model, loading = AutoModel.from_pretrained(
            name, config=config, dtype=torch.float32, output_loading_info=True, trust_remote_code=False
        )
    except UsageError:
        raise
    except Exception as error:  # the library raises OSError, ValueError, RuntimeError and the errors of safetensors
        if is_folder:
            raise ModelError(f"the model for BERTScore in {name} cannot be loaded ({one_line(error)[:200]})") from error
        raise ModelError(
            f"the model for BERTScore, {name!r}, cannot be loaded: no network, or no such name, and it was never "
            "downloaded here; connect once, or leave BERTScore out"
        ) from error
    finally:
        logging.set_verbosity(verbosity)
    # The pooler makes one vector of a text, which is not used here, and RoBERTa comes without it.
    wrong = sorted(key for key in map(str, loading["missing_keys"]) if "pooler" not in key)
    wrong += sorted(map(str, loading["mismatched_keys"]))
    if wrong:
        raise ModelError(f"the model for BERTScore, {name}, lacks {len(wrong)} weights (as {wrong[0]})")
    return tokenizer, model.eval()
