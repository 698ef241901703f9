"""Checks the captions of a cache: empty or missing, the same for many images, or cut at a length."""

import logging
from collections import Counter
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from clipcap.caption.inspect.doctor.content import CacheContent
from clipcap.caption.inspect.doctor.finding import Facts, Finding, first_examples
from clipcap.data.command.progress import plural
from clipcap.data.errors import ClipCapError
from clipcap.data.spaced import spaced

logger = logging.getLogger(__name__)

Numbers = NDArray[np.int64]

UNCAPTIONED = 0.05  # of the images: published datasets have a few without captions, a failed match has many
COMMON = 0.03  # of the images with one caption: the most common one of COCO, Flickr8k and the demo has below 0.003
FEWEST_COMMON = 10  # images: in a tiny dataset, a caption may well occur several times
PILE = 0.01  # of the captions that have the greatest length; without a cut, fewer do
FEWEST_CUT = 10  # captions: fewer may have the greatest length by chance
ENDS = 0.5  # of the usual share of ends among the places of a last word: cut ones have at most 0.43 of it (5 datasets)
FEWEST_WHOLE = 30  # shorter captions that tell which words end a caption
ENDS_ALONE = 0.5  # the same share where nearly all captions are cut: 0.25 to 0.5, where captions of a template have 1
ENCODED = 2000  # captions that are encoded again, evenly spaced


def check_missing_captions(content: CacheContent, facts: Facts) -> Iterator[Finding]:
    """Find captions that are empty, and images that have none."""
    without = np.flatnonzero(content.captions == 0)
    facts["images_without_captions"] = len(without)
    if UNCAPTIONED * len(content) < len(without) < len(content):
        yield Finding(
            check="uncaptioned",
            count=len(without),
            total=len(content),
            message=f"{len(without):,} of {plural(len(content), 'image')} have no captions",
            cause="names of images that the captions spell in another way, or captions that were empty",
            fix=content.command("compare the names in the dataset's captions with those of its images"),
            examples=first_examples(content.names(without)),
        )
    empty = np.array([c for c, text in enumerate(content.text) if not text.strip()], dtype=np.int64)
    empty = np.union1d(empty, np.flatnonzero(content.tokens <= 1))
    if len(empty):
        yield Finding(
            check="empty_captions",
            count=len(empty),
            total=len(content.text),
            message=f"{len(empty):,} of {plural(len(content.text), 'caption')} are empty",
            cause="missing captions that another program stored as empty texts",
            fix=content.command(),
            examples=first_examples(content.names(np.unique(content.image_of_caption[empty]))),
        )


def check_common_captions(content: CacheContent, facts: Facts) -> Iterator[Finding]:
    """Find captions that many images have."""
    images: Counter[str] = Counter()
    for first, last in zip(content.first_caption, content.first_caption[1:], strict=False):
        images.update({" ".join(text.lower().split()) for text in content.text[first:last]} - {""})
    captioned = int((content.captions > 0).sum())
    common = [(text, count) for text, count in images.most_common() if count > max(FEWEST_COMMON, COMMON * captioned)]
    if images:
        text, count = images.most_common(1)[0]
        facts["most_common_caption"] = {"caption": text, "images": count}
    if common:
        text, count = common[0]
        yield Finding(
            check="common_captions",
            count=sum(count for _, count in common),
            total=captioned,
            message=f"{plural(len(common), 'caption')} {'are' if len(common) > 1 else 'is'} the same for many images: "
            f"{text!r} for {count:,} of {captioned:,}",
            cause="a placeholder for missing captions, or names of classes instead of captions",
            fix=content.command("remove that caption from the dataset"),
            examples=first_examples([f"{text!r}: {count:,} images" for text, count in common]),
        )


def check_cut_captions(content: CacheContent, facts: Facts) -> Iterator[Finding]:
    """Find captions that were cut: tokens that are fewer than those of the text, or texts that stop at one length."""
    if not content.text:
        return
    cut = _cut_tokens(content, facts) or _cut_texts(content)
    if cut is None:
        return
    captions, total, message = cut
    yield Finding(
        check="cut_captions",
        count=len(captions),
        total=total,
        message=message,
        cause="a limit on the length of captions in the program that prepared them",
        fix=content.command("get the captions as they were published"),
        examples=first_examples(
            [f"{content.name(int(content.image_of_caption[c]))}: {content.text[c]!r}" for c in captions]
        ),
    )


