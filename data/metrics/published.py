"""Published figures of captioning systems, with their sources, and how a set of images is recognised as a known split.

Figures are on the COCO toolkit's scale, as every figure of this program: papers print a CIDEr of 108.35 for 1.0835.
A split is only recognised where that is certain. Names alone are not enough: many lists take images from val2014.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

MOST = 0.9  # share of a split's images that must be there
XE = ""  # trained on the probability of captions, as this program does: needs no remark
CIDER = "optimised for CIDEr"
TEXT = "trained on captions without images"


@dataclass(frozen=True, kw_only=True)
class Published:
    """The figures that a paper or its code states for one system on one split.

    Attributes:
        dataset, split: the split, as in `SPLITS`.
        system: name of the system, with its variant.
        figures: by the toolkit's names, on its scale.
        source: address of the paper, or of the code where that states the figures.
        seen: where the figures were read for this table.
        note: how the training differs from plain training on images with captions; empty if it does not.
    """

    dataset: str
    split: str
    system: str
    figures: dict[str, float]
    source: str
    seen: str
    note: str = XE


@dataclass(frozen=True, kw_only=True)
class KnownSplit:
    """A split that papers report figures of.

    Attributes:
        dataset, split: its name.
        images: its number of images.
        name: matches the file names of the dataset; its first group identifies the image.
        identity: matches an id without a file name, in the same way.
        formats: readers of this program that take this split from the dataset's own lists.
        sample: identities of some images of the split. None of the dataset's other lists holds all of them.
        references: captions of every image, if that is what the split is recognised by besides the names.
    """

    dataset: str
    split: str
    images: int
    name: re.Pattern[str]
    identity: re.Pattern[str]
    formats: tuple[str, ...] = ()
    sample: frozenset[str] = field(default_factory=frozenset)
    references: int | None = None

    @property
    def title(self) -> str:
        """The name that people know it by, such as `COCO, Karpathy test`."""
        return f"{self.dataset}, {self.split}"

    @property
    def published(self) -> list[Published]:
        """The published figures of this split."""
        return [row for row in PUBLISHED if (row.dataset, row.split) == (self.dataset, self.split)]

    def holds(
        self, ids: Sequence[str], split: str | None, source_format: str | None, references: Iterable[int]
    ) -> bool:
        """Return whether images are certainly those of this split. A few of the split may be missing."""
        named = [self.name.fullmatch(_last(each)) for each in ids]
        by_name = all(named)
        found = named if by_name else [self.identity.fullmatch(_last(each)) for each in ids]
        identities = {match[1] for match in found if match}
        if not all(found) or len(identities) != len(ids) or not MOST * self.images <= len(ids) <= self.images:
            return False
        complete = len(ids) == self.images
        if complete and self.sample and self.sample <= identities:
            return True
        if self.references is not None:
            return complete and by_name and set(references) == {self.references}
        # A cache says which reader took the split from the dataset's own list.
        return by_name and split == "test" and source_format in self.formats


def published_for(
    ids: Sequence[str],
    *,
    split: str | None = None,
    source_format: str | None = None,
    references: Iterable[int] = (),
) -> KnownSplit | None:
    """Recognise the split that images belong to.

    Args:
        ids: of the images: file names, with or without folders, or the dataset's own numbers.
        split: `train`, `val` or `test`, if a cache or a dataset says so.
        source_format: name of the reader that read the dataset, if it is known.
        references: numbers of captions of the images.

    Returns:
        The split, with its published figures, or None where it is not certain which one it is. Up to a tenth of its
        images may be missing: compare their number with `images`.
    """
    counts = list(references)
    if not ids:
        return None
    return next((known for known in SPLITS if known.holds(ids, split, source_format, counts)), None)


def _last(name: str) -> str:
    """Return the last part of a path with slashes of either kind."""
    return name.replace("\\", "/").rsplit("/", 1)[-1]


COCO_TEST = KnownSplit(
    dataset="COCO",
    split="Karpathy test",
    images=5000,
    name=re.compile(r"COCO_val2014_0*(\d+)\.jpg"),
    identity=re.compile(r"(?:COCO_val2014_)?0*(\d+)"),
    formats=("karpathy",),
    # From karpathy_test_images.txt in peteanderson80/bottom-up-attention.
    sample=frozenset(
        {
            "253964", "350334", "493284", "283277", "194756", "562207", "448365", "410924",
            "127263", "113828", "9156", "85390", "300509", "6484", "331223", "171695",
        }
    ),
)  # fmt: skip
FLICKR8K_TEST = KnownSplit(
    dataset="Flickr8k",
    split="test",
    images=1000,
    name=re.compile(r"(\d+_[0-9a-f]{10})\.jpg"),
    identity=re.compile(r"(\d+_[0-9a-f]{10})"),
    formats=("flickr8k", "karpathy"),
    # From Flickr_8k.testImages.txt.
    sample=frozenset(
        {
            "3385593926_d3e9c21170", "2677656448_6b7e7702af", "311146855_0b65fdb169", "1258913059_07c613f7ff",
            "241347760_d44c8d3a01", "2654514044_a70a6e2c21", "2339106348_2df90aa6a9", "256085101_2c2617c5d0",
        }
    ),
)  # fmt: skip
FLICKR30K_TEST = KnownSplit(
    dataset="Flickr30k",
    split="Karpathy test",
    images=1000,
    name=re.compile(r"(\d{5,11})\.jpg"),
    identity=re.compile(r"(?!)"),
    formats=("karpathy",),
)
NOCAPS_VAL = KnownSplit(
    dataset="nocaps",
    split="val",
    images=4500,
    name=re.compile(r"([0-9a-f]{16})\.jpg"),
    identity=re.compile(r"(?!)"),
    references=10,
)
SPLITS = (COCO_TEST, FLICKR8K_TEST, FLICKR30K_TEST, NOCAPS_VAL)


def _row(
    known: KnownSplit,
    system: str,
    names: str,
    figures: Sequence[float],
    source: str,
    seen: str,
    note: str = XE,
) -> Published:
    """Make a row from figures as papers print them, times 100."""
    numbers = dict(zip(names.split(), (round(figure / 100, 6) for figure in figures), strict=True))
    return Published(
        dataset=known.dataset, split=known.split, system=system, figures=numbers, source=source, seen=seen, note=note
    )


_BMCS = "Bleu_4 METEOR CIDEr SPICE"
_BLEU_M = "Bleu_1 Bleu_2 Bleu_3 Bleu_4 METEOR"
_CLIPCAP, _SAT = "https://arxiv.org/abs/2111.09734", "https://arxiv.org/abs/1502.03044"
_VLP, _VIECAP = "https://arxiv.org/abs/1909.11059", "https://arxiv.org/abs/2307.16525"
_CAPDEC, _DECAP = "https://arxiv.org/abs/2211.00575", "https://openreview.net/forum?id=Lt8bMlhiwx2"
_LUO = "https://github.com/ruotianluo/ImageCaptioning.pytorch/blob/master/MODEL_ZOO.md"
_UPDOWN = "https://github.com/nocaps-org/updown-baseline"
_PWC = "Papers with Code, page of the paper"
_SEEN_VIECAP, _SEEN_VLP = "README of FeiElysia/ViECap", "README of LuoweiZhou/VLP"
_SEEN_SAT = "Table 1 as quoted by READMEs of several re-implementations"
_NOCAPS = "Bleu_1 Bleu_4 METEOR ROUGE_L CIDEr SPICE"

PUBLISHED: tuple[Published, ...] = (
    _row(COCO_TEST, "ClipCap, transformer", _BMCS, (33.53, 27.45, 113.08, 21.05), _CLIPCAP, _PWC),
    _row(COCO_TEST, "ClipCap, MLP and GPT-2 tuned", _BMCS, (32.15, 27.1, 108.35, 20.12), _CLIPCAP, _PWC),
    _row(
        COCO_TEST, "SmallCap, d=16, large", "Bleu_4 METEOR CIDEr", (37.2, 28.3, 121.8),
        "https://arxiv.org/abs/2209.15323", _PWC, "prompted with retrieved captions",
    ),
    _row(COCO_TEST, "VLP", _BMCS, (36.5, 28.4, 116.9, 21.2), _VLP, _SEEN_VLP),
    _row(COCO_TEST, "VLP + SCST", _BMCS, (39.5, 29.3, 129.3, 23.2), _VLP, _SEEN_VLP, CIDER),
    _row(
        COCO_TEST, "Oscar, base", _BMCS, (40.5, 29.7, 137.6, 22.8), "https://arxiv.org/abs/2004.06165",
        "MODEL_ZOO.md of microsoft/Oscar", CIDER,
    ),
    _row(COCO_TEST, "Transformer on bottom-up features", "CIDEr SPICE", (111.3, 20.45), _LUO, "the same page"),
    _row(COCO_TEST, "Up-Down, replicated", "CIDEr SPICE", (109.9, 19.99), _LUO, "the same page"),
    _row(COCO_TEST, "ViECap", _BMCS, (27.2, 24.8, 92.9, 18.2), _VIECAP, _SEEN_VIECAP, TEXT),
    _row(COCO_TEST, "DeCap", _BMCS, (24.7, 25.0, 91.2, 18.7), _DECAP, _SEEN_VIECAP, TEXT),
    _row(COCO_TEST, "CapDec", "Bleu_4 METEOR CIDEr", (26.4, 25.1, 91.8), _CAPDEC, _SEEN_VIECAP, TEXT),
    _row(FLICKR8K_TEST, "Show, Attend and Tell, soft", _BLEU_M, (67.0, 44.8, 29.9, 19.5, 18.93), _SAT, _SEEN_SAT),
    _row(FLICKR8K_TEST, "Show, Attend and Tell, hard", _BLEU_M, (67.0, 45.7, 31.4, 21.3, 20.30), _SAT, _SEEN_SAT),
    _row(FLICKR30K_TEST, "VLP", _BMCS, (30.1, 23.0, 67.4, 17.0), _VLP, _SEEN_VLP),
    _row(FLICKR30K_TEST, "Show, Attend and Tell, soft", _BLEU_M, (66.7, 43.4, 28.8, 19.1, 18.49), _SAT, _SEEN_SAT),
    _row(FLICKR30K_TEST, "Show, Attend and Tell, hard", _BLEU_M, (66.9, 43.9, 29.6, 19.9, 18.46), _SAT, _SEEN_SAT),
    _row(FLICKR30K_TEST, "DeCap", _BMCS, (21.2, 21.8, 56.7, 15.2), _DECAP, _SEEN_VIECAP, TEXT),
    _row(FLICKR30K_TEST, "ViECap", _BMCS, (21.4, 20.1, 47.9, 13.6), _VIECAP, _SEEN_VIECAP, TEXT),
    _row(FLICKR30K_TEST, "CapDec", "Bleu_4 METEOR CIDEr", (17.7, 20.0, 39.1), _CAPDEC, _SEEN_VIECAP, TEXT),
    _row(
        NOCAPS_VAL, "Up-Down", _NOCAPS, (73.7, 18.3, 22.7, 50.4, 55.3, 10.1), _UPDOWN, "the same page",
        "trained on COCO",
    ),
    _row(
        NOCAPS_VAL, "Up-Down, constrained beam search", _NOCAPS, (75.8, 17.5, 22.7, 51.1, 73.3, 11.3), _UPDOWN,
        "the same page", "trained on COCO",
    ),
)  # fmt: skip
