"""The process in which the COCO caption toolkit runs: its tokenizer, its scorers and its Java, as they are.

`toolkit.py` starts this file, with the arguments REQUEST and RESULT: JSON files. It imports nothing of this program. It
and its Java are one process group, which ends when its standard input does, so that it never outlives its parent.
"""

import json
import os
import signal
import sys
import threading
import traceback
from pathlib import Path
from typing import Any

Texts = dict[int, list[str]]
# Of one figure: the toolkit's own `corpus` and `images`; `counts` where they are what adds up over images.
Figures = dict[str, dict[str, Any]]


def tokenize(texts: list[list[str]]) -> Texts:
    """Tokenise the captions of each image with the toolkit's tokenizer."""
    from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

    found: Texts = PTBTokenizer().tokenize(
        {image: [{"caption": text} for text in some] for image, some in enumerate(texts)}
    )
    if [len(found.get(image, ())) for image in range(len(texts))] != [len(some) for some in texts]:
        raise RuntimeError("the tokenizer did not return a line for each caption")
    return found


def bleu(references: Texts, captions: Texts) -> Figures:
    """Score with the toolkit's BLEU. Its class `Bleu` makes the same calls, but does not give the counts."""
    from pycocoevalcap.bleu.bleu_scorer import BleuScorer

    scorer = BleuScorer(n=4)
    for image, texts in references.items():
        scorer += (captions[image][0], texts)
    corpus, images = scorer.compute_score(option="closest", verbose=0)
    counts = []
    for one in scorer.ctest:
        length = one["testlen"]
        closest = min((abs(other - length), other) for other in one["reflen"])[1]
        counts.append([*one["correct"], *one["guess"], length, closest])
    return {f"Bleu_{n + 1}": {"corpus": corpus[n], "images": images[n], "counts": counts} for n in range(4)}


def meteor(references: Texts, captions: Texts) -> Figures:
    """Score with the toolkit's METEOR, and keep the counts that its Java gives for each image."""
    from pycocoevalcap.meteor.meteor import Meteor

    class CountingMeteor(Meteor):  # type: ignore[misc]  # the toolkit has no types
        def __init__(self) -> None:
            super().__init__()
            self.counts: list[list[float]] = []

        def _stat(self, hypothesis_str: str, reference_list: list[str]) -> str:
            line: str = super()._stat(hypothesis_str, reference_list)
            self.counts.append([float(count) for count in line.split()])
            return line

    scorer = CountingMeteor()
    try:
        corpus, images = scorer.compute_score(references, captions)
    except (OSError, ValueError) as error:  # its Java ended
        scorer.lock.release()  # which it holds for ever otherwise
        scorer.meteor_p.kill()
        said = scorer.meteor_p.stderr.read().decode(errors="replace")
        raise RuntimeError(f"the Java of METEOR ended: {' '.join(said.split())[-500:]}") from error
    return {"METEOR": {"corpus": corpus, "images": images, "counts": scorer.counts}}


def rouge(references: Texts, captions: Texts) -> Figures:
    """Score with the toolkit's ROUGE-L."""
    from pycocoevalcap.rouge.rouge import Rouge

    corpus, images = Rouge().compute_score(references, captions)
    return {"ROUGE_L": {"corpus": float(corpus), "images": images.tolist()}}


def cider(references: Texts, captions: Texts) -> Figures:
    """Score with the toolkit's CIDEr, which is CIDEr-D."""
    from pycocoevalcap.cider.cider import Cider

    corpus, images = Cider().compute_score(references, captions)
    return {"CIDEr": {"corpus": float(corpus), "images": images.tolist()}}


def spice(references: Texts, captions: Texts) -> Figures:
    """Score with the toolkit's SPICE."""
    from pycocoevalcap.spice.spice import Spice

    corpus, images = Spice().compute_score(references, captions)
    return {"SPICE": {"corpus": float(corpus), "images": [one["All"]["f"] for one in images]}}


SCORERS = {"bleu": bleu, "rouge": rouge, "cider": cider, "meteor": meteor, "spice": spice}


def stop_with_parent() -> None:
    """Wait for the end of standard input, which the parent holds open, and end the process group."""
    while os.read(0, 1):
        pass
    stop()


def stop() -> None:
    """End this process and its Java."""
    if os.name == "posix":
        os.killpg(0, signal.SIGKILL)
    os._exit(1)


def main(request_file: str, result_file: str) -> None:
    """Tokenise and score what the request holds, and write the figures."""
    threading.Thread(target=stop_with_parent, daemon=True).start()
    try:
        request = json.loads(Path(request_file).read_text(encoding="utf-8"))
        own_path = os.environ.get("PATH", os.defpath)
        path = os.environ["PATH"] = request["java"] + os.pathsep + own_path
        # All references are tokenised together, then all captions, as the toolkit does it.
        references, captions = tokenize(request["references"]), tokenize([[text] for text in request["captions"]])
        figures: Figures = {}
        for name in request["names"]:
            os.environ["PATH"] = own_path if name == "spice" else path  # SPICE needs an older Java
            figures.update(SCORERS[name](references, captions))
        Path(result_file).write_text(json.dumps(figures), encoding="utf-8")
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        stop()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
