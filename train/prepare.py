"""From settings and a cache to a trainer: the language model, the mapper that fits it, the captions in its tokens."""

from typing import TYPE_CHECKING

import torch

from clipcap.data.cache import Cache
from clipcap.data.errors import CacheError, UsageError
from clipcap.data.progress import note, plural, warn
from clipcap.data.tokenizer import load_tokenizer, tokenizer_sha256
from clipcap.data.weights import weights_sha256
from clipcap.train.checkpoint import CheckpointConfig, LanguageModelConfig
from clipcap.train.corpus import Corpus, load_corpora
from clipcap.train.language_model import load_language_model, load_own_tokenizer
from clipcap.train.loop import Trainer
from clipcap.train.mappers import MapperConfig, build_mapper
from clipcap.train.model import ClipCapModel, tune
from clipcap.train.run_folder import RunFolder
from clipcap.train.settings import TrainSettings

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def prepare_trainer(settings: TrainSettings, cache: Cache, folder: RunFolder, device: torch.device) -> Trainer:
    """Load everything that a run needs. Writes nothing.

    Args:
        settings: of the run.
        cache: opened.
        folder: of the run.
        device: to train on.

    Raises:
        ModelError: the language model or its tokenizer cannot be had.
        CacheError: the cache has nothing to train on, or its tokenizer cannot be had any more.
        UsageError: tokenizer, prefix and language model do not fit each other.
    """
    lm = load_language_model(settings.lm)
    tokenizer, cached_tokens = _choose_tokenizer(cache, settings.lm)
    if len(tokenizer) > lm.config.vocab_size:
        raise UsageError(
            f"the tokenizer has {len(tokenizer):,} tokens, --lm {settings.lm} knows {lm.config.vocab_size:,}; give the "
            "model that belongs to it"
        )
    lm.config.eos_token_id = tokenizer.eos_token_id  # what ends a caption in the cache ends it in use
    room = lm.config.n_positions - settings.prefix_length
    if room < 2:
        raise UsageError(f"--prefix-length {settings.prefix_length} leaves no room for words in {settings.lm}")
    mapper = MapperConfig(
        kind=settings.mapper,
        embedding_width=cache.fingerprint.width,
        lm_width=lm.config.n_embd,
        prefix_length=settings.prefix_length,
        clip_length=settings.clip_length,
        layers=settings.layers,
        patches=cache.patches,
    )
    checkpoint = CheckpointConfig(
        mapper=mapper,
        language_model=LanguageModelConfig(
            name=settings.lm,
            tuned=settings.tune != "none",
            sha256=weights_sha256(lm),
            config=lm.config.to_diff_dict(),
        ),
        encoder=cache.fingerprint,
        training=dict(vars(settings)),
        progress={},
    )
    torch.manual_seed(settings.seed)
    model = ClipCapModel(build_mapper(mapper), lm)
    tune(model, settings.tune)
    training, validation = _splits(load_corpora(cache, room, None if cached_tokens else tokenizer), cache)
    return Trainer(
        model=model.to(device),
        tokenizer=tokenizer,
        train=training.to(device),
        val=validation.to(device) if validation is not None else None,
        settings=settings,
        checkpoint=checkpoint,
        folder=folder,
        device=device,
    )


def _splits(corpora: dict[str, Corpus], cache: Cache) -> tuple[Corpus, Corpus | None]:
    if "train" not in corpora:
        found = ", ".join(f"{len(corpus):,} {split}" for split, corpus in corpora.items()) or "none"
        raise CacheError(
            f"{cache.path} has no captions to train on (found: {found}); make a cache of a dataset with captions"
        )
    cut = sum(corpus.cut for corpus in corpora.values())
    if cut:
        warn(f"{plural(cut, 'caption')} cut to the language model's length")
    if "val" not in corpora:
        warn(f"{cache.path} has no validation split; the newest checkpoint is taken for the best")
    return corpora["train"], corpora.get("val")


def _choose_tokenizer(cache: Cache, lm: str) -> "tuple[PreTrainedTokenizerBase, bool]":
    """The language model's tokenizer, and whether it is the one that made the cache's tokens."""
    own = load_own_tokenizer(lm)
    tokenizer = load_tokenizer(cache.fingerprint.tokenizer) if own is None else own
    same = tokenizer_sha256(tokenizer) == cache.fingerprint.tokenizer_sha256
    if own is None and not same:
        raise CacheError(
            f"{cache.fingerprint.tokenizer} is no longer the tokenizer that made {cache.path}, and {lm} has none; put "
            "the right one into either folder"
        )
    if not same:
        note(f"{lm} has another tokenizer than the cache: its captions are tokenised again")
    return tokenizer, same
