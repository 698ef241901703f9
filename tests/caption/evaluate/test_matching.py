"""Which caption belongs to which image."""

from pathlib import Path

import pytest

from clipcap.caption.evaluate.matching import check_matched, choose_split, match, split_to_caption
from clipcap.caption.evaluate.references import Reference, References
from clipcap.data.errors import SourceError, UsageError


def images(*names: str, split: str | None = None) -> list[Reference]:
    """References named `id=path`."""
    pairs = [(name.partition("=")[0], name.partition("=")[2] or name) for name in names]
    return [Reference(identifier, path, split, ["a"], None) for identifier, path in pairs]


def found(names: list[str], known: list[Reference]) -> dict[int, str]:
    return match({name: name for name in names}, known).captions


COCO = images("9=val2014/COCO_val2014_000000000009.jpg", "30=val2014/COCO_val2014_000000000030.jpg")


@pytest.mark.parametrize(
    "names",
    [
        ["9", "30"],
        ["val2014/COCO_val2014_000000000009.jpg", "val2014/COCO_val2014_000000000030.jpg"],
        ["./data/val2014/COCO_val2014_000000000009.jpg", "data\\val2014\\COCO_val2014_000000000030.jpg"],
        ["COCO_val2014_000000000009.jpg", "x/COCO_val2014_000000000030.jpg"],
        ["COCO_val2014_000000000009", "COCO_val2014_000000000030.png"],
        ["000000000009.jpg", "30.png"],
    ],
)
def test_images_are_found_however_they_are_named(names: list[str]) -> None:
    assert found(names, COCO) == dict(enumerate(names))


def test_numbers_find_file_names_where_the_ids_are_paths() -> None:
    assert found(["30", "9"], images("a/000000000009.jpg", "a/000000000030.jpg")) == {0: "9", 1: "30"}


def test_a_number_that_is_an_id_by_chance_is_understood_as_most_are() -> None:
    known = images("1=000000000002.jpg", "2=000000000007.jpg", "3=000000000009.jpg")
    assert found(["2", "7", "9"], known) == {0: "2", 1: "7", 2: "9"}


def test_a_file_name_in_two_folders_counts_for_neither_but_the_end_of_the_path_does() -> None:
    known = images("train/1.jpg", "test/1.jpg", "test/2.jpg")
    assert found(["1.jpg", "2.jpg"], known) == {2: "2.jpg"}
    assert found(["x/test/1.jpg", "x/test/2.jpg"], known) == {1: "x/test/1.jpg", 2: "x/test/2.jpg"}


def test_names_with_dots_are_no_stems() -> None:
    assert found(["a.1", "a.2"], images("a.1.jpg", "a.2.jpg")) == {0: "a.1", 1: "a.2"}


def test_two_captions_of_one_image_are_an_error() -> None:
    with pytest.raises(SourceError, match=r"x/9\.jpg and y/9\.jpg"):
        match({"x/9.jpg": "a", "y/9.jpg": "b"}, images("9.jpg", "8.jpg"))


def test_what_does_not_match_is_named(caplog: pytest.LogCaptureFixture) -> None:
    known = images("1", "2", "3", "4")
    result = match({"1": "a", "2": "b", "3": "c", "5": "d"}, known)
    assert (result.unknown, result.missing) == (["5"], [3])
    check_matched("r.json", 4, References(path=Path("refs"), images=known), result, known)
    assert "1 of 4 captions in r.json" in caplog.text and ": 5" in caplog.text
    assert "1 of 4 images in refs" in caplog.text and ": 4" in caplog.text


@pytest.mark.parametrize(("predicted", "known"), [("127", "12345"), ("1789", "15")])
def test_more_than_half_without_a_partner_is_an_error(predicted: str, known: str) -> None:
    references = images(*known)
    result = match(dict.fromkeys(predicted, "a"), references)
    with pytest.raises(SourceError, match="3 of"):
        check_matched("r.json", len(predicted), References(path=Path("refs"), images=references), result, references)


def test_half_without_a_partner_is_no_error() -> None:
    references = images(*"12")
    result = match({"1": "a", "7": "b"}, references)
    check_matched("r.json", 2, References(path=Path("refs"), images=references), result, references)


def test_the_split_of_most_predictions_is_chosen_and_said(caplog: pytest.LogCaptureFixture) -> None:
    known = [*images("1", "2", split="train"), *images("3", "4", "5", split="test")]
    references = References(path=Path("refs"), images=known)
    with caplog.at_level("INFO"):
        assert choose_split(["1", "3", "4"], references, None) == "test"
    assert "split test" in caplog.text and "1 in train" in caplog.text
    assert choose_split(["3"], references, "train") == "train"
    with pytest.raises(UsageError, match=r"val.*train, test"):
        choose_split(["3"], references, "val")
    with pytest.raises(UsageError, match="dev"):
        choose_split(["3"], references, "dev")


def test_references_without_splits_have_none_to_choose() -> None:
    references = References(path=Path("refs"), images=images("1"))
    assert choose_split(["1"], references, None) is None
    with pytest.raises(UsageError, match="no splits"):
        choose_split(["1"], references, "test")


def test_the_test_split_is_captioned_else_val_and_never_train_unasked(caplog: pytest.LogCaptureFixture) -> None:
    def chosen(*splits: str, asked: str | None = None) -> str | None:
        known = [Reference(split, split, split, ["a"], None) for split in splits]
        return split_to_caption(References(path=Path("cache.h5"), images=known), asked)

    with caplog.at_level("INFO"):
        assert chosen("train", "val", "test") == "test"
    assert "split test" in caplog.text
    assert chosen("train", "val") == "val"
    assert chosen("train", "val", asked="train") == "train"
    with pytest.raises(UsageError, match=r"cache\.h5.*train"):
        chosen("train")
    with pytest.raises(UsageError, match="test"):
        chosen("train", "val", asked="test")