def _cut_tokens(content: CacheContent, facts: Facts) -> tuple[Numbers, int, str] | None:
    """Compare the tokens with the text, by the end-of-text token and, if the tokenizer loads, one by one."""
    filled = content.tokens > 0
    last = content.token[content.first_token[1:][filled] - 1]
    end = int(np.bincount(last).argmax()) if len(last) else -1
    chosen = spaced(np.arange(len(content.text)), ENCODED)
    encoded, end = _encode(content, chosen, facts, end)
    without_end = np.flatnonzero(filled)[last != end]
    if len(without_end):
        total = len(content.text)
        return without_end, total, f"{len(without_end):,} of {total:,} captions do not end with the end-of-text token"
    shorter = [c for c, tokens in zip(chosen.tolist(), encoded, strict=False) if content.tokens[c] < len(tokens)]
    if not shorter:
        return None
    message = f"{len(shorter):,} of {len(chosen):,} captions have fewer tokens than their text"
    return np.array(shorter), len(chosen), message


def _encode(content: CacheContent, chosen: Numbers, facts: Facts, end: int) -> tuple[list[list[int]], int]:
    """Encode captions again, if the tokenizer of the cache loads; return their tokens and the end-of-text token."""
    from clipcap.data.pretrained.tokenizer import encode_captions, load_tokenizer, tokenizer_sha256

    name = content.fingerprint.tokenizer
    try:
        tokenizer = load_tokenizer(name) if name else None
    except ClipCapError as error:
        facts["tokens"] = f"not compared with the texts: {error}"
        return [], end
    if tokenizer is None or tokenizer_sha256(tokenizer) != content.fingerprint.tokenizer_sha256:
        facts["tokens"] = f"not compared with the texts: the tokenizer {name or 'of the cache'} is another one now"
        return [], end
    facts["tokens"] = f"compared with the texts of {len(chosen):,} of {plural(len(content.text), 'caption')}"
    return encode_captions(tokenizer, [content.text[c] for c in chosen]), int(tokenizer.eos_token_id)


def _cut_texts(content: CacheContent) -> tuple[Numbers, int, str] | None:
    """Find a length, in tokens, words or characters, at which many captions stop, in the middle of a sentence."""
    words: dict[str, int] = {}
    split = [text.lower().split() for text in content.text]
    flat = np.array([words.setdefault(word, len(words)) for text in split for word in text], dtype=np.int64)
    word_counts = np.array([len(text) for text in split], dtype=np.int64)
    inner = np.ones(len(content.token), dtype=bool)
    inner[content.first_token[1:][content.tokens > 0] - 1] = False  # end-of-text
    token_counts = np.maximum(content.tokens - 1, 0)
    by_token, by_word = (content.token[inner], token_counts), (flat, word_counts)
    characters = np.array([len(text) for text in content.text], dtype=np.int64)
    for unit, length, (pieces, counts) in (
        ("token", token_counts, by_token),
        ("word", word_counts, by_word),
        ("character", characters, by_word),
    ):
        longest = int(length.max())
        at = np.flatnonzero(length == longest)
        if _piles_up(length, longest) and _ends_in_the_middle(pieces, counts, length == longest):
            punctuated = [_share_punctuated(content, rows) for rows in (at, np.flatnonzero(length < longest))]
            message = (
                f"{len(at):,} of {len(length):,} captions stop at {plural(longest, unit)}, the greatest length; "
                f"{punctuated[0]:.0%} of them end with punctuation, and {punctuated[1]:.0%} of the others"
            )
            return at, len(length), message
    return None


def _piles_up(length: Numbers, longest: int) -> bool:
    """Return whether many captions have the greatest length, and more than have one less; without a cut, fewer do."""
    counts = np.bincount(length)
    before = counts[longest - 1] if longest else 0
    return bool(counts[longest] >= max(FEWEST_CUT, PILE * len(length)) and counts[longest] > before)


def _ends_in_the_middle(pieces: Numbers, counts: Numbers, suspected: NDArray[np.bool_]) -> bool:
    """Return whether suspected captions end with words that seldom end a caption.

    Args:
        pieces: the words or tokens of all captions, one caption after the other.
        counts: how many each caption has.
        suspected: bool, whether each caption has the greatest length.
    """
    last = np.cumsum(counts) - 1
    filled = counts > 0
    whole = filled & ~suspected
    if not (filled & suspected).any():  # blank texts
        return False
    alone = whole.sum() < FEWEST_WHOLE
    known = filled if alone else whole
    kinds = int(pieces.max(initial=0)) + 1
    ending = np.bincount(pieces[last[known]], minlength=kinds)
    anywhere = np.bincount(pieces[np.repeat(known, counts)], minlength=kinds)
    frequency = ending / np.maximum(anywhere, 1)  # of a word at the end, among all places where it is
    found = float(frequency[pieces[last[filled & suspected]]].mean())
    return found < ENDS_ALONE if alone else found < ENDS * float(frequency[pieces[last[whole]]].mean())


def _share_punctuated(content: CacheContent, captions: Numbers) -> float:
    ends = [content.text[c].rstrip()[-1:] in (".", "!", "?", "。", '"', "…") for c in captions]
    return sum(ends) / max(1, len(ends))
