"""The documents are true: README's commands exist, and what is generated from the code is as the code is."""

import importlib
import re
import shlex
from pathlib import Path

import pytest
import typer

import generate
from small_world import COMMANDS

ROOT = Path(__file__).resolve().parents[1]


def readme_commands() -> list[str]:
    """Every command line in README.md, without its comment."""
    text = (ROOT / "README.md").read_text()
    lines = re.findall(r"^    (clipcap-.*)$", text, re.MULTILINE) + re.findall(r"`(clipcap-[a-z]+ [^`]*)`", text)
    return [re.split(r"\s+#", line)[0].strip() for line in lines]


def options(command: str) -> set[str]:
    """Every option of a command."""
    app = importlib.import_module(COMMANDS[command]).app
    return {option for parameter in typer.main.get_command(app).params for option in parameter.opts}


def test_the_readme_shows_commands() -> None:
    assert len(readme_commands()) > 10


@pytest.mark.parametrize("line", readme_commands())
def test_a_command_of_the_readme_exists_with_its_options(line: str) -> None:
    name, *arguments = shlex.split(line)
    known = options(name.removeprefix("clipcap-"))
    assert {argument for argument in arguments if argument.startswith("-")} <= known


def test_the_options_of_the_first_release_remain() -> None:
    released = {
        "precompute": "-o --format --encoder --pretrained --features --tokenizer --shard-size --batch-size --workers "
        "--limit --val-fraction --seed --dry-run --strict --overwrite --device --precision",
        "train": "-o --mapper --prefix-length --lm --tune --epochs --batch-size --lr --warmup --seed --resume "
        "--overwrite --device --precision",
        "caption": "--model --split --decode --beams -n --max-tokens --json --jsonl --csv -o --device --precision",
        "inspect": "--verify --json",
        "demo": "--only-dataset --images",
    }
    for command, names in released.items():
        assert {*names.split(), "--debug", "--version"} <= options(command), command


def test_the_map_in_contributing_is_generated_from_the_code() -> None:
    text = generate.CONTRIBUTING.read_text()
    assert generate.replace_map(text) == text, "run `make docs`"


def test_the_map_lists_every_file_of_the_code() -> None:
    listed = re.findall(r"^ +(\S+\.py) ", generate.code_map(), re.MULTILINE)
    tracked = [path for folder in generate.FOLDERS for path in (ROOT / folder).rglob("*.py")]
    names = [path.name for path in tracked if not path.name.startswith(("__init__.", "test_"))]
    assert sorted(listed) == sorted(names)


def test_every_module_opens_with_one_sentence_on_one_line() -> None:
    for folder in generate.FOLDERS:
        for path in (ROOT / folder).rglob("*.py"):
            first, *rest = generate.docstring(path).splitlines()
            assert first.endswith("."), (path, first)
            assert not rest or not rest[0], (path, rest[0])


def test_the_reference_of_options_is_generated_from_the_commands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")  # the width of the terminal must not matter
    assert generate.OPTIONS.read_text() == generate.options_reference(), "run `make docs`"


@pytest.mark.parametrize("command", COMMANDS)
def test_the_reference_has_every_option(command: str) -> None:
    text = generate.options_reference()
    section = text[text.index(f"## clipcap-{command}\n") :].split("\n## ")[0]
    unlisted = {"--install-completion", "--show-completion"}
    assert {name for name in options(command) if name.startswith("-")} <= unlisted | set(
        re.findall(r"`([^`]+)`", section)
    )


def test_documents_name_no_registry_and_no_path_of_a_machine() -> None:
    forbidden = re.compile("pypi" + r"\.org|files\.python" + "hosted|/ro" + "ot/|/wo" + "rk/")
    hidden = (".ci", ".github", ".gitignore", ".pre-commit-config.yaml")
    for file in ROOT.rglob("*"):
        skipped = any(part.startswith(".") and part not in hidden for part in file.relative_to(ROOT).parts)
        if file.is_file() and not skipped and file.suffix in (".py", ".md", ".toml", "", ".txt", ".yml", ".yaml"):
            found = forbidden.search(file.read_text(errors="ignore"))
            assert found is None, (file, found)
