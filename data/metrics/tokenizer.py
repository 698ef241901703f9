"""Tokenises captions as the COCO caption toolkit does: Penn Treebank tokens in lower case, without punctuation.

The toolkit calls the PTBTokenizer of Stanford CoreNLP 3.4.1 with `-preserveLines -lowerCase`, and drops punctuation
from its tokens. The rules below were derived from outputs of that program alone; `tests/bench/tokenizer.py` compares
the two.

The text is cut into chunks, mostly at spaces. At each place in a chunk, the rule with the longest match makes the next
token. The tokens of a chunk are cached:

    A man's 22 3/4" TV isn't on.                      text
    A | man's | 22 3/4" | TV | isn't | on.            chunks; a number may go on after a space
    a | man 's | 22\xa03/4 | tv | is n't | on         tokens
"""

import re
from collections.abc import Iterable
from functools import lru_cache

# Entities of HTML that are read as characters.
ENTITIES = {"&apos;": "\u2019", "&quot;": '"', "&nbsp;": " ", "&NBSP;": " ", "&mdash;": "--", "&ndash;": "--"}
# Tokens that the toolkit writes otherwise. It drops names of brackets in capitals only, so that these stay.
BRACKETS = {"(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-"}
QUOTATION_MARKS = {  # two marks side by side are one token, and only some pairs of them are dropped
    **dict.fromkeys("\u2018\u201b\u2039", "`"),
    **dict.fromkeys("\u2019\u203a", "'"),
    **dict.fromkeys("\u201c\u00ab", "``"),
    **dict.fromkeys("\u201d\u00bb", "''"),
    "`": "`",
    "\u201a": "\u201a",
    "\u201e": "\u201e",
}
SYMBOLS = {
    **BRACKETS,
    **dict.fromkeys("\x80\u20ac\u20a0\u00a4", "$"),  # euro signs, the first as Windows encodes it
    "\u00a3": "#",
    "\u00a2": "cents",
    "\u00bc": "1/4",
    "\u00bd": "1/2",
    "\u00be": "3/4",
    "\u2153": "1/3",
    "\u2154": "2/3",
    "&amp;": "&",
    "&lt;": "<",
    "&gt;": ">",
}

# These lists were found by giving the program each word of GPT-2's vocabulary, each of one to three letters, and those
# of lists of English abbreviations and contractions.
# Abbreviations that keep their period, in any case: those that may end a sentence, and titles and others that do not.
ENDS = (
    "al|ala|apr|ariz|assn|aug|bhd|bldg|blvd|bros|calif|co|colo|conn|corp|cos|ct|dak|dec|esq|est|etc|ext|feb|fla|fri"
    "|ga|inc|ind|intl|jan|jr|jul|jun|kan|kans|ky|ltd|mar|md|mich|minn|mo|mon|mont|neb|nev|nov|oct|okla|penn|plc|rd|rt"
    "|sep|sept|seq|sq|sr|sys|tel|tenn|thu|thurs|tue|tues|univ|va|vt|wed|wis|wisc|wyo"
)
ABBREVIATIONS = (
    "adj|adm|adv|alex|assoc|atty|ave|brig|capt|cf|cie|cmdr|col|comdr|cpl|dept|det|dr|drs|ens|ft|gen|gov|hon|insp|jos"
    "|lt|maj|messrs|mlle|mme|mr|mrs|ms|mt|natl|pfc|ph|pres|prof|pvt|rep|reps|rev|sen|sens|sfc|sgt|spc|st|ste|supt|vs"
    "|wm"
)
CAPITAL_ABBREVIATIONS = "ark|az|del|ill|la|mass|miss|ore|pa|tex|wash"  # other words in lower case
LOWER_ABBREVIATIONS = "mfg|mtg|pte|pty"  # not in capitals
NUMBER_ABBREVIATIONS = "art|ca|fig|nos?|op|pp|prop"  # before a number
# Words that begin a sentence, so that the period after a single letter before them ends the last one.
STARTS = (
    "A|About|According|Additionally|After|An|As|At|But|Earlier|He|Her|Here|However|If|In|It|Last|Many|More|Now|Once|One"
    "|Other|Our|She|Since|So|Some|Such|That|The|Their|Then|There|These|They|This|We|What|When|While|Yet|You"
)
# Words that become two tokens, and words with an apostrophe that no rule makes.
DOUBLE_WORDS = ("can|not", "gim|me", "gon|na", "got|ta", "lem|me", "wan|na")
APOSTROPHE_WORDS = "c'est|c'mon|cap['\u2019]n|e'er|ev'ry|li'l|nat'l|nor'easter|o'er|ol['\u2019]|s'mores"

