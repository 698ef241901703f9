"""Published figures: their values, and that a split is recognised only where it is certain."""

from pathlib import Path

from clipcap.data.metrics.published import COCO_TEST, FLICKR8K_TEST, PUBLISHED, SPLITS, published_for

HIGHEST = {"CIDEr": 2.0}  # of the other figures, 1


def coco_names(known: bool = True, count: int = 5000) -> list[str]:
    """File names of val2014, with those of the sample of Karpathy's test split or without."""
    numbers = [int(number) for number in COCO_TEST.sample] if known else []
    numbers += range(600_000, 600_000 + count - len(numbers))
    return [f"val2014/COCO_val2014_{number:012d}.jpg" for number in numbers]


def flickr8k_names(count: int = 1000) -> list[str]:
    names = [*FLICKR8K_TEST.sample, *(f"{number}_0123456789" for number in range(count))]
    return [f"{name}.jpg" for name in names[:count]]


def test_clipcaps_figures_are_those_of_its_paper_on_the_scale_of_the_toolkit() -> None:
    figures = {row.system: row.figures for row in COCO_TEST.published}
    assert figures["ClipCap, MLP and GPT-2 tuned"] == {
        "Bleu_4": 0.3215, "METEOR": 0.271, "CIDEr": 1.0835, "SPICE": 0.2012,
    }  # fmt: skip
    assert figures["ClipCap, transformer"] == {"Bleu_4": 0.3353, "METEOR": 0.2745, "CIDEr": 1.1308, "SPICE": 0.2105}


def test_every_row_has_a_source_and_figures_that_are_possible() -> None:
    for row in PUBLISHED:
        assert row.source.startswith("https://")
        assert row.seen
        assert all(0 < figure < HIGHEST.get(name, 1) for name, figure in row.figures.items()), row.system
    assert len({(row.dataset, row.split, row.system) for row in PUBLISHED}) == len(PUBLISHED)
    assert sum(len(known.published) for known in SPLITS) == len(PUBLISHED)


def test_coco_karpathy_test_is_recognised_by_its_images() -> None:
    assert published_for(coco_names()) is COCO_TEST
    assert published_for([name[-10:-4] for name in coco_names()]) is COCO_TEST  # the numbers alone
    assert published_for([name.replace("/", "\\") for name in coco_names()]) is COCO_TEST


def test_other_images_of_val2014_are_not_taken_for_the_test_split() -> None:
    other = coco_names(known=False)
    assert published_for(other) is None
    assert published_for(other, split="val", source_format="karpathy") is None
    assert published_for(other, split="test", source_format="table") is None
    assert published_for([name[-10:-4] for name in other], split="test", source_format="karpathy") is None


def test_a_split_of_the_datasets_own_list_is_recognised_with_a_few_images_missing() -> None:
    names = coco_names(known=False)
    assert published_for(names[:4990], split="test", source_format="karpathy") is COCO_TEST
    assert published_for(names[:100], split="test", source_format="karpathy") is None
    names = flickr8k_names()
    assert published_for(names[10:], split="test", source_format="flickr8k") is FLICKR8K_TEST
    assert published_for(names[10:]) is None


def test_duplicates_and_foreign_names_are_no_known_split() -> None:
    names = coco_names()
    assert published_for([*names[:-1], names[0]]) is None
    assert published_for([*names[:-1], "dog.jpg"]) is None
    assert published_for([]) is None


def test_flickr30k_needs_karpathys_file_and_nocaps_ten_captions_of_each_image() -> None:
    numbers = [f"{number}.jpg" for number in range(1_000_000, 1_001_000)]
    found = published_for(numbers, split="test", source_format="karpathy")
    assert found is not None
    assert found.title == "Flickr30k, Karpathy test"
    assert published_for(numbers, split="test", source_format="flickr30k") is None
    hexadecimal = [f"{number:016x}.jpg" for number in range(4500)]
    found = published_for(hexadecimal, references=[10] * 4500)
    assert found is not None
    assert found.title == "nocaps, val"
    assert published_for(hexadecimal, references=[5] * 4500) is None


def test_the_real_test_split_of_flickr8k_is_recognised(shared: Path) -> None:
    folder = shared / "data/flickr8k-splits"
    for part, found in (("test", FLICKR8K_TEST), ("dev", None)):
        names = (folder / f"Flickr_8k.{part}Images.txt").read_text().split()
        assert published_for(names) is found
