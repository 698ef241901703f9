"""What comes with the program: its dependencies' licences are listed, and SECURITY.md names tests that exist."""

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def listed() -> dict[str, tuple[str, str]]:
    """The extra and the licence of each package in docs/licences.md."""
    rows = re.findall(r"^\| (\S+) \| (\w*) ?\| (.+?) \|", (ROOT / "docs/licences.md").read_text(), re.MULTILINE)
    return {name: (extra, licence) for name, extra, licence in rows if name not in ("package", "---")}


def test_the_licence_of_every_direct_dependency_is_listed() -> None:
    declared = {"": PROJECT["dependencies"], **PROJECT["optional-dependencies"]}
    names = {re.split(r"[\[>=]", bound)[0]: extra for extra, bounds in declared.items() for bound in bounds}
    names.pop("clipcap-cache")
    found = listed()
    assert {name: extra for name, (extra, _) in found.items()} == names
    assert all(re.search("MIT|BSD|Apache|GPL|MPL", licence) for _, licence in found.values())


def test_every_promise_of_the_security_policy_names_tests_that_exist() -> None:
    text = (ROOT / "SECURITY.md").read_text()
    promises = text[text.index("## What is promised") : text.index("## What is not promised")]
    rows = [line for line in promises.splitlines() if line.startswith("| ") and "| tests |" not in line]
    assert len(rows) > 5
    for row in rows:
        paths = re.findall(r"`(tests/[\w/.]+)`", row.rsplit("|", 2)[1])
        assert paths, row
        for path in paths:
            assert (ROOT / path).exists(), path
