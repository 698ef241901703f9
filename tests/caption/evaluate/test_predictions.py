"""Files of captions in every format, and the errors that name the file and the entry."""

import json
from pathlib import Path
from typing import Any

import pytest

from clipcap.caption.evaluate.predictions import read_predictions
from clipcap.caption.outputs import FORMATS, Layout
from clipcap.data.errors import SourceError

RESULTS = [("img/dog.jpg", ["A dog runs.", "A dog."]), ("img/cat.jpg", ['A "cat", asleep.', "A cat."])]


def only(path: Path) -> dict[str, str]:
    """The captions of a file with one captioner."""
    (found,) = read_predictions(path)
    assert found.model is None
    return found.captions


def test_ids_of_cocos_result_format_become_text(tmp_path: Path) -> None:
    entries = [{"image_id": 391895, "caption": "A man."}, {"image_id": "x1", "caption": ""}]
    (tmp_path / "r.json").write_text(json.dumps([*entries, {"image_id": 7.0, "caption": "b", "score": 1}]))
    assert only(tmp_path / "r.json") == {"391895": "A man.", "x1": "", "7": "b"}


def test_an_object_of_captions_by_id_is_read(tmp_path: Path) -> None:
    (tmp_path / "r.json").write_text(json.dumps({"1": "a", "2": ["b"]}, indent=1))
    assert only(tmp_path / "r.json") == {"1": "a", "2": "b"}
    (tmp_path / "one.jsonl").write_text('{"input": "a.jpg", "caption": "b"}\n')
    assert only(tmp_path / "one.jsonl") == {"a.jpg": "b"}


@pytest.mark.parametrize("form", ["json", "jsonl", "csv"])
@pytest.mark.parametrize("several_captions", [False, True])
@pytest.mark.parametrize("models", [["a/best"], ["a/best", "b/best"]])
def test_outputs_of_clipcap_caption_are_read(
    tmp_path: Path, form: str, several_captions: bool, models: list[str]
) -> None:
    layout = Layout(several_captions=several_captions, several_models=len(models) > 1)
    with (tmp_path / f"out.{form}").open("w") as stream:
        writer = FORMATS[form](stream, layout)
        for model in models:
            for name, captions in RESULTS:
                writer.write(name, captions if several_captions else captions[:1], model)
        writer.close()
    found = read_predictions(tmp_path / f"out.{form}")
    assert [one.model for one in found] == (models if len(models) > 1 else [None])
    assert all(one.captions == {name: captions[0] for name, captions in RESULTS} for one in found)


def test_the_first_of_several_csv_rows_counts_and_the_others_are_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "out.csv").write_text("input,caption\na.jpg,one\na.jpg,two\na.jpg,three\nb.jpg,four\n")
    with caplog.at_level("INFO"):
        assert only(tmp_path / "out.csv") == {"a.jpg": "one", "b.jpg": "four"}
    assert "2 more captions" in caplog.text


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("empty.json", "", "is empty"),
        ("none.json", "[]", "holds no captions"),
        ("broken.json", '[{"image_id": 1,', "not JSON"),
        ("number.json", '[{"image_id": 1, "caption": "a"}, 5]', "entry 2"),
        ("keys.json", '[{"image_id": 1, "text": "a"}]', "entry 1 has no caption but image_id, text"),
        ("noid.json", '[{"caption": "a"}]', "no image_id or input"),
        ("list.json", '[{"image_id": 1, "captions": []}]', "not text"),
        ("nocaption.json", '[{"image_id": 1, "caption": null}]', "the caption None, which is not text"),
        ("null.json", '[{"image_id": null, "caption": "a"}]', "None"),
        ("twice.json", '[{"image_id": 1, "caption": "a"}, {"image_id": "1", "caption": "b"}]', "entry 1 already"),
        ("line.jsonl", '{"input": "a", "caption": "b"}\nx', "line 2"),
        ("apart.csv", "input,caption\na,1\nb,2\na,3\n", "line 4"),
        ("comma.csv", "input,caption\na,one, two\n", "line 2 has 3 fields"),
        ("text.txt", "a.jpg: A dog.\n", "holds no captions"),
        ("references.json", '{"1": ["a", "b"]}', "image 1"),
        ("coco.json", json.dumps({"images": [], **dict.fromkeys(map(str, range(999)), "a")}), "image images"),
        (
            "wide.jsonl",
            json.dumps(dict.fromkeys(map(str, range(999)), "a")) + "\n{}",
            "line 1 has no image_id or input",
        ),
        ("cache.h5", "", "is a cache"),
    ],
)
def test_a_wrong_file_is_an_error_that_names_it_and_its_entry(tmp_path: Path, name: str, text: str, said: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(SourceError) as caught:
        read_predictions(tmp_path / name)
    message = str(caught.value)
    assert str(tmp_path / name) in message and said in message
    assert "\n" not in message and len(message) < 400


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", None])
def test_a_file_that_cannot_be_read_is_an_error(tmp_path: Path, content: Any) -> None:
    if content is not None:
        (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(SourceError, match=r"x\.json"):
        read_predictions(tmp_path / "x.json")
    with pytest.raises(SourceError, match="folder"):
        read_predictions(tmp_path)
