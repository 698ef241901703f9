"""CIDEr-D as the COCO caption toolkit computes it.

A caption c has for each length n = 1 ... 4 a vector of its n-grams: v(w) = count of w * log(N / max(1, df(w))), where
N is the number of images and df(w) the number of images with w in a reference. Against the references r of its image:

    CIDEr-D = 10 * mean over n, r of  sum over w of min(v_c(w), v_r(w)) v_r(w) / (|v_c| |v_r|) * exp(-d^2 / (2 * 6^2))

where d is the difference of their numbers of bigrams, which the toolkit takes for the length. Document frequencies come
from the references of the evaluated set. The corpus figure is the mean over the images.

Source: Vedantam et al. 2015, "CIDEr: Consensus-based Image Description Evaluation" (arXiv:1411.5726); the COCO caption
toolkit (arXiv:1504.00325).
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from clipcap.data.metrics.base import Score, ScoreCaptions, check_pairs, check_references, mean_score

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

ORDER = 4
SIGMA = 6.0
KEY_BASE = 1 << 31  # more than there are tokens


def cider(references: Sequence[Sequence[str]]) -> ScoreCaptions:
    """Prepare CIDEr-D against the references of N images, between 0 and 10.

    Args, Returns, Raises: as for `bleu`; the figure is `CIDEr`.
    """
    prepared = CiderReferences(references)

    def score(captions: Sequence[str]) -> dict[str, Score]:
        check_pairs(captions, references)
        return {"CIDEr": mean_score(prepared.score(captions))}

    return score


class CiderReferences:
    """The references of a set of images, prepared once, against which any number of captions can be scored.

    Every n-gram of the references has a number: that of its first n - 1 tokens and that of its last one are joined to
    a key, and its number is the place of the key among the sorted keys of its length. One row is stored for each
    n-gram of each reference, sorted by image and n-gram, so that a caption's n-gram finds all references with it
    in one search.
    """

    def __init__(self, references: Sequence[Sequence[str]]) -> None:
        """Prepare the tokenised references of N images."""
        import numpy as np

        check_references(references)
        self.words: dict[str, int] = {}
        texts = [reference for some in references for reference in some]
        self.counts = np.array([len(some) for some in references])  # (N,): references per image
        self.starts = np.cumsum(self.counts) - self.counts  # (N,): the first reference of each image
        image_of = np.repeat(np.arange(len(references)), self.counts)
        rows, tokens = _tokens(texts, self.words)
        self.bigrams = _bigrams(rows, len(texts))
        self.keys: list[NDArray[np.int64]] = []
        self.idf: list[NDArray[np.float64]] = []
        self.norms = np.zeros((ORDER, len(texts)))
        self.places: list[NDArray[np.int64]] = []  # image * grams + gram, sorted, once for each image and n-gram
        self.firsts: list[NDArray[np.int64]] = []  # where the rows of each place begin, and one end
        self.rows: list[NDArray[np.int64]] = []  # the reference of each row
        self.values: list[NDArray[np.float64]] = []  # the value of the n-gram in that reference
        grams = tokens
        for n in range(ORDER):
            start, key = _keys(grams, tokens, rows, n)
            known, gram = np.unique(key, return_inverse=True)
            grams = np.zeros(len(tokens), np.int64)
            grams[start] = gram
            self.keys.append(known)
            size = max(1, len(known))
            pairs, tally = np.unique(rows[start] * size + gram, return_counts=True)
            reference, gram = pairs // size, pairs % size
            place = image_of[reference] * size + gram
            order = np.argsort(place, kind="stable")
            place, reference, gram, tally = place[order], reference[order], gram[order], tally[order]
            places, firsts = np.unique(place, return_index=True)
            frequency = np.bincount(places % size, minlength=size)
            idf = np.log(float(len(references))) - np.log(np.maximum(1, frequency))
            value = tally * idf[gram]
            self.norms[n] = np.sqrt(np.bincount(reference, value**2, minlength=len(texts)))
            self.idf.append(idf)
            self.places.append(places)
            self.firsts.append(np.append(firsts, len(place)))
            self.rows.append(reference)
            self.values.append(value)

    def score(
        self, captions: Sequence[str], images: "Sequence[int] | NDArray[np.int64] | None" = None
    ) -> "NDArray[np.float64]":
        """Compute CIDEr-D of M tokenised captions: float64 `(M,)`, between 0 and 10.

        Args:
            captions: M captions, tokens separated by spaces.
            images: the image of each caption, by its place among the references; by default one caption per image, in
                order.

        Raises:
            UsageError: the numbers of captions and images differ, or an image is not among the references.
        """
        import numpy as np

        from clipcap.data.errors import UsageError

        image = np.arange(len(self.counts)) if images is None else np.asarray(images, np.int64)
        if len(image) != len(captions):
            raise UsageError(f"there are {len(captions):,} captions for {len(image):,} images; give `images`")
        if len(image) and not 0 <= image.min() <= image.max() < len(self.counts):
            raise UsageError(f"`images` must be from 0 to {len(self.counts) - 1:,}, not {image.min()} to {image.max()}")
        # One pair for each caption and reference of its image; the pairs of a caption are adjacent.
        pair_count = self.counts[image]
        pair_start = np.cumsum(pair_count) - pair_count
        owner = np.repeat(np.arange(len(captions)), pair_count)
        pair_reference = np.arange(len(owner)) - pair_start[owner] + self.starts[image[owner]]
        rows, tokens = _tokens(captions, dict(self.words))
        total = np.zeros(len(owner))
        grams = tokens
        for n in range(ORDER):
            known = self.keys[n]
            start, key = _keys(grams, tokens, rows, n)
            gram = _number(key, known)
            grams = np.zeros(len(tokens), np.int64)
            grams[start] = gram
            size = int(gram.max(initial=0)) + 1
            entries, tally = np.unique(rows[start] * size + gram, return_counts=True)
            caption, gram = entries // size, entries % size
            idf = np.full(len(gram), np.log(float(len(self.counts))))
            inside = gram < len(known)
            idf[inside] = self.idf[n][gram[inside]]
            value = tally * idf
            norm = np.sqrt(np.bincount(caption, value**2, minlength=len(captions)))
            caption, gram, value = caption[inside], gram[inside], value[inside]
            place = image[caption] * max(1, len(known)) + gram
            at = np.searchsorted(self.places[n], place)
            found = np.append(self.places[n], -1)[at] == place
            at, caption, value = at[found], caption[found], value[found]
            first, count = self.firsts[n][at], self.firsts[n][at + 1] - self.firsts[n][at]
            entry = np.repeat(np.arange(len(at)), count)
            row = first[entry] + np.arange(len(entry)) - (np.cumsum(count) - count)[entry]
            other = self.values[n][row]
            pair = pair_start[caption[entry]] + self.rows[n][row] - self.starts[image[caption[entry]]]
            dot = np.bincount(pair, np.minimum(value[entry], other) * other, minlength=len(owner)).astype(np.float64)
            scale = norm[owner] * self.norms[n][pair_reference]
            total += np.divide(dot, scale, out=dot, where=scale != 0)
        delta = _bigrams(rows, len(captions))[owner] - self.bigrams[pair_reference]
        total *= np.exp(-(delta**2) / (2 * SIGMA**2)) * 10 / ORDER
        return np.asarray(np.bincount(owner, total, minlength=len(captions)) / pair_count)


def _tokens(texts: Sequence[str], words: dict[str, int]) -> "tuple[NDArray[np.int64], NDArray[np.int64]]":
    """Number the tokens of all texts, new ones as well, in one array; the first array has the text of each token."""
    import numpy as np

    split = [text.split() for text in texts]
    tokens = np.array([words.setdefault(word, len(words)) for some in split for word in some], np.int64)
    return np.repeat(np.arange(len(split)), np.array([len(some) for some in split], np.int64)), tokens


def _keys(
    grams: "NDArray[np.int64]", tokens: "NDArray[np.int64]", rows: "NDArray[np.int64]", n: int
) -> "tuple[NDArray[np.int64], NDArray[np.int64]]":
    """Join the number of the n-gram at each position to the token behind it; return the positions and the keys."""
    import numpy as np

    if n == 0:
        return np.arange(len(tokens)), tokens
    start = np.flatnonzero(rows[:-n] == rows[n:])
    return start, grams[start] * KEY_BASE + tokens[start + n]


def _number(keys: "NDArray[np.int64]", known: "NDArray[np.int64]") -> "NDArray[np.int64]":
    """Number keys by their place among the known ones, which are sorted, and the others from there on."""
    import numpy as np

    number = np.searchsorted(known, keys)
    unknown = np.append(known, -1)[number] != keys
    number[unknown] = len(known) + np.unique(keys[unknown], return_inverse=True)[1]
    return number


def _bigrams(rows: "NDArray[np.int64]", texts: int) -> "NDArray[np.float64]":
    """Count the bigrams of each text: one less than its tokens, and at least 0."""
    import numpy as np

    return np.maximum(0.0, np.bincount(rows, minlength=texts) - 1)
