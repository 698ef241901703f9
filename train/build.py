"""Build a trainer from settings and a cache: the language model, a mapper that fits it, the captions in its tokens."""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from clipcap.data.cache.index import Cache
from clipcap.data.command.progress import plural
from clipcap.data.errors import CacheError, UsageError
from clipcap.data.memory import exhausted_memory
from clipcap.data.pretrained.tokenizer import load_tokenizer, tokenizer_sha256
from clipcap.data.pretrained.weights import weights_sha256
from clipcap.train.checkpoints import Checkpoints
from clipcap.train.corpus.captions import Corpus, load_corpora
from clipcap.train.engine.distributed import World
from clipcap.train.foreign import load_foreign, open_foreign
from clipcap.train.loop import Trainer
from clipcap.train.mappers import mapper_config
from clipcap.train.mappers.module import Mapper
from clipcap.train.model.captioning import ClipCapModel
from clipcap.train.model.checkpoint import CheckpointConfig, LanguageModelConfig, check_fit, load_checkpoint
from clipcap.train.model.find import find_checkpoint
from clipcap.train.model.language_model import load_language_model, load_own_tokenizer
from clipcap.train.model.new_language_model import is_new, make_language_model
from clipcap.train.model.tuning import tune
from clipcap.train.run.folder import RunFolder
from clipcap.train.run.reporting import Reporter
from clipcap.train.score import BackgroundScore
from clipcap.train.settings import TrainSettings

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)


def build_trainer(
    settings: TrainSettings, cache: Cache, folder: RunFolder, device: torch.device, world: World | None = None
) -> Trainer:
    """Load everything that a run needs. Writes nothing.

    Args:
        settings: of the run.
        cache: an opened cache.
        folder: of the run.
        device: to train on.
        world: this process among those that train the model; alone by default.

    Raises:
        ModelError: the language model or its tokenizer cannot be loaded.
        CacheError: the cache has nothing to train on, or its tokenizer cannot be loaded any more.
        UsageError: tokenizer, prefix and language model do not fit each other.
    """
    torch.manual_seed(settings.seed)
    start = _start_from_checkpoint(settings, cache) if settings.init else _start_fresh(settings, cache)
    model, tokenizer = start.model, start.tokenizer
    config = model.gpt.config
    if len(tokenizer) > config.vocab_size:
        raise UsageError(
            f"the tokenizer has {len(tokenizer):,} tokens, `lm` {settings.lm} has {config.vocab_size:,}; give the "
            "model that belongs to the tokenizer"
        )
    if settings.dropout is not None:
        _set_dropout(model.gpt, settings.dropout)
    _check_finite(model, settings)
    mapper = model.clip_project.config
    room = config.n_positions - mapper.prefix_length
    if room < 2:
        raise UsageError(f"`prefix_length` {mapper.prefix_length} leaves no positions for captions in {settings.lm}")
    try:
        check_fit(model, tokenizer)  # the token that ends captions in the cache ends them in use
    except ValueError as error:
        raise UsageError(f"the parts of the model do not fit each other: {error}; give another `lm`") from error
    checkpoint = CheckpointConfig(
        mapper=mapper,
        language_model=LanguageModelConfig(
            name=settings.init or settings.lm,
            # A language model that started from a checkpoint cannot be loaded by name, so its weights are stored.
            tuned=settings.tune != "none" or bool(settings.init),
            sha256=weights_sha256(model.gpt),
            config=config.to_diff_dict(),
        ),
        encoder=cache.fingerprint,
        training=settings.flat(),
        progress={},
    )
    tune(model, settings.tune)
    longest = min(room, settings.max_caption_tokens or room)
    try:
        model.to(device)
    except (torch.OutOfMemoryError, RuntimeError) as error:
        if not exhausted_memory(error):
            raise
        raise UsageError(f"the model does not fit into the memory of {device}; use `device` cpu") from error
    retokenize = None if start.cached_tokens else tokenizer
    corpora = load_corpora(cache, longest, retokenize, device=device, stream=bool(settings.stream), finite=True)
    for corpus in corpora.values():
        if len(corpus.token) and int(corpus.token.max()) >= config.vocab_size:
            fact = f"{cache.path} has a token {int(corpus.token.max()):,}, the model has {config.vocab_size:,} tokens"
            raise CacheError(f"{fact}; make the cache again with `overwrite`")
    training, validation = _splits(corpora, cache, longest)
    if settings.subset < 1:
        training = training.subset(settings.subset, settings.seed)
        logger.info(f"`subset` {settings.subset}: training on {plural(training.images, 'image')}")
    world = world or World()
    reporter = Reporter(folder, writes=world.first)
    scores = None
    if settings.metric != "loss":
        if validation is None:
            fact = f"`metric` {settings.metric} needs captions to validate on, and {cache.path} has none"
            raise UsageError(f"{fact}; make a cache with a validation split, or leave `metric` out")
        if world.first:
            scores = BackgroundScore(
                validation, tokenizer, metric=settings.metric, device=device, precision=settings.precision
            )
    checkpoints = Checkpoints(
        folder, tokenizer, checkpoint, metric=settings.metric, scores=scores, reporter=reporter, world=world
    )
    return Trainer(
        model=model,
        tokenizer=tokenizer,
        train=training,
        val=validation,
        settings=settings,
        checkpoints=checkpoints,
        reporter=reporter,
        device=device,
        world=world,
    )


