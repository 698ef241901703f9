"""The captions of one split of a cache in memory, and packed batches of them, made by gathers without worker processes.

Arrays that decide the layout of a batch are on the CPU; tensors that the model takes are on the device.

Letters for shapes: n images, m captions, B captions in a batch, K positions of the prefix, d numbers in an embedding,
t patches.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from clipcap.data.cache.index import Cache
from clipcap.data.pretrained.device import to_device
from clipcap.data.pretrained.tokenizer import encode_captions
from clipcap.data.records import SPLITS
from clipcap.data.texts import Texts
from clipcap.train.corpus.embeddings import Embeddings, ResidentEmbeddings, StoredEmbeddings, StreamedEmbeddings
from clipcap.train.packed.layout import pack
from clipcap.train.packed.loss import PackedBatch

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Numbers = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """All captions of one split, with the embeddings of their images.

    Attributes:
        embedding: the embeddings of the n images, float32 (n, d) or (n, t, d) when they are accessed.
        image: int64 (m), the image of each caption, ascending.
        first_token: int64 (m), the index in `token` of each caption's first token.
        length: int64 (m), how many tokens of each caption are trained on.
        token: the token ids of all captions, one after the other, as small integers as the cache has them.
        path: paths of the images (n).
        text: texts of the captions (m).
        cut: how many captions were cut, because the model has no positions for more.
    """

    embedding: Embeddings
    image: Numbers
    first_token: Numbers
    length: Numbers
    token: NDArray[Any]
    path: Sequence[str]
    text: Sequence[str]
    cut: int

    def __len__(self) -> int:
        return len(self.image)

    @property
    def images(self) -> int:
        """How many images have captions."""
        return len(np.unique(self.image))

    def subset(self, fraction: float, seed: int) -> "Corpus":
        """Draw a fraction of the images, at least one, and keep all of their captions.

        Args:
            fraction: from 0 to 1.
            seed: decides which images are drawn.
        """
        images = np.unique(self.image)
        count = max(1, round(fraction * len(images)))
        kept = np.flatnonzero(np.isin(self.image, np.random.default_rng(seed).permutation(images)[:count]))
        columns = {name: getattr(self, name)[kept] for name in ("image", "first_token", "length")}
        return replace(self, **columns, text=Texts(self.text[i] for i in kept.tolist()))

    def packed(self, captions: Numbers, prefix_length: int) -> PackedBatch:
        """Pack captions into a batch.

        Args:
            captions: int64 (B), indices of captions, in any order.
            prefix_length: K.

        Returns:
            The batch, on the device of the embeddings; layout.py draws it. `target_row` alone is on the CPU.

        Raises:
            CacheError: the embeddings are streamed or not read yet, and a shard cannot be read.
        """
        length = self.length[captions, None]
        offset = np.arange(length.max())
        places = self.first_token[captions, None] + np.minimum(offset, length - 1)
        token = self.token[places].astype(np.int64)  # (B, longest)
        packing = pack(self.image[captions], np.where(offset < length, token, -1), prefix_length)
        embedding = self.embedding[self.image[captions[packing.first_caption]]]
        # All index arrays go to the device in one copy.
        names = ("input_token", "target", "position", "row_of_cell", "cell_of_row", "branch_end", "predicting_row")
        arrays = {name: getattr(packing, name).ravel() for name in names}
        joined = torch.from_numpy(np.concatenate(list(arrays.values())))
        pieces = to_device(joined, embedding.device).split([len(array) for array in arrays.values()])
        columns = dict(zip(arrays, pieces, strict=True))
        columns["branch_end"] = columns["branch_end"].view(packing.branch_end.shape)
        return PackedBatch(embedding=embedding, target_row=torch.from_numpy(packing.target_row), **columns)


def load_corpora(
    cache: Cache,
    max_tokens: int,
    retokenize: "PreTrainedTokenizerBase | None" = None,
    *,
    device: torch.device | None = None,
    stream: bool = False,
    finite: bool = False,
) -> dict[str, Corpus]:
    """Read a cache into a corpus for each split that has captions.

    Args:
        cache: an opened cache.
        max_tokens: longer captions are cut to this many tokens. A cut caption has no end-of-text token.
        retokenize: tokenizer with which to tokenise the texts again, instead of reading the cached tokens.
        device: device of the batches; by default the CPU.
        stream: keep only a few blocks of the embeddings in memory, and read them when they are accessed. Otherwise all
            are read at the first access, and stay in memory.
        finite: whether an embedding that is NaN or infinite is an error when it is read.

    Returns:
        The corpora by the names of their splits: `train`, and `val` and `test` if the cache has them.

    Raises:
        CacheError: a shard cannot be read.
    """
    device = device or torch.device("cpu")
    splits = {split: _Split() for split in SPLITS}
    for shard, tables in zip(cache.shards, cache.tables(embeddings=False), strict=True):
        captions = np.diff(tables.first_caption)
        if retokenize is None:
            token, first_token = tables.token, tables.first_token
        else:
            encoded = encode_captions(retokenize, tables.text)
            token = np.array([t for caption in encoded for t in caption], dtype=np.uint32)
            first_token = np.cumsum([0, *map(len, encoded)], dtype=np.int64)
        split_of_caption = np.repeat(tables.split, captions)
        split_of_token = np.repeat(split_of_caption, np.diff(first_token))
        for number, split in enumerate(splits.values()):
            rows = np.flatnonzero(tables.split == number)
            chosen = np.flatnonzero(split_of_caption == number)
            split.stored.append((shard.path, rows))
            split.scale.append(tables.scale if len(rows) else 1.0)
            split.captions.append(captions[rows])
            split.length.append(np.diff(first_token)[chosen])
            split.token.append(token[split_of_token == number])
            for row in rows:
                split.path.append(tables.path[row])
            for caption in chosen:
                split.text.append(tables.text[caption])
    shape = cache.embedding_shape
    return {
        name: split.corpus(shape, cache.views_of(name), max_tokens, device, stream, cache.encoder, finite)
        for name, split in splits.items()
        if split.text
    }


@dataclass(frozen=True)
class _Split:
    """The images of one split and their captions, as they are read shard by shard.

    Attributes:
        stored: for each shard, its file, and the rows of these images in its tables.
        scale: for each shard, what their stored numbers are to be multiplied by.
        captions: for each shard, the number of captions of each image, int64.
        length: for each shard, the number of tokens of each caption, int64.
        token: for each shard, the token ids of all captions, one after the other.
        path, text: paths of the images, texts of the captions.
    """

    stored: list[tuple[Path, Numbers]] = field(default_factory=list)
    scale: list[float] = field(default_factory=list)
    captions: list[Numbers] = field(default_factory=list)
    length: list[Numbers] = field(default_factory=list)
    token: list[NDArray[Any]] = field(default_factory=list)
    path: Texts = field(default_factory=Texts)
    text: Texts = field(default_factory=Texts)

    def corpus(
        self,
        shape: tuple[int, ...],
        views: int,
        max_tokens: int,
        device: torch.device,
        stream: bool,
        encoder: int,
        finite: bool,
    ) -> Corpus:
        captions, length = np.concatenate(self.captions), np.concatenate(self.length)
        stored = StoredEmbeddings(self.stored, shape, views, max(self.scale), encoder, finite)
        return Corpus(
            embedding=StreamedEmbeddings(stored, device) if stream else ResidentEmbeddings(stored, device),
            image=np.repeat(np.arange(len(captions)), captions),
            first_token=np.cumsum(length) - length,
            length=np.minimum(length, max_tokens),
            token=np.concatenate(self.token),
            path=self.path,
            text=self.text,
            cut=int((length > max_tokens).sum()),
        )


def in_order(corpus: Corpus, images: Numbers, batch_size: int) -> list[Numbers]:
    """Put all captions of some images into batches, one image after the other.

    Args:
        corpus: the captions of a split.
        images: int64, indices of images.
        batch_size: B. The last batch may have fewer captions.

    Returns:
        For each batch, the indices of its captions: int64 (B).
    """
    chosen = np.flatnonzero(np.isin(corpus.image, images))
    return [chosen[start : start + batch_size] for start in range(0, len(chosen), batch_size)]
