"""Scores the captions of a model in the background: a frozen copy captions the validation images in a thread.

Training goes on meanwhile, and nothing that it computes depends on the thread.
"""

import logging
import threading
from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch

from clipcap.data.command.progress import plural
from clipcap.data.errors import ClipCapError, one_line
from clipcap.data.metrics import METRICS, Score, tokenize_all
from clipcap.train.corpus.captions import Corpus
from clipcap.train.model.captioning import ClipCapModel, copy_model
from clipcap.train.validate import SAMPLE_TOKENS, greedy_captions, validation_images

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

CAPTION_BATCH = 32  # images that are captioned at a time


class BackgroundScore:
    """Captions the validation images with a frozen copy of a model, and scores the captions, in a thread.

    At most one copy is scored at a time. The thread is stopped when the context is left.

    Args:
        corpus: the captions to validate on. Only the thread may use its embeddings while it runs.
        tokenizer: turns tokens into text.
        metric: name of a metric in `METRICS`.
        device: the model's device.
        precision: `fp32`, `bf16` or `fp16`.
    """

    def __init__(
        self,
        corpus: Corpus,
        tokenizer: "PreTrainedTokenizerBase",
        *,
        metric: str,
        device: torch.device,
        precision: str,
    ) -> None:
        self.corpus, self.tokenizer, self.metric = corpus, tokenizer, metric
        self.device, self.precision = device, precision
        self.images = validation_images(corpus)
        self._model: ClipCapModel | None = None  # the frozen copy, from `start` to `result`
        # Not `join`: before Python 3.13, a join that Ctrl-C interrupts takes the thread for stopped.
        self._done, self._cancelled = threading.Event(), threading.Event()
        self._score: float | None = None
        self._error: BaseException | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._cancelled.set()
        if self.running:
            self._done.wait()

    @property
    def running(self) -> bool:
        """Whether a copy has been started whose score was not taken yet."""
        return self._model is not None

    def start(self, model: ClipCapModel) -> None:
        """Start to score the weights that a model has now. It may train on at once.

        Raises:
            ClipCapError: there is no memory for the copy.
        """
        assert self._model is None, "the last score was not taken"
        try:
            copied = copy_model(model).eval().requires_grad_(False)
        except torch.OutOfMemoryError as error:
            raise self._out_of_memory() from error
        for block in copied.gpt.transformer.h:
            block.register_forward_pre_hook(self._check)
        ready = torch.cuda.current_stream(self.device).record_event() if self.device.type == "cuda" else None
        self._score = self._error = None
        self._done.clear()
        # A daemon, so that a third Ctrl-C need not wait for it.
        threading.Thread(target=self._run, args=(copied, ready), name="score", daemon=True).start()
        self._model = copied
        if self.device.type == "mps":  # takes the commands of one thread at a time
            self._done.wait()

    def wait(self, stopped: Callable[[], bool] = lambda: False) -> bool:
        """Wait until the score is there, or `stopped` returns True; return whether it is there."""
        if not self._done.is_set() and not stopped():
            logger.info(f"waiting for the captions of {plural(len(self.images), 'validation image')}, and their score")
        while not self._done.is_set() and not stopped():
            self._done.wait(0.1)
        return self._done.is_set()

    def result(self) -> tuple[float, ClipCapModel]:
        """Wait for the score; return it with the copy that has it, in evaluation mode.

        Raises:
            ClipCapError: the captions could not be made or scored.
        """
        self.wait()
        model, self._model = self._model, None
        if isinstance(self._error, ClipCapError):
            raise self._error
        if isinstance(self._error, torch.OutOfMemoryError):
            raise self._out_of_memory() from self._error
        if self._error is not None:
            reason = f"{type(self._error).__name__}: {one_line(self._error)}"
            fact = f"the captions of the validation images could not be scored ({reason})"
            raise ClipCapError(f"{fact}; fix that and continue with `resume`") from self._error
        assert model is not None
        assert self._score is not None
        return self._score, model

    def _run(self, model: ClipCapModel, ready: "torch.cuda.Event | None") -> None:
        """Score a model, the body of the thread. On a GPU, `ready` comes when its weights are copied."""
        # An outermost autocast ends by clearing a cache that all threads share. Training would then cast some weights
        # twice in a step, and round their gradients differently. After this line, no autocast here is an outermost one.
        torch.autocast_increment_nesting()
        try:
            if ready is None:
                self._score = self._score_of(model)
            else:
                stream = torch.cuda.Stream(self.device)
                stream.wait_event(ready)
                with torch.cuda.stream(stream):
                    try:
                        self._score = self._score_of(model)
                    finally:
                        stream.synchronize()  # the copy's memory may be used again after this
        except _CancelledError:
            pass
        except BaseException as error:  # `result` raises it
            self._error = error
        finally:
            self._done.set()

    def _score_of(self, model: ClipCapModel) -> float:
        captions: list[str] = []
        for start in range(0, len(self.images), CAPTION_BATCH):
            images = self.images[start : start + CAPTION_BATCH]
            captions += greedy_captions(model, self.corpus, self.tokenizer, images, self.device, self.precision)
        return self._scorer(tokenize_all(captions))

    @cached_property
    def _scorer(self) -> Callable[[list[str]], float]:
        """A function that scores tokenised captions of the images against their references, prepared once."""
        first, last = (np.searchsorted(self.corpus.image, self.images, side) for side in ("left", "right"))
        tokens = iter(tokenize_all([text for a, b in zip(first, last, strict=True) for text in self.corpus.text[a:b]]))
        references = [[next(tokens) for _ in range(count)] for count in (last - first).tolist()]
        scored = METRICS[self.metric](references)
        return lambda captions: main_figure(scored(captions))

    def _out_of_memory(self) -> ClipCapError:
        fact = f"{self.device} has no memory left to caption the validation images while training goes on"
        return ClipCapError(f"{fact}; start again with a smaller `batch_size`, a larger `accumulate`, or `metric` loss")

    def _check(self, *_: Any) -> None:
        if self._cancelled.is_set():
            raise _CancelledError


class _CancelledError(Exception):
    """The thread is to stop; raised between the blocks of the copy."""


def main_figure(scores: dict[str, Score]) -> float:
    """Return a metric's figure of a whole set; of several figures the last one, such as BLEU-4 of BLEU-1 to BLEU-4."""
    return list(scores.values())[-1].corpus


def score_bytes(model: ClipCapModel) -> int:
    """Return how many bytes a background score takes at most: the copied weights, keys and values, and logits."""
    config = model.gpt.config
    copied = sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)
    positions = model.clip_project.config.prefix_length + SAMPLE_TOKENS
    cached = 2 * 4 * config.n_layer * config.n_embd * positions  # float32 keys and values of a caption
    logits = 2 * 4 * config.vocab_size  # and a copy of them
    return int(copied + CAPTION_BATCH * (cached + logits))