EXTENSIONS = (  # of names of files
    "bat|bmp|c|cgi|class|cpp|dll|docx?|exe|gif|gz|h|html?|jar|java|jpe?g|mov|mp3|pdf|php|pl|png|ppt|ps|py|sql|tar|txt|wav"
    "|x|xml|zip"
)

# Parts of the rules
_NUMERALS = "\u00b2\u00b3\u00b9\u00bc-\u00be\u2070-\u2079\u2080-\u2089\u2150-\u2189\u2460-\u24ff\u2776-\u2793"
_MARKS = (  # accents and vowel signs, which count as letters
    "\u02c2-\u02c5\u02d2-\u02df\u02e5-\u036f\u0483-\u0487\u0591-\u05bd\u05bf\u05c1\u05c2\u05c4\u05c5\u05c7"
    "\u0615-\u061a\u064b-\u065e\u0670\u06d6-\u06ed\u0711\u0730-\u074c\u0900-\u0903\u093c\u093e-\u094e\u0951-\u0955"
    "\u0962\u0963\u0981-\u0983\u09bc\u09be-\u09c4\u09c7\u09c8\u09cb-\u09cd\u0a3c\u0a3e-\u0a4c\u0abc\u0abe-\u0acc\u0b82"
    "\u0bbe-\u0bcd\u0c3e-\u0c56\u0d3e-\u0d4d\u0e31\u0e34-\u0e3a\u0e47-\u0e4e"
)
_SIGNS = (  # characters that are tokens of their own; all others are dropped
    r"%&*+/<=>@\\^_|~#$()\[\]{}\x80\u00a1-\u00a9\u00ac\u00ae-\u00b9\u00bc-\u00bf\u00d7\u00f7\u0e3f\u2016\u2017\u201a"
    r"\u201e-\u2023\u2030-\u2038\u203b\u203e-\u2044\u2070-\u208e\u20a0\u20a4\u20ac\u2100-\u214f\u2153-\u215e"
    r"\u2190-\u2bff\u3001\u3002\u3012\u30fb\uff01-\uff0f\uff1a-\uff20\uff3b-\uff40\uff5b-\uff65\uffe0-\uffe6"
)
_BASE = rf"[^\W\d_{_NUMERALS}\U00010000-\U0010ffff]"  # a letter without accents that are characters of their own
_LETTER = rf"(?:{_BASE}|[{_MARKS}]|&[aeiouAEIOU](?:acute|grave|uml);)"
_ALNUM = rf"(?:{_LETTER}|\d)"
_WORD = rf"{_ALNUM}+(?:_{_ALNUM}+)*"
_PART = rf"(?:[^\W_{_NUMERALS}\U00010000-\U0010ffff]|(?<=[^\W_])_(?=[^\W_]))+"
_QUOTE = "['\u2018\u2019`]"  # what stands for an apostrophe within a word
_APOSTROPHE = "['\u2019]"
_CLITIC = "(?:'(?i:s|m|d|ll|re|ve)(?![A-Za-z])|\u2019(?i:s|m|d|ll|re|ve))"
_NAME = rf"(?:[A-HJ-XZ]{_QUOTE}{_BASE}{{2,}}|[DLNOdlno]{_QUOTE}{_ALNUM}{{2,}})"  # O'Brien, d'Angelo, l'eau
_ACRONYM = r"[A-Za-z](?:\.[A-Za-z])+\."
# Jean-Luc, d'Angelo-like; 3.5-inch, U.S.-led. Hyphens of Unicode are dropped where they stand alone.
_HYPHENATED = rf"(?:[dloDLO]{_QUOTE}{_PART}|{_PART})(?:[-\u058a\u2010\u2011](?:[dloDLO]{_QUOTE}{_PART}|{_PART}))+"
_ASCII_HYPHENATED = rf"[A-Za-z0-9][A-Za-z0-9.,]*(?:-(?:{_ACRONYM}|[A-Za-z0-9]+))+"
_ENDS = (
    rf"(?:(?i:{ENDS})|(?!(?:{CAPITAL_ABBREVIATIONS})\.)(?i:{CAPITAL_ABBREVIATIONS})"
    rf"|{LOWER_ABBREVIATIONS}|{LOWER_ABBREVIATIONS.title()})\."
)
_SLASHED = r"[A-Za-z0-9]+(?:-[A-Za-z]+)*"
_TAG = r"[A-Za-z][A-Za-z0-9_.:@-]*"
_ATTRIBUTE = rf"\s+{_TAG}(?:\s*=\s*(?:'[^'\n]*'|\"[^\"\n]*\"))?"
_URL = r"[^\s<>|(){}\"]+[^\s<>|(){}\".,!?-]"
_HOST = r"(?:[^\sA-Z0-9!\"$'(),./:;<=>?@\[\\\]^_`{|}-]+\.)+(?i:com|net|org|edu)"  # flickr.com, without www
_DOTTED = rf"{_BASE}{_ALNUM}*(?:\.{_BASE}{_ALNUM}*)+"

