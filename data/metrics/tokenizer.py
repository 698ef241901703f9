"""Tokenises captions as the COCO caption toolkit does: Penn Treebank tokens in lower case, without punctuation.

The toolkit calls the PTBTokenizer of Stanford CoreNLP 3.4.1 with `-preserveLines -lowerCase`, and drops the tokens in
`PUNCTUATION`. The rules below reproduce the outputs of that program, from which they were derived. Brackets become
`-lrb-` and the like; the toolkit compares with the names in capitals, so that they stay. Figures on this tokenisation
can be compared with published ones.
"""

import re
from collections.abc import Iterable

PUNCTUATION = frozenset(
    ("''", "'", "``", "`", "-LRB-", "-RRB-", "-LCB-", "-RCB-", ".", "?", "!", ",", ":", "-", "--", "...", ";")
)

BRACKETS = {"(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-"}
SYMBOLS = {
    "\u201c": "``",  # quotation marks
    "\u201d": "''",
    "\u2018": "`",
    "\u2019": "'",
    "\u2013": "--",  # dashes
    "\u2014": "--",
    "\u2026": "...",
    "\u00a3": "#",  # pound and euro
    "\u20ac": "$",
    "\u00a2": "cents",
    "&amp;": "&",
    "\u00bd": "1/2",
}
# Abbreviations that keep their period in any case: months, days, states, streets, titles, companies.
ABBREVIATIONS = (
    "jan|feb|mar|apr|jun|jul|aug|sep|sept|oct|nov|dec|mon|tue|wed|thu|fri|ala|ariz|calif|colo|conn|ct|dak|fla|ga|ky|md"
    "|mich|minn|mont|neb|nev|okla|penn|tenn|va|vt|wis|wyo|st|ave|blvd|rd|ft|mt|vs|etc|mr|mrs|ms|dr|prof|jr|sr|gen|col"
    "|sen|rep|gov|lt|capt|sgt|rev|hon|inc|co|corp|ltd|bros|dept|est|tel|ext"
)
CAPITAL_ABBREVIATIONS = "Wash|Ill|Miss|Mass|Pa|Ore|Cal|Ind|La|Del"  # words of their own in lower case

_WORD = r"[^\W\d_]"
# Words that begin a sentence, so that the period before them is not part of an initial.
STARTS = (
    "A|An|The|In|It|He|She|They|We|You|This|That|There|These|One|Some|At|As|But|If|So|Her|Our|When|What|Many|After"
    "|While|Since|Once|Here|Now|Then|Other|Such|However"
)
_A = "['\u2019]"  # the two apostrophes
_TOKEN = re.compile(
    rf"""
    [:;=]['-]?[()DPp3](?!\w)                                        # smileys
  | can(?=not\b)|gon(?=na\b)|got(?=ta\b)|wan(?=na\b)|lem(?=me\b)|gim(?=me\b)
  | \n
  | https?://[^\s<>"()]+|[\w.]+@\w+(?:\.\w+)+|[@\#][a-z_]\w*       # addresses, names, tags
  | <[a-z]+>|&amp;
  | [.,:]\d+(?![\w.,:])|\u00bd
  | y(?={_A}all\b)|{_A}t(?=(?:is|was)\b)
  | (?<!\w)(?-i:[A-Z])(?=\.\s+(?-i:{STARTS})\s)                       # the letter ends a sentence
  | {_WORD}(?:\.{_WORD})+\.(?!\w)|{_WORD}(?:\.{_WORD})+(?![\w.])|(?<!\w){_WORD}\.(?![\w.])   # u.s., d.v.d, k.
  | (?:{ABBREVIATIONS}|(?-i:{CAPITAL_ABBREVIATIONS}))\.(?!\w)
  | {_A}n{_A}?(?!\w)|{_A}em(?!\w)                                  # 'n', 'em
  | {_A}(?:s|m|d|ll|re|ve)(?!\w)|n{_A}t(?!\w)
  | (?-i:US|[A-Z])\$
  | \d+[ \u00a0]\d+/\d+                                             # 22 3/4, one token with a no-break space
  | \d+(?:[.,:]\d+)+|\d\w*(?:[-/]\w+)*
  | (?-i:[A-Z]+&[A-Z]+)(?!\w)
  | \w+?(?=n{_A}t(?!\w))
  | \w+(?:[-.]\w+|/[a-z0-9]+|{_A}(?!(?:s|m|d|ll|re|ve)(?!\w))\w+)*(?:\.(?=[,;:]))?
  | \.{{3,}}|-{{2,}}|[!?]{{2,}}
  | [^\s\u200b\uf0a7\ufe0f\U00010000-\U0010ffff]
    """,
    re.VERBOSE | re.IGNORECASE,
)


def tokenize(caption: str) -> str:
    """Tokenise one caption: its tokens in lower case, separated by spaces."""
    return tokenize_all([caption])[0]


def tokenize_all(captions: Iterable[str]) -> list[str]:
    """Tokenise captions as one file with a caption a line, which is how the toolkit does it.

    The next line matters in one case: a letter and period at the end of a caption are one token, as in "Ave S.", unless
    the next caption begins with a word that often begins a sentence.
    """
    text = "\n".join(" ".join(caption.splitlines()) for caption in captions)
    lines: list[list[str]] = [[]]
    opened = False
    for match in _TOKEN.finditer(text):
        token = match.group().lower()
        if token == "\n":
            lines.append([])
            opened = False
            continue
        token = SYMBOLS.get(token, token)
        if token == '"':
            token = "''" if opened else "``"
            opened = not opened
        for bracket, name in BRACKETS.items():
            token = token.replace(bracket, name)
        if token not in PUNCTUATION:
            lines[-1].append(token.replace(" ", "\u00a0"))
    return [" ".join(tokens) for tokens in lines]
