"""From settings and a cache to a trainer: the language model, the mapper that fits it, the captions in its tokens."""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from clipcap.data.cache.index import Cache
from clipcap.data.command.progress import plural
from clipcap.data.errors import CacheError, UsageError
from clipcap.data.pretrained.tokenizer import load_tokenizer, tokenizer_sha256
from clipcap.data.pretrained.weights import weights_sha256
from clipcap.train.corpus.captions import Corpus, load_corpora
from clipcap.train.engine.distributed import World
from clipcap.train.foreign import load_foreign, open_foreign
from clipcap.train.loop import Trainer
from clipcap.train.mappers import mapper_config
from clipcap.train.mappers.module import Mapper
from clipcap.train.model.captioning import ClipCapModel
from clipcap.train.model.checkpoint import CheckpointConfig, LanguageModelConfig, load_checkpoint
from clipcap.train.model.language_model import load_language_model, load_own_tokenizer
from clipcap.train.model.tuning import tune
from clipcap.train.run.folder import RunFolder, find_checkpoint
from clipcap.train.settings import TrainSettings

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)


def prepare_trainer(
    settings: TrainSettings, cache: Cache, folder: RunFolder, device: torch.device, world: World | None = None
) -> Trainer:
    """Load everything that a run needs. Writes nothing.

    Args:
        settings: of the run.
        cache: opened.
        folder: of the run.
        device: to train on.
        world: this process among those that train the model; alone by default.

    Raises:
        ModelError: the language model or its tokenizer cannot be had.
        CacheError: the cache has nothing to train on, or its tokenizer cannot be had any more.
        UsageError: tokenizer, prefix and language model do not fit each other.
    """
    torch.manual_seed(settings.seed)
    begin = _begin_with(settings, cache) if settings.init else _begin_afresh(settings, cache)
    model, tokenizer = begin.model, begin.tokenizer
    config = model.gpt.config
    if len(tokenizer) > config.vocab_size:
        raise UsageError(
            f"the tokenizer has {len(tokenizer):,} tokens, --lm {settings.lm} knows {config.vocab_size:,}; give the "
            "model that belongs to it"
        )
    if settings.dropout is not None:
        _set_dropout(model.gpt, settings.dropout)
    config.eos_token_id = tokenizer.eos_token_id  # what ends a caption in the cache ends it in use
    mapper = model.clip_project.config
    room = config.n_positions - mapper.prefix_length
    if room < 2:
        raise UsageError(f"--prefix-length {mapper.prefix_length} leaves no room for words in {settings.lm}")
    checkpoint = CheckpointConfig(
        mapper=mapper,
        language_model=LanguageModelConfig(
            name=settings.init or settings.lm,
            # Where the run did not begin with a model that can be had again, its weights stay with the mapper's.
            tuned=settings.tune != "none" or bool(settings.init),
            sha256=weights_sha256(model.gpt),
            config=config.to_diff_dict(),
        ),
        encoder=cache.fingerprint,
        training=dict(vars(settings)),
        progress={},
    )
    tune(model, settings.tune)
    longest = min(room, settings.max_caption_tokens or room)
    try:
        model.to(device)
    except torch.OutOfMemoryError as error:
        raise UsageError(f"the model does not fit into the memory of {device}; use --device cpu") from error
    retokenize = None if begin.cached_tokens else tokenizer
    corpora = load_corpora(cache, longest, retokenize, device=device, stream=bool(settings.stream))
    training, validation = _splits(corpora, cache, longest)
    if settings.subset < 1:
        training = training.subset(settings.subset, settings.seed)
        logger.info(f"--subset {settings.subset}: {plural(training.images, 'picture')} are trained on")
    return Trainer(
        model=model,
        tokenizer=tokenizer,
        train=training,
        val=validation,
        settings=settings,
        checkpoint=checkpoint,
        folder=folder,
        device=device,
        world=world or World(),
    )


@dataclass(frozen=True)
class _Beginning:
    """A model before its first step, its tokenizer, and whether that is the one that made the cache's tokens."""

    model: ClipCapModel
    tokenizer: "PreTrainedTokenizerBase"
    cached_tokens: bool


def _begin_afresh(settings: TrainSettings, cache: Cache) -> _Beginning:
    """A mapper with fresh weights before the language model."""
    lm = load_language_model(settings.lm)
    tokenizer, cached_tokens = _choose_tokenizer(cache, settings.lm)
    mapper = mapper_config(
        kind=settings.mapper,
        embedding_width=cache.fingerprint.width,
        lm_width=lm.config.n_embd,
        prefix_length=settings.prefix_length,
        clip_length=settings.clip_length,
        layers=settings.layers,
        heads=settings.heads,
        dropout=settings.mapper_dropout,
        tanh=settings.tanh,
        patches=cache.patches,
    )
    torch.manual_seed(settings.seed)
    return _Beginning(ClipCapModel(Mapper(mapper), lm), tokenizer, cached_tokens)


def _begin_with(settings: TrainSettings, cache: Cache) -> _Beginning:
    """The mapper and the language model of a checkpoint, ours or foreign."""
    path = find_checkpoint(Path(settings.init))
    model: ClipCapModel
    if path.is_file():
        # The tokenizer of the cache, if it can be theirs: it is GPT-2's, by whatever path.
        cached = load_tokenizer(cache.fingerprint.tokenizer)
        theirs = len(cached) == open_foreign(path).lm_config["vocab_size"]
        model, tokenizer, config = load_foreign(path, tokenizer=cache.fingerprint.tokenizer if theirs else None)
    else:
        model, tokenizer, config = load_checkpoint(path)
    shape = (cache.patches, cache.fingerprint.width) if cache.patches else (cache.fingerprint.width,)
    if config.mapper.embedding_shape != shape:
        wanted, found = (" x ".join(map(str, numbers)) for numbers in (config.mapper.embedding_shape, shape))
        raise UsageError(f"--init {path} takes embeddings of {wanted} numbers, {cache.path} has {found}; give another")
    same = tokenizer_sha256(tokenizer) == cache.fingerprint.tokenizer_sha256
    # Whoever's it was, from here on it is trained and decoded as ours.
    return _Beginning(ClipCapModel(model.clip_project, model.gpt), tokenizer, same)


def _set_dropout(lm: nn.Module, part: float) -> None:
    for module in lm.modules():
        if isinstance(module, nn.Dropout):
            module.p = part


def _splits(corpora: dict[str, Corpus], cache: Cache, longest: int) -> tuple[Corpus, Corpus | None]:
    if "train" not in corpora:
        found = ", ".join(f"{len(corpus):,} {split}" for split, corpus in corpora.items()) or "none"
        raise CacheError(
            f"{cache.path} has no captions to train on (found: {found}); make a cache of a dataset with captions"
        )
    cut = sum(corpus.cut for corpus in corpora.values())
    if cut:
        captions = sum(len(corpus) for corpus in corpora.values())
        logger.warning(f"{cut:,} of {plural(captions, 'caption')} cut to {plural(longest, 'token')}")
    if "val" not in corpora:
        logger.warning(f"{cache.path} has no validation split; the newest checkpoint is taken for the best")
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
        logger.info(f"{lm} has another tokenizer than the cache: its captions are tokenised again")
    return tokenizer, same