# Rules by kind. The token at a place is the longest match of all rules there; of equally long ones, the first rule's.
# Where a rule has a group, the group is the token, and the rest of the match must follow and counts towards the length.
RULES: dict[str, tuple[str, ...]] = {
    "markup": (
        rf"<[!?]?{_TAG}(?:{_ATTRIBUTE})*\s*/?\s*>|<\?{_TAG}(?:{_ATTRIBUTE})*\?>|</{_TAG}\s*>|<!--[^>\n]*>",
        r"<[^\s<>|(){}]+@[^\s<>|(){}]+>",
        r"&(?i:amp|lt|gt);|&(?:QUOT|APOS);|&\#\d+;",
        r"-(?i:lrb|rrb|lsb|rsb|lcb|rcb)-",
    ),
    "addresses": (
        rf"(?i:https?)://[^\s<>|(){{}}\"?!]+\.{_URL}",
        rf"(?i:www)\.(?:[\w-]+\.)+[a-zA-Z]{{2,4}}/{_URL}|{_HOST}(?:/{_URL})?",
        r"(?i:www)\.(?:(?:[\w-]+\.)+[A-Za-z]{2,4}|[^\W_]+(?:[.-][^\W_]+)*)",
        r"[A-Za-z0-9][^\s<>|(){}\"]*@[^\s<>|(){}\".](?:[^\s<|(){}\"]*[^\s<|(){}\".])?",
        rf"[A-Za-z0-9]+(?:\.[A-Za-z0-9]+)*\.(?i:{EXTENSIONS})(?![^\s!,.?])",  # 2.jpg
        rf"@[A-Za-z_][A-Za-z0-9_]*|\#{_LETTER}+",
    ),
    "words": (
        *(rf"((?i:{first}))(?i:{second})(?!\w)" for first, second in (word.split("|") for word in DOUBLE_WORDS)),
        rf"({_ENDS})-?[A-Za-z](?![A-Za-z0-9])",  # Inc.s
        _WORD,
        rf"({_WORD}){_APOSTROPHE}(?i:s|m|d|ll|re|ve)",  # also where the rest is no clitic
        _HYPHENATED,
        _ASCII_HYPHENATED,
        rf"{_SLASHED}(?:\\?/{_SLASHED}){{1,2}}",
        rf"{_BASE}{_ALNUM}*(?:[.!?]{_BASE}{_ALNUM}*)+",  # flickr.com, and "end.The next"
        r"[Cc]\+\+|[CcFf]\#",
    ),
    "apostrophes": (
        rf"([A-Za-z]*[A-MO-Za-mo-z])[Nn]{_QUOTE}[Tt]",  # the "do" of "don't"
        rf"[Nn]{_QUOTE}[Tt]",
        _CLITIC,
        _NAME,
        rf"{_BASE}+[aeiouyAEIOUY]{_QUOTE}[aeiouA-Z][A-Za-z]*",  # ma'am, Xi'an
        rf"(?i:{APOSTROPHE_WORDS})",
        rf"[dljDLJ]{_APOSTROPHE}|([yY]{_APOSTROPHE}){_LETTER}",
        rf"{_APOSTROPHE}(?i:em|till?|cause)|('[Tt])(?i:is|was)",
        rf"{_APOSTROPHE}[Nn]{_APOSTROPHE}|'[Nn](?!{_LETTER}|[.\u2018`\u00b4-])|\u2019[Nn]",
        rf"{_APOSTROPHE}[2-9]0[sS]|{_APOSTROPHE}\d\d(?!\S)",
        "''|``",
        r"(?i:anti|pro)-(?!-[^\W_])",
    ),
    "abbreviations": (
        rf"{_ACRONYM}|[A-Za-z]\.|(?i:ph\.d\.)",
        rf"{_ENDS}|(?i:{ABBREVIATIONS})\.",
        rf"((?i:{NUMBER_ABBREVIATIONS})\.)\s*\d",
        rf"((?:{_HYPHENATED}|{_ASCII_HYPHENATED}|{_WORD}|{_DOTTED})\.)[,;:]",
    ),
    "numbers": (
        r"[-+]?(?:\d+|[.,:]\d+)(?:[.,:\u066b\u066c]\d+)*",
        r"\d{1,4}[- \xa0]\d{1,4}[/\u2044]\d{1,4}|\d{1,4}[/\u2044]\d{1,4}",  # 5 1/2
        r"(?:\(\d{2,3}\)[ \xa0]?|\+?(?:\d{2,4}[- \xa0]){1,2})\d{3,4}[- \xa0]\d{3,5}",  # (555) 555-0100, 555 555 0100
        r"[A-Z]+\$",  # US$
    ),
    "signs": (
        r"[A-Z]+(?:[&+][A-Z]+)+",  # AT&T
        r"[<>]?[:;=]['o*-]?[()DdPpO|@\[\]{\\](?![A-Za-z0-9])",  # smileys
        r"['<=>^~-]_['<=>^~-]|\([x'<=>^~-][_.-]?[x'<=>^~-]\)",
        r"[!?]{2,}|-{5,}|_{2,}|\#{2,}|@{2,}|\*{2,}|\\\*|<<|>>",
        r"-{2,4}|\.{3,}|\.(?:[ ]\.){2,}",
        f"[{''.join(QUOTATION_MARKS)}]{{2}}",
        rf"[{_SIGNS}]",
    ),
}
_RULES = [re.compile(rule) for rules in RULES.values() for rule in rules]

