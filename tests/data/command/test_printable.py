"""What a stranger wrote is shown by a terminal, and never obeyed: in messages, errors, results and descriptions."""

import io
import json
import logging
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clipcap.caption.evaluate.base import Evaluated, Evaluation
from clipcap.caption.evaluate.outputs import FORMATS as FORMATS_OF_FIGURES
from clipcap.caption.inspect.doctor.finding import Finding
from clipcap.caption.inspect.doctor.show import as_text
from clipcap.caption.outputs import FORMATS, Layout
from clipcap.data.cache.index import Cache
from clipcap.data.cache.shard import read_shard, write_shard
from clipcap.data.command.app import Debug, command, new_app, run_command
from clipcap.data.command.messages import console, log_to_file, show_messages
from clipcap.data.command.printable import printable, printable_json
from clipcap.data.command.progress import Progress
from clipcap.data.errors import SourceError, UnknownSourceError
from clipcap.data.metrics import mean_score
from small_world import Run, make_coco

SHOWN = [
    ("\x1b[2J\x1b[31mred", r"\x1b[2J\x1b[31mred"),  # clears the screen
    ("\x1b]8;;http://evil\x1b\\link\x1b]8;;\x07", r"\x1b]8;;http://evil\x1b\link\x1b]8;;\x07"),
    ("\x1b]52;c;cm0gLXJm\x07", r"\x1b]52;c;cm0gLXJm\x07"),  # writes to the clipboard
    ("\x9b31m \x9d0;title\x9c \x85", r"\x9b31m \x9d0;title\x9c \x85"),  # the same sequences as one character of C1
    ("a\0b\tc\rd\ne\x0bf\x0cg\x08h\x7f", r"a\x00b\tc\rd\ne\x0bf\x0cg\x08h\x7f"),
    ("photo\u202egpj.exe", r"photo\u202egpj.exe"),
    ("\u202a\u202b\u202c\u202d\u202e", r"\u202a\u202b\u202c\u202d\u202e"),
    ("\u2066\u2067\u2068\u2069", r"\u2066\u2067\u2068\u2069"),
    ("\u061c\u200e\u200f", r"\u061c\u200e\u200f"),
    ("a\u2028b\u2029c", r"a\u2028b\u2029c"),
    ("\udcff.jpg", r"\udcff.jpg"),  # a byte that is not UTF-8
]
KEPT = [
    "a dog \xa0“quoted” 狗 שלום",
    "[bold]x[/bold] [link=http://x]y[/link] :dog: \\n {x} %s",
    "\U0001f469\u200d\U0001f680 \U0001f3f4\U000e0067\U000e0062\U000e007f क\u200dष \u200b\ufeff\xad",
]
EVIL = "[bold]a\x1b[2J\nb\u202e\u2028\x9b:dog:"
ON_A_TERMINAL = r"[bold]a\x1b[2J\nb\u202e\u2028\x9b:dog:"
IN_A_PIPE = "[bold]a\x1b[2J\\nb\u202e\\u2028\x9b:dog:"


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("text", "shown"), SHOWN)
def test_what_a_terminal_would_obey_is_shown_as_python_writes_it(text: str, shown: str) -> None:
    assert printable(text) == printable(text, Terminal()) == shown
    assert printable(shown) == shown


@pytest.mark.parametrize("text", KEPT)
def test_letters_emoji_and_characters_without_width_stay(text: str) -> None:
    assert printable(text) == text


def test_nothing_that_is_printed_is_more_than_one_line_or_moves_the_cursor() -> None:
    everything = "".join(map(chr, range(0x110000)))
    assert len(printable(everything, io.StringIO()).splitlines()) == 1
    # All controls of ASCII and of C1, and surrogates; Cf holds joiners, tags and bidirectional controls.
    assert not set(printable(everything)) & {*map(chr, [*range(32), *range(127, 160), *range(0xD800, 0xE000)])}


def test_a_pipe_has_texts_as_they_are_but_for_line_breaks() -> None:
    assert printable(EVIL, io.StringIO()) == IN_A_PIPE
    for text, _ in SHOWN[:3]:
        assert printable(text, io.StringIO()) == text


