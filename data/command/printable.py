r"""Makes texts of strangers safe to print: captions and file names, which may hold anything.

A terminal obeys some characters instead of showing them: an escape sequence may clear the screen, change its title,
make a link or write to the clipboard, and a bidirectional control lets `gpj.exe` read as `exe.jpg`. So they are shown
as Python writes them:

    in a name                       on the terminal         in a pipe or a file
    a, line feed, b.jpg             a\nb.jpg                a\nb.jpg
    ESC ]52;c;...                   \x1b]52;c;...           as it is
    U+202E (right-to-left)          \u202e                  as it is
    U+200D (zero-width joiner)      as it is                as it is

This is what `ls` and `git` do, except that a line break is never one: a result stays on its line. Messages are for
people wherever they go, and always take the form for a terminal. Characters without width and the tags of flags stay:
emoji, Persian and Hindi need them, and they change nothing but what is beside them.
"""

import re
from typing import TextIO

from clipcap.data.errors import LINE_BREAKS

# Delete and C1, the bidirectional controls of Unicode, its line breaks, and bytes of a name that is not UTF-8.
_BEYOND_ASCII = "\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff"
_CONTROLS = re.compile(f"[\0-\x1f{_BEYOND_ASCII}]")
_NOT_ESCAPED_BY_JSON = re.compile(f"[{_BEYOND_ASCII}]")


def printable(text: str, stream: TextIO | None = None) -> str:
    """Return a text on one line that no terminal obeys.

    Args:
        text: to print.
        stream: where it goes. If it is no terminal, line breaks alone are escaped. Default: as for a terminal.
    """
    controls = _CONTROLS if stream is None or stream.isatty() else LINE_BREAKS
    return controls.sub(lambda found: ascii(found[0])[1:-1], text)


def printable_json(text: str) -> str:
    """Return JSON, as `json.dumps` writes it without `ensure_ascii`, of the same value, that no terminal obeys."""
    return _NOT_ESCAPED_BY_JSON.sub(lambda found: f"\\u{ord(found[0]):04x}", text)
