"""The report of an evaluation: what it says, that it is safe and complete in one file, and that it fits a phone."""

import base64
import datetime
import html
import io
import json
import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from clipcap.caption.evaluate.base import Difference, Evaluated, Evaluation
from clipcap.caption.evaluate.report import write_report
from clipcap.caption.evaluate.report.charts import Curve, line_chart, thin, ticks
from clipcap.caption.evaluate.report.contact_sheet import IMAGES, choose
from clipcap.caption.evaluate.report.thumbnails import LONG_SIDE, thumbnail
from clipcap.data.errors import ClipCapError
from clipcap.data.metrics.base import mean_score
from clipcap.data.metrics.published import FLICKR8K_TEST
from clipcap.train.run.folder import RunFolder
from clipcap.train.run.reporting import Reporter

DAY = datetime.date(2026, 11, 24)
VOID = {"meta", "img", "wbr", "br", "link", "hr", "input", "line", "circle", "polyline"}


class Page(HTMLParser):
    """A parsed page: its tags with attributes, its tables, and the text of every element by tag."""

    def __init__(self, source: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []  # of paragraphs, cells and the like, without their descendants' tags
        self.rows: list[list[str]] = []
        self.open: list[tuple[str, list[str]]] = []
        self.feed(source)
        self.close()
        assert not self.open, "every element is closed"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append((tag, []))
        if tag == "tr":
            self.rows.append([])

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        for _, texts in self.open:
            texts.append(data)

    def handle_endtag(self, tag: str) -> None:
        opened, texts = self.open.pop()
        assert opened == tag
        text = re.sub(r"\s+", " ", "".join(texts)).strip()
        self.texts.append((tag, text))
        if tag in ("td", "th"):
            self.rows[-1].append(text)
        if tag not in ("bdi", "a"):
            self.handle_data(" ")

    def row(self, name: str) -> list[str]:
        """The cells behind the first row header that begins with a name."""
        return next(cells[1:] for cells in self.rows if cells and cells[0].startswith(name))

    def all(self, tag: str) -> list[str]:
        return [text for found, text in self.texts if found == tag]

    @property
    def text(self) -> str:
        return next(text for tag, text in self.texts if tag == "body")


def make_captioner(name: str, values: list[float], **changes: Any) -> Evaluated:
    """A captioner of images `0.jpg`, `1.jpg`, ... with these values of CIDEr."""
    count = len(values)
    made = Evaluated(
        name=name,
        ids=[f"{number}.jpg" for number in range(count)],
        captions=[f"caption {number} of {name}" for number in range(count)],
        references=[[f"reference {number}", f"another {number}"] for number in range(count)],
        images=[None] * count,
        scores={"Bleu_4": mean_score(np.full(count, 0.25)), "CIDEr": mean_score(np.array(values))},
        intervals={"Bleu_4": (0.2, 0.3), "CIDEr": (0.9, 1.2)},
        text={"distinct_captions": 3, "vocabulary": 1234, "mean_length": 9.25, "in_training": 0.125},
    )
    return replace(made, **changes)


def make_evaluation(**changes: Any) -> Evaluation:
    """Two captioners, the first of which is clearly ahead in CIDEr, and a baseline."""
    first, second = make_captioner("best", [2.0, 1.0, 0.25]), make_captioner("last.json", [0.5, 0.25, 0.0])
    differences = [
        Difference(first="last.json", second="best", metric="CIDEr", images=1000, value=-0.8333, interval=(-1.0, -0.5)),
        Difference(first="last.json", second="best", metric="Bleu_4", images=1000, value=-0.01, interval=(-0.04, 0.02)),
    ]
    baseline = make_captioner("nearest image", [0.1, 0.1, 0.1])
    return replace(Evaluation(evaluated=[first, second], baselines=[baseline], differences=differences), **changes)


def written(evaluation: Evaluation, folder: Path, **options: Any) -> tuple[str, Page]:
    file = folder / "report.html"
    write_report(evaluation, file, date=DAY, **options)
    source = file.read_bytes().decode()
    return source, Page(source)


def test_figures_intervals_and_differences_stand_in_their_rows(tmp_path: Path) -> None:
    _, page = written(make_evaluation(), tmp_path)
    assert ["Captioner", "CIDEr", "BLEU-4"] in page.rows
    assert page.row("best") == ["▲ 108.33 90.00 to 120.00", "25.00 20.00 to 30.00"]
    assert page.row("last.json") == ["25.00 90.00 to 120.00", "25.00 20.00 to 30.00"]
    assert page.row("nearest image") == ["10.00 90.00 to 120.00", "25.00 20.00 to 30.00"]
    compared = page.rows.index(["Compared with best"])
    assert page.rows[compared + 1] == ["last.json", "-83.33 -100.00 to -50.00", "-1.00 -4.00 to +2.00"]
    texts = page.rows.index(["Captioner", "Distinct captions", "Vocabulary", "Mean length", "In the training set"])
    assert page.rows[texts + 2] == ["best", "3 100% of 3", "1,234 words", "9.2 tokens", "12.5% of the captions"]


def test_only_a_difference_whose_interval_leaves_out_zero_is_marked(tmp_path: Path) -> None:
    source, page = written(make_evaluation(), tmp_path)
    assert source.count('class="ahead"') == 1
    second_ahead = Difference(
        first="last.json", second="best", metric="Bleu_4", images=1000, value=0.1, interval=(0.05, 0.2)
    )
    source, page = written(make_evaluation(differences=[second_ahead]), tmp_path)
    assert source.count('class="ahead"') == 1
    assert page.row("last.json")[1].startswith("▲ ")
    third = make_captioner("third", [0.0, 0.0, 0.0])
    same = Difference(first="third", second="best", metric="CIDEr", images=1000, value=0.0, interval=(0.0, 0.1))
    evaluation = make_evaluation()
    evaluation = replace(
        evaluation, evaluated=[*evaluation.evaluated, third], differences=[*evaluation.differences, same]
    )
    source, page = written(evaluation, tmp_path)
    assert 'class="ahead"' not in source  # the first captioner is not ahead of all others
    assert ["third", "+0.00 +0.00 to +10.00", "–"] in page.rows  # noqa: RUF001


def test_a_figure_that_is_not_a_number_is_an_empty_cell(tmp_path: Path) -> None:
    """SPICE of the toolkit is NaN where its parser fails."""
    nan = float("nan")
    scores = {"CIDEr": mean_score(np.ones(2)), "SPICE": mean_score(np.array([0.25, nan]))}
    one = make_captioner("best", [1.0, 1.0], scores=scores, intervals={"CIDEr": (0.5, 1.5), "SPICE": (nan, nan)})
    source, page = written(Evaluation(evaluated=[one]), tmp_path)
    assert page.row("best") == ["100.00 50.00 to 150.00", "–"]  # noqa: RUF001
    assert "nan" not in source.lower().split("<body>")[1]


def test_heading_names_captioners_cache_split_date_and_program(tmp_path: Path) -> None:
    _, page = written(make_evaluation(split="val"), tmp_path)
    assert page.all("h1") == ["best, last.json"]
    assert "3, with 6 references" in page.text
    assert "Split val Date 2026-11-24 Program clipcap" in page.text
    assert ("html", {"lang": "en"}) in page.tags
    assert all(text for tag, text in page.texts if tag in ("h2", "h3", "th", "figcaption", "summary"))


EVIL = """</p><script>alert("1")</script> <img src=x onerror=alert(2)> & 'quotes' {{ 7 * 7 }} {% raw %}"""


def test_whatever_captions_names_and_settings_hold_is_shown_as_text(tmp_path: Path) -> None:
    name = f"{EVIL}/best"
    checkpoint = tmp_path / "best"
    checkpoint.mkdir()
    (checkpoint / "config.json").write_text("{}")
    (tmp_path / "metrics.jsonl").write_text(json.dumps({"step": 1, "val_loss": 1.0, f"val_{EVIL}": 0.5}))
    one = make_captioner(
        name,
        [1.0, 1.0, 1.0],
        captions=[EVIL, "שלום שני חתולים", "half \ud83d of a pair \0"],
        references=[[EVIL], ['"x" onload="y'], ["ok"]],
        ids=[EVIL, '" autofocus onfocus="alert(3)', "c"],
        scores={EVIL: mean_score(np.ones(3)), "CIDEr": mean_score(np.ones(3))},
        unmatched={"predictions_without_references": [EVIL]},
        checkpoint=checkpoint,
    )
    difference = Difference(first=name, second=EVIL, metric=EVIL, images=1000, value=0.0, interval=(0.0, 0.0))
    evaluation = Evaluation(evaluated=[one], differences=[difference], cache=Path("/no/" + EVIL), split=EVIL)
    source, page = written(evaluation, tmp_path, decoding={EVIL: EVIL})
    plain = re.sub(r"\s+", " ", EVIL)
    assert source.count("<script") == 0
    assert not [tag for tag, attributes in page.tags if any(key.startswith("on") for key in attributes)]
    assert not [attributes for tag, attributes in page.tags if tag == "img"]
    assert plain in page.all("b")
    assert [text for text in page.all("li") if text == plain]
    assert page.all("h1") == [f"{plain}/best"]
    assert "49" not in page.all("b")
    assert "half ? of a pair" in page.all("b")
    captions = [attributes for tag, attributes in page.tags if tag == "p" and attributes.get("class") == "caption"]
    assert len(captions) == 3
    assert all(attributes["dir"] == "auto" for attributes in captions)


def test_the_page_loads_nothing_and_runs_nothing(tmp_path: Path) -> None:
    Image.new("RGB", (40, 30), "red").save(tmp_path / "0.png")
    one = make_captioner("best", [1.0] * 1000, ids=flickr8k_ids(1000), images=[tmp_path / "0.png", *[None] * 999])
    source, page = written(Evaluation(evaluated=[one]), tmp_path)
    links = {attributes["href"] for tag, attributes in page.tags if tag == "a"}
    sources = {row.source for row in FLICKR8K_TEST.published}
    assert {link for link in links if link and not link.startswith("#")} == sources
    for tag, attributes in page.tags:
        assert tag not in ("script", "link", "iframe", "object", "embed", "base", "form", "image", "use"), tag
        assert tag == "a" or "href" not in attributes
        assert not {"srcset", "background", "poster", "data", "action"} & set(attributes)
        assert (attributes.get("src") or "data:").startswith("data:image/jpeg;base64,") or "src" not in attributes
    style = "".join(page.all("style"))
    assert "url(" not in style
    assert "@import" not in style
    policy = next(attributes["content"] for tag, attributes in page.tags if "http-equiv" in attributes)
    assert policy == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    assert source.count("prefers-color-scheme: dark") == 1


def test_the_same_evaluation_and_date_make_the_same_bytes(tmp_path: Path) -> None:
    evaluation = make_evaluation(evaluated=[make_captioner("best", [float(n % 7) for n in range(100)])], differences=[])
    first, _ = written(evaluation, tmp_path)
    assert written(evaluation, tmp_path)[0] == first
    assert written(evaluation, tmp_path, seed=1)[0] != first
    write_report(evaluation, tmp_path / "today.html")
    assert datetime.date.today().isoformat() in (tmp_path / "today.html").read_text(encoding="utf-8")


def flickr8k_ids(count: int) -> list[str]:
    names = [*FLICKR8K_TEST.sample, *(f"{number}_0123456789" for number in range(count))]
    return [f"{name}.jpg" for name in sorted(names[:count])]


def test_published_figures_stand_beside_those_of_a_known_split(tmp_path: Path) -> None:
    one = make_captioner("best", [1.0] * 1000, ids=flickr8k_ids(1000))
    _, page = written(Evaluation(evaluated=[one]), tmp_path)
    assert ["Published on Flickr8k, test"] in page.rows
    assert page.rows[0] == ["Captioner", "CIDEr", "BLEU-4", "METEOR", "BLEU-1", "BLEU-2", "BLEU-3"]
    assert page.row("Show, Attend and Tell, hard") == ["–", "21.30", "20.30", "67.00", "45.70", "31.40"]  # noqa: RUF001
    assert "these figures are of" not in page.text
    assert not [text for text in page.all("p") if "No published figures are known" in text]
    _, page = written(make_evaluation(), tmp_path)
    assert [text for text in page.all("p") if "No published figures are known for this split" in text]


def test_a_known_split_with_images_missing_is_warned_about(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    card = {"problem": "gone", "fingerprint": {"source_format": "flickr8k"}}
    monkeypatch.setattr("clipcap.caption.evaluate.report.start._card", lambda cache: card)
    one = make_captioner("best", [1.0] * 990, ids=flickr8k_ids(990))
    _, page = written(Evaluation(evaluated=[one], split="test"), tmp_path)
    assert [text for text in page.all("p") if "Flickr8k, test has 1,000 images, and these figures are of 990" in text]


def test_ids_without_a_partner_are_counted_and_named(tmp_path: Path) -> None:
    ids = [f"lost{number}" for number in range(2000)]
    one = make_captioner("best", [1.0], unmatched={"references_without_predictions": ids})
    _, page = written(Evaluation(evaluated=[one]), tmp_path)
    warning = next(text for text in page.all("p") if "references without predictions" in text)
    assert warning.startswith("best: 2,000 references without predictions (lost0, lost1, lost2, lost3, lost4, …)")


def test_the_sheet_shows_the_best_the_worst_and_random_images(tmp_path: Path) -> None:
    values = [float(number) for number in range(100)]
    one, other = make_captioner("best", values), make_captioner("other", values[::-1])
    _, page = written(Evaluation(evaluated=[one, other]), tmp_path)
    names = [text for tag, text in page.texts if tag == "p" and re.fullmatch(r"\d+\.jpg", text)]
    assert names[:IMAGES] == [f"{number}.jpg" for number in range(99, 99 - IMAGES, -1)]
    assert names[IMAGES : 2 * IMAGES] == [f"{number}.jpg" for number in range(IMAGES)]
    assert len(set(names)) == len(names) == 3 * IMAGES
    assert "caption 99 of best best, CIDEr 9900.00" in page.text
    assert "caption 99 of other other, CIDEr 0.00" in page.text
    assert "reference 99 another 99" in page.text


def test_small_sets_and_sets_without_figures_have_sheets_too() -> None:
    assert choose([0.5], 1, 0) == ([0], [], [])
    assert choose([0.5, 0.7], 2, 0) == ([1], [0], [])
    assert choose([0.0, 0.0, 0.0], 3, 0) == ([0], [2], [1])
    assert choose([], 3, 0) == ([], [], [0, 1, 2])
    assert choose([1.0] * 50, 50, 0)[2] == choose([1.0] * 50, 50, 0)[2]


def test_a_thumbnail_is_upright_and_small(tmp_path: Path) -> None:
    image = Image.new("RGB", (800, 400), "white")
    image.paste("red", (0, 0, 400, 400))  # the left half
    exif = Image.Exif()
    exif[0x0112] = 6  # shown after a quarter turn clockwise: the left half is then above
    image.save(tmp_path / "turned.jpg", exif=exif)
    made = thumbnail(tmp_path / "turned.jpg")
    assert made is not None
    assert (made.width, made.height) == (LONG_SIDE // 2, LONG_SIDE)
    decoded = Image.open(io.BytesIO(base64.b64decode(made.uri.removeprefix("data:image/jpeg;base64,"))))
    assert decoded.size == (made.width, made.height)
    assert not decoded.getexif()
    above, below = decoded.getpixel((80, 40)), decoded.getpixel((80, 280))
    assert isinstance(above, tuple)
    assert isinstance(below, tuple)
    assert above[1] < 60
    assert below[1] > 200


def test_images_that_are_missing_or_damaged_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "damaged.jpg").write_bytes(b"\xff\xd8\xff\xe0 no image")
    Image.new("LA", (20, 10)).save(tmp_path / "small.png")
    images: list[Path | None] = [tmp_path / "damaged.jpg", tmp_path / "none.jpg", tmp_path / "small.png"]
    _, page = written(Evaluation(evaluated=[make_captioner("best", [1.0, 0.9, 0.8], images=images)]), tmp_path)
    shown = [attributes for tag, attributes in page.tags if tag == "img"]
    assert [(each["width"], each["height"], each["alt"]) for each in shown] == [("20", "10", "reference 2")]
    assert page.all("span").count("image not found") == 2


def test_a_report_of_many_images_stays_small(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (480, 640, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "noise.jpg")  # nothing compresses worse
    count = 5000
    one = make_captioner("best", [number / count for number in range(count)], images=[tmp_path / "noise.jpg"] * count)
    long = replace(one, captions=["long " * 10_000] * count, references=[["word " * 10_000] * 50] * count)
    write_report(Evaluation(evaluated=[long]), tmp_path / "report.html", date=DAY)
    size = (tmp_path / "report.html").stat().st_size
    assert size < 3_000_000
    page = Page((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert len([tag for tag, _ in page.tags if tag == "img"]) == 3 * IMAGES
    assert page.text.count("and 45 more") == 3 * IMAGES


def test_curves_of_a_run_are_drawn_from_the_whole_lines_of_its_metrics(tmp_path: Path) -> None:
    checkpoint = tmp_path / "run/best"
    checkpoint.mkdir(parents=True)
    lines: list[dict[str, Any]] = [
        {"step": step, "train_loss": 3 - step / 1000, "lr": 1e-3} for step in range(50, 1001, 50)
    ]
    lines += [{"step": 500, "val_loss": 2.0, "image_gap": 0.5, "samples": [{"path": "x"}]}]
    lines += [{"step": 1000, "val_loss": 1.75, "image_gap": 1.25}]
    lines += [{"step": 1050, "train_loss": float("nan")}]
    text = "\n".join(map(json.dumps, lines)) + '\n[1]\n{"step": 1100, "train_l'
    reporter = Reporter(RunFolder(tmp_path / "run"), writes=True)
    for epoch, score in ((1, 0.25), (2, 0.75)):
        reporter.score("cider", score, step=500 * epoch, epoch=epoch, best=True)
    with (tmp_path / "run/metrics.jsonl").open("a") as file:
        file.write(text)
    _, page = written(make_evaluation(evaluated=[make_captioner("best", [1.0], checkpoint=checkpoint)]), tmp_path)
    labels = [attributes["aria-label"] for tag, attributes in page.tags if attributes.get("role") == "img"]
    assert "Loss, nats per token: training ends at 2; validation ends at 1.75." in labels
    assert "cider of validation captions: cider ends at 0.75." in labels
    assert "Image gap: 1.250 nats per token" in page.text
    assert not [label for label in labels if label and "samples" in label]


def test_curves_have_bounded_length_and_keep_their_end() -> None:
    points = [(float(step), float(step % 10)) for step in range(100_000)]
    thinned = thin(points)
    assert len(thinned) <= 200
    assert thinned[-1] == points[-1]
    assert [x for x, _ in thinned] == sorted(x for x, _ in thinned)
    assert sum(y for _, y in thinned[:-1]) / (len(thinned) - 1) == pytest.approx(4.5, abs=0.1)
    assert thin(points[:3]) == points[:3]
    assert len(line_chart("long", [Curve(name="x", points=points)])) < 10_000


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (-3.2, 7.9), (1e-9, 2e-9), (150_000.0, 900_000.0), (5.0, 5.0)])
def test_ticks_are_few_and_inside(low: float, high: float) -> None:
    found = ticks(low, high)
    assert len(found) <= 6
    assert all(low - 1e-9 <= tick <= high + 1e-9 for tick in found)
    assert len(found) >= 2 or low == high


def test_a_report_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ClipCapError, match="nowhere"):
        write_report(make_evaluation(), tmp_path / "nowhere/report.html")
    (tmp_path / "report.html").write_text("the older one")
    one = make_captioner("best", [1.0])
    with pytest.raises(IndexError):
        write_report(Evaluation(evaluated=[replace(one, captions=[])]), tmp_path / "report.html")
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]
    assert (tmp_path / "report.html").read_text() == "the older one"


def test_recipe_and_cache_are_those_of_the_files(tmp_path: Path) -> None:
    archive = Path(__file__).parents[2] / "archives/format-1"
    one = make_captioner("best", [1.0], checkpoint=archive / "checkpoint")
    evaluation = Evaluation(evaluated=[one], cache=archive / "cache.h5", split="val")
    _, page = written(evaluation, tmp_path, decoding={"beams": 5, "top_p": 0.5})
    config = json.loads((archive / "checkpoint/config.json").read_text())
    assert f"batch size {config['training']['batch_size']} " in page.text
    assert f"step {config['progress']['step']} " in page.text
    assert f"weights sha256 {config['encoder']['weights_sha256']} " in page.text
    assert f"kind {config['mapper']['kind']} " in page.text
    assert "shards 2 " in page.text
    assert "Decoding beams 5 top p 0.5 " in page.text
    assert "Decoding With the default options." in written(evaluation, tmp_path, decoding={})[1].text
    assert "Decoding" not in written(evaluation, tmp_path)[1].text


@pytest.mark.slow
@pytest.mark.parametrize("width", [360, 1280])
def test_no_page_is_wider_than_its_window(tmp_path: Path, width: int) -> None:
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if browser is None:
        pytest.skip("there is no Chromium")
    name = "experiments/" + "a-very-long-name-without-a-place-to-break" * 3 + "/best"
    checkpoint = tmp_path / "run/best"
    checkpoint.mkdir(parents=True)
    (tmp_path / "run/metrics.jsonl").write_text('{"step": 1, "train_loss": 2.0}\n{"step": 2, "val_loss": 1.0}')
    captions = ["w" * 300] * 1000
    one = make_captioner(name, [1.0] * 1000, ids=flickr8k_ids(1000), captions=captions, checkpoint=checkpoint)
    scores = {**one.scores, **{f"Metric{number}": one.scores["CIDEr"] for number in range(10)}}
    page, _ = written(Evaluation(evaluated=[replace(one, scores=scores)], baselines=[one]), tmp_path)
    # No window is as narrow as a phone, but a frame is.
    frame = f"<iframe id=frame width={width} height=900 style='border: 0' srcdoc='{html.escape(page)}'></iframe>"
    measure = (
        "onload = () => { const page = frame.contentDocument.documentElement;"
        "document.title = [frame.contentWindow.innerWidth, page.scrollWidth, page.querySelectorAll('.box').length,"
        "Array.from(page.querySelectorAll('.box')).filter(box => box.scrollWidth > box.clientWidth).length].join(' ') }"
    )
    (tmp_path / "frame.html").write_text(f"<title></title>{frame}<script>{measure}</script>", encoding="utf-8")
    command = [browser, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    command += ["--window-size=1400,900", "--dump-dom", (tmp_path / "frame.html").as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    found = re.search(r"<title>(\d+) (\d+) (\d+) (\d+)</title>", done.stdout)
    if found is None:
        pytest.skip(f"Chromium does not start here: {done.stderr[-300:]}")
    window, content, boxes, scrolled = map(int, found.groups())
    assert (window, boxes) == (width, 2)
    assert content <= window  # less, where a scroll bar takes room
    assert scrolled >= 1  # the wide table scrolls in its box