@dataclass(frozen=True)
class _Start:
    """A model before its first step, its tokenizer, and whether this tokenizer made the cache's tokens."""

    model: ClipCapModel
    tokenizer: "PreTrainedTokenizerBase"
    cached_tokens: bool


def _start_fresh(settings: TrainSettings, cache: Cache) -> _Start:
    """A mapper with fresh weights, and a language model, pretrained or new."""
    if is_new(settings.lm):
        if settings.tune != "all":
            raise UsageError(f"`lm` {settings.lm} has learned nothing yet; leave `tune` {settings.tune} out")
        tokenizer, cached_tokens = _choose_tokenizer(cache, settings.lm)
        lm = make_language_model(settings.lm, tokenizer)
    else:
        lm = load_language_model(settings.lm)
        tokenizer, cached_tokens = _choose_tokenizer(cache, settings.lm)
    mapper = mapper_config(
        settings.mapper,
        embedding_width=cache.fingerprint.width,
        lm_width=lm.config.n_embd,
        prefix_length=settings.prefix_length,
        patches=cache.patches,
        **settings.mapper_options,
    )
    torch.manual_seed(settings.seed)
    return _Start(ClipCapModel(Mapper(mapper), lm), tokenizer, cached_tokens)


def _start_from_checkpoint(settings: TrainSettings, cache: Cache) -> _Start:
    """The mapper and the language model of a checkpoint, ours or foreign."""
    path = find_checkpoint(Path(settings.init))
    model: ClipCapModel
    if path.is_file():
        # Such a file has no tokenizer. The cache's is taken if it has as many tokens: both are then GPT-2's.
        cached = load_tokenizer(cache.tokenizer)
        fits = len(cached) == open_foreign(path).lm_config["vocab_size"]
        model, tokenizer, config = load_foreign(path, tokenizer=cache.tokenizer if fits else None)
    else:
        model, tokenizer, config = load_checkpoint(path)
    shape = (cache.patches, cache.fingerprint.width) if cache.patches else (cache.fingerprint.width,)
    if config.mapper.embedding_shape != shape:
        wanted, found = (" x ".join(map(str, numbers)) for numbers in (config.mapper.embedding_shape, shape))
        fact = f"`init` {path} takes embeddings of {wanted} numbers, {cache.path} has {found}"
        raise UsageError(f"{fact}; give a cache of the same encoder, or another checkpoint")
    same = tokenizer_sha256(tokenizer) == cache.fingerprint.tokenizer_sha256
    # A foreign model is trained and decoded as ours from here on.
    return _Start(ClipCapModel(model.clip_project, model.gpt), tokenizer, same)


def _check_finite(model: ClipCapModel, settings: TrainSettings) -> None:
    """Check the weights to start from, since a loss of NaN would be taken for a learning rate that is too high."""
    for name, weight in model.named_parameters():
        if not bool(weight.sum().isfinite()) and not bool(weight.isfinite().all()):  # a sum may overflow
            source = f"`init` {settings.init}" if settings.init else f"`lm` {settings.lm}"
            raise UsageError(f"{source} has weights that are not finite (as {name}); give another")


def _set_dropout(lm: nn.Module, p: float) -> None:
    for module in lm.modules():
        if isinstance(module, nn.Dropout):
            module.p = p


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
        logger.warning(f"{cache.path} has no validation split; the newest checkpoint counts as the best")
    return corpora["train"], corpora.get("val")


def _choose_tokenizer(cache: Cache, lm: str) -> "tuple[PreTrainedTokenizerBase, bool]":
    """The language model's tokenizer, and whether it made the cache's tokens."""
    own = None if is_new(lm) else load_own_tokenizer(lm)
    tokenizer = load_tokenizer(cache.tokenizer) if own is None else own
    same = tokenizer_sha256(tokenizer) == cache.fingerprint.tokenizer_sha256
    if own is None and not same:
        raise CacheError(
            f"{cache.tokenizer} is no longer the tokenizer that made {cache.path}, and `lm` {lm} has none; put the "
            "tokenizer of the cache back"
        )
    if not same:
        logger.info(f"{lm} has another tokenizer than the cache: the captions are tokenised again")
    return tokenizer, same