# A chunk has no spaces but in a tag, before a number and between periods. The second group is there where a word that
# begins a sentence follows.
_CHUNK = re.compile(
    rf"(\n|(?:[^\s<\d.)]+|<!--[^>\n]*>|<[!?/]?[A-Za-z][^<>\n]*>|[\d.)][ \xa0]+(?=\d)|\.[ ](?=\.)|\S)+)"
    rf"((?<=[A-Za-z]\.)(?=\s+(?:{STARTS}|{STARTS.upper()})\s))?"
)
_WINDOWS = str.maketrans("\x91\x92\x93\x94\x96\x97", "\u2018\u2019\u201c\u201d\u2013\u2014")
_ENTITY = re.compile("|".join(ENTITIES))
_COMPANY = re.compile("(?<=[A-Z])(?:&amp;|&AMP;)(?=[A-Z])")
_DROPPED = re.compile(r"''|``|-{2,4}|[. ]*")
_CONTRACTION = re.compile(rf"{_CLITIC}|n{_QUOTE}t")
_SIMPLE = re.compile("[A-Za-z]+")
_DOUBLE = frozenset(word.replace("|", "") for word in DOUBLE_WORDS)


def tokenize(caption: str) -> str:
    """Tokenise one caption: its tokens in lower case, separated by spaces."""
    return tokenize_all([caption])[0]


def tokenize_all(captions: Iterable[str]) -> list[str]:
    """Tokenise captions as one file with a caption a line, which is how the toolkit does it.

    The next line matters in one case: a letter and period at the end of a caption are one token, as in "Ave S.", unless
    the next caption begins with a word that often begins a sentence.
    """
    texts = [" ".join(caption.splitlines()) for caption in captions]
    lines: list[list[str]] = [[]]
    for match in _CHUNK.finditer("\n".join(texts)):
        if match[1] == "\n":
            lines.append([])
        else:
            lines[-1] += _tokens(match[1], match.lastindex == 2)
    return [" ".join(tokens) for tokens in lines[: len(texts)]]


@lru_cache(maxsize=2**16)
def _tokens(chunk: str, ends_sentence: bool) -> tuple[str, ...]:
    """Return the tokens of a chunk. `ends_sentence` tells that the period of a single letter at its end does so."""
    if _SIMPLE.fullmatch(chunk) and (word := chunk.lower()) not in _DOUBLE:
        return (word,)
    if "&" in chunk:
        chunk = _ENTITY.sub(lambda match: ENTITIES[match.group()], _COMPANY.sub("&", chunk))
    chunk = chunk.translate(_WINDOWS).replace("\u00ad", "")
    tokens = []
    place = 0
    while place < len(chunk):
        end = length = 0
        for rule in _RULES:
            match = rule.match(chunk, place)
            if match and match.end() - place > length:
                length = match.end() - place
                end = match.end(match.lastindex or 0)
        if length == 0:  # a space, or a character that is dropped
            place += 1
        else:
            tokens.append(_name(chunk[place:end]))
            place = end
    if ends_sentence and tokens[-1][1:] == ".":
        tokens[-1] = tokens[-1][0]
    return tuple(token for token in tokens if token)


def _name(token: str) -> str:
    """Return a token as the toolkit writes it, or an empty text if it is dropped."""
    word = token.lower()
    if word in SYMBOLS:
        return SYMBOLS[word]
    if all(mark in QUOTATION_MARKS for mark in word):
        word = "".join(QUOTATION_MARKS[mark] for mark in word)
    if _DROPPED.fullmatch(word):
        return ""
    if _CONTRACTION.fullmatch(word):
        return word.replace("\u2019", "'").replace("\u2018", "`")
    word = word.replace(" ", "\u00a0")
    return word if word[-1:] == ">" else word.replace("(", "-lrb-").replace(")", "-rrb-")
