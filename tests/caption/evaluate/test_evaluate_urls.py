"""Predictions, references and images behind URLs: the figures of the files, and errors in one line."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from clipcap.caption.evaluate.predictions import read_predictions
from clipcap.caption.evaluate.references import read_references
from clipcap.data.errors import SourceError
from clipcap.data.image_store import StoredImage
from remote_hub import Hub

REFERENCES = {"a.jpg": ["a dog runs over the grass", "the dog runs"], "b.jpg": ["a red square on a table"]}
PREDICTIONS = [{"image_id": "a.jpg", "caption": "a dog runs"}, {"image_id": "b.jpg", "caption": "a table"}]


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    """Predictions, and their references."""
    (tmp_path / "p.json").write_text(json.dumps(PREDICTIONS))
    (tmp_path / "r.json").write_text(json.dumps(REFERENCES))
    return tmp_path / "p.json", tmp_path / "r.json"


def test_the_figures_are_those_of_the_files_and_no_secret_is_shown(
    tmp_path: Path, run: Any, files: tuple[Path, Path], web: str
) -> None:
    for file in files:
        (tmp_path / "web/private").mkdir(exist_ok=True)
        (tmp_path / "web/private" / file.name).write_bytes(file.read_bytes())
    predictions, references = (f"{web}/private/{file.name}?token=s3cret" for file in files)
    local = run("evaluate", "--predictions", files[0], "--references", files[1], "--json")
    assert local.status == 0, local.err
    remote = run("evaluate", "--predictions", predictions, "--references", references, "--json")
    assert (remote.status, remote.out) == (0, local.out)
    table = run("evaluate", "--predictions", predictions, "--references", files[1])
    assert f"{web}/private/p.json" in table.out
    assert "s3cret" not in remote.err + table.out + table.err


def thumbnails(report: Path) -> set[str]:
    """Return the images of a report."""
    return set(re.findall(r"data:image/jpeg;base64,[^\"]*", report.read_text()))


def test_a_report_shows_images_behind_urls(tmp_path: Path, run: Any, coco: Path, hub: type[Hub]) -> None:
    hub.add(coco, "coco")
    (tmp_path / "p.json").write_text(json.dumps([{"image_id": n, "caption": "a dog"} for n in range(113, 118)]))
    command = ["evaluate", "--predictions", tmp_path / "p.json", "--split", "val", "--references"]
    assert run(*command, coco, "--report", tmp_path / "local.html").status == 0
    captions = "annotations/captions_val2017.json"
    for references in (["hub://coco"], [f"hub://coco/{captions}"], [coco / captions, "--images", "hub://coco/"]):
        hub.requests.clear()
        result = run(*command, *references, "--report", tmp_path / "r.html")
        assert result.status == 0, result.err
        assert thumbnails(tmp_path / "r.html") == thumbnails(tmp_path / "local.html")
        images = [name for name in hub.requests if name.endswith(".jpg")]
        assert len(images) == len(thumbnails(tmp_path / "local.html")) > 1
        assert str(tmp_path / "mirrors") not in result.err
    hub.failures[images[0]] = [ConnectionError("timed out")] * 3
    result = run(*command, "hub://coco", "--report", tmp_path / "r.html")
    assert f"warning: hub://{images[0]} is left out of the report: timed out\n" in result.err
    assert len(thumbnails(tmp_path / "r.html")) == len(images) - 1


def test_references_of_every_kind_are_read_as_from_files(coco: Path, tmp_path: Path, hub: type[Hub]) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set/r.json").write_text(json.dumps(REFERENCES))
    (tmp_path / "set/c.json").write_bytes((coco / "annotations/captions_val2017.json").read_bytes())
    (tmp_path / "set/t.csv").write_text("image,caption\na.jpg,one\na.jpg,two\n")
    (tmp_path / "set/a.jpg").write_bytes(b"A")
    hub.add(tmp_path / "set", "set")
    for name in ("r.json", "c.json", "t.csv"):
        local, remote = read_references(tmp_path / "set" / name), read_references(f"hub://set/{name}")
        assert remote.path == f"hub://set/{name}"
        assert [(one.id, one.split, one.captions) for one in remote.images] == [
            (one.id, one.split, one.captions) for one in local.images
        ]
    (table,) = remote.images
    assert isinstance(table.image, StoredImage)
    assert (str(table.image), table.image.read()) == ("hub://set/a.jpg", b"A")


def test_what_cannot_be_read_is_one_line(run: Any, files: tuple[Path, Path], hub: type[Hub]) -> None:
    hub.files |= {"set/p.json": b'[{"image_id": 1}]', "set/r.json": b'{"a": 5}', "set/x/a.txt": b""}
    predictions, references = files
    answers = {
        (
            "hub://set/none.json",
            references,
        ): "hub://set/none.json does not exist, or is private; check the URL",
        ("hub://set/x", references): "hub://set/x is a folder; give the URL of a file",
        ("hub://set/p.json", references): "hub://set/p.json entry 1 has no caption but image_id; expected",
        (predictions, "hub://set/none.json"): "hub://set/none.json does not exist, or is private; check the URL",
        (predictions, "hub://me:secret@set/c.h5"): "hub://set/c.h5 is a cache, which is read from files; download it",
        (predictions, "hub://set/r.json"): "hub://set/r.json has 5 under 'a'; references are",
    }
    for (one, other), answer in answers.items():
        result = run("evaluate", "--predictions", one, "--references", other)
        assert (result.status, result.out, result.err.splitlines()[-1][: len(answer) + 18]) == (
            2,
            "",
            f"clipcap-evaluate: {answer}",
        )
    with pytest.raises(SourceError, match=r"^hub://set/p\.json entry 1 "):
        read_predictions("hub://set/p.json")