def test_json_holds_the_same_texts_and_no_control() -> None:
    texts = [text for text, _ in SHOWN] + KEPT
    for indent in (None, 1):
        written = printable_json(json.dumps(texts, ensure_ascii=False, indent=indent))
        assert json.loads(written) == texts
        assert [printable(line) for line in written.split("\n")] == written.split("\n")
    assert printable_json(json.dumps("\x1b\x9b\u202e狗", ensure_ascii=False)) == '"\\u001b\\u009b\\u202e狗"'


def test_a_message_is_one_line_in_a_pipe_and_in_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with show_messages(), log_to_file(tmp_path / "log.txt"):
        logging.getLogger("clipcap.x").warning(f"{EVIL} skipped: {EVIL}")
    expected = f"{ON_A_TERMINAL} skipped: {ON_A_TERMINAL}\n"
    assert capsys.readouterr().err == f"warning: {expected}"
    assert (tmp_path / "log.txt").read_text()[len("2026-11-29 12:00:00 ") :] == expected


def become_terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """Let stderr be a terminal without colours, and return it."""
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setenv("TERM", "dumb")
    console.cache_clear()
    return stream


def test_a_message_on_a_terminal_has_no_markup_and_no_emoji_codes(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = become_terminal(monkeypatch)
    with show_messages():
        logging.getLogger("clipcap.x").warning(EVIL)
    assert stream.getvalue() == f"warning: {ON_A_TERMINAL}\n"


def test_the_remark_of_a_bar_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    become_terminal(monkeypatch)
    with show_messages(), Progress("encoding", "images", 2) as progress:
        progress.advance(remark=EVIL)
        assert progress.text().endswith(f", {ON_A_TERMINAL}")


def leave(error: Exception, capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Return what a command writes to stderr that ends with an error."""
    app = new_app()

    @command(app, examples="")
    def program(number: int = 0, debug: Debug = False) -> None:
        raise error

    with pytest.raises(SystemExit):
        run_command(app, "clipcap-test", list(arguments))
    return capsys.readouterr().err


def test_an_error_is_one_line_whatever_a_name_holds(capsys: pytest.CaptureFixture[str]) -> None:
    assert leave(SourceError(f"{EVIL}\r is gone"), capsys) == f"clipcap-test: {ON_A_TERMINAL}\\r is gone\n"
    three = "clipcap-test: a [bold]a\\x1b[2J\nb\nc\\x00\n"
    assert leave(UnknownSourceError("a [bold]a\x1b[2J\nb\nc\0"), capsys) == three
    full = OSError(28, "No space left on device", "a\x1b[2J")
    assert r"clipcap-test: the disk is full (a\x1b[2J): free" in leave(full, capsys)
    assert leave(ValueError("a\x1b[2J\nb"), capsys).startswith(
        "clipcap-test: unexpected ValueError: a\\x1b[2J b (--debug"
    )
    assert r"--a\x1b[2J" in leave(full, capsys, "--a\x1b[2J")


def test_a_traceback_has_no_control(capsys: pytest.CaptureFixture[str]) -> None:
    err = leave(SourceError("a\x1b[2J"), capsys, "--debug")
    assert "\x1b" not in err
    assert err.endswith("SourceError: a\\x1b[2J\nclipcap-test: a\\x1b[2J\n")


def captions(form: str, stream: io.StringIO) -> str:
    """Return what a format writes for one caption of an input."""
    writer = FORMATS[form](stream, Layout())
    writer.write(EVIL, [f"caption {EVIL}"], "m")
    writer.close()
    return stream.getvalue()


def test_captions_in_a_pipe_are_a_line_each_and_tables_keep_their_texts() -> None:
    assert captions("text", io.StringIO()) == f"{IN_A_PIPE}: caption {IN_A_PIPE}\n"
    assert captions("csv", io.StringIO()) == f'input,caption,error\n"{EVIL}","caption {EVIL}",\n'
    for form in ("json", "jsonl"):
        written = captions(form, io.StringIO())
        assert all(printable(line) == line for line in written.split("\n"))
        found = json.loads(written)
        assert (found[0] if form == "json" else found) == {"input": EVIL, "caption": f"caption {EVIL}"}


def test_captions_on_a_terminal_have_no_control(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("TERM", "dumb")
    assert captions("text", Terminal()) == f"{ON_A_TERMINAL}: caption {ON_A_TERMINAL}\n"
    assert captions("csv", Terminal()) == f"input,caption,error\n{ON_A_TERMINAL},caption {ON_A_TERMINAL},\n"
    rows = [line.split() for line in captions("table", io.StringIO()).splitlines()]
    assert rows == [["input", "caption"], [ON_A_TERMINAL, "caption", ON_A_TERMINAL]]
    for form in FORMATS:
        assert all(printable(line) == line for line in captions(form, Terminal()).split("\n")), form


def test_a_file_of_captions_whose_input_has_a_line_break_is_recognised() -> None:
    for form in FORMATS:
        lines = io.StringIO(captions(form, io.StringIO()), newline="")
        assert FORMATS[form].recognises(iter(lines), lambda: [EVIL]), form


def test_an_evaluation_on_a_terminal_has_no_control(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    score = mean_score(np.array([0.5, 0.25]))
    one = Evaluated(
        name=EVIL, ids=[EVIL, "b"], captions=[EVIL, EVIL], references=[[], []], images=[None, None],
        scores={"CIDEr": score}, intervals={"CIDEr": (0.0, 1.0)}, text={}, unmatched={}, checkpoint=None,
    )  # fmt: skip
    evaluation = Evaluation(evaluated=[one], baselines=[], differences=[], cache=None, split=EVIL)
    for form, write in FORMATS_OF_FIGURES.items():
        stream = Terminal()
        write(evaluation, stream)
        assert all(printable(line) == line for line in stream.getvalue().split("\n")), form
        assert (ON_A_TERMINAL in stream.getvalue()) == (form != "json")


def test_the_doctor_shows_examples_on_one_line_each() -> None:
    finding = Finding(check="x", count=1, total=1, message=EVIL, cause=EVIL, fix=EVIL, examples=(EVIL,))
    text = as_text([finding], {"name": EVIL, "table": {EVIL: EVIL}})
    assert all(printable(line) == line for line in text.split("\n"))
    assert f"  - {ON_A_TERMINAL}" in text.split("\n")
    assert f"  {ON_A_TERMINAL}: {ON_A_TERMINAL}" in text.split("\n")


def test_inspect_lists_failures_on_one_line_each(tmp_path: Path, run: Run, small_cache: Path) -> None:
    cache = Cache.open(small_cache)
    tables = replace(read_shard(cache.shards[0].path), failure_path=[EVIL], failure_reason=[EVIL])
    write_shard(tmp_path / "one.h5", tables, cache.fingerprint.to_json(), 0)
    assert run("inspect", tmp_path / "one.h5").out.endswith(f"\nfailures: 1\n  {ON_A_TERMINAL}: {ON_A_TERMINAL}\n")
    written = run("inspect", tmp_path / "one.h5", "--json").out
    assert all(printable(line) == line for line in written.split("\n"))
    assert json.loads(written)["failures"] == [{"path": EVIL, "reason": EVIL}]


def test_a_dry_run_shows_names_and_captions_on_one_line_each(tmp_path: Path, run: Run) -> None:
    folder = make_coco(tmp_path / "coco")
    file = folder / "annotations/captions_train2017.json"
    content: Any = json.loads(file.read_text())
    content["images"][0]["file_name"] = name = "a\x1b[2J\u202e[bold].jpg"
    (folder / "train2017/000000000101.jpg").rename(folder / "train2017" / name)
    content["annotations"][0]["caption"] = f"caption {EVIL}"
    file.write_text(json.dumps(content))
    result = run("precompute", folder, "--dry-run")
    assert r"train2017/a\x1b[2J\u202e[bold].jpg [train]" in result.out
    assert all(printable(line) == line for line in result.out.split("\n"))
