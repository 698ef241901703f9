"""The documents are true: commands in the README exist with their options, and the map of the code is the code."""

import importlib
import re
import shlex
from pathlib import Path

import pytest
import typer

from small_world import COMMANDS

ROOT = Path(__file__).resolve().parents[1]


def readme_commands() -> list[str]:
    text = (ROOT / "README.md").read_text()
    lines = re.findall(r"^    (clipcap-.*)$", text, re.MULTILINE) + re.findall(r"`(clipcap-[a-z]+ [^`]*)`", text)
    return [re.split(r"\s+#", line)[0].strip() for line in lines]


def options(command: str) -> set[str]:
    """Every option that a command knows."""
    app = importlib.import_module(COMMANDS[command]).app
    return {option for parameter in typer.main.get_command(app).params for option in parameter.opts}


def test_there_are_commands_in_the_readme() -> None:
    assert len(readme_commands()) > 10


@pytest.mark.parametrize("line", readme_commands())
def test_a_command_of_the_readme_exists_with_its_options(line: str) -> None:
    name, *arguments = shlex.split(line)
    known = options(name.removeprefix("clipcap-"))
    assert {argument for argument in arguments if argument.startswith("-")} <= known


def test_the_command_surface_is_kept() -> None:
    common = {"--debug", "--version", "--device", "--precision"}
    expected = {
        "precompute": {
            *("-o", "--format", "--encoder", "--pretrained", "--features", "--tokenizer", "--shard-size"),
            *(
                "--batch-size",
                "--workers",
                "--limit",
                "--val-fraction",
                "--seed",
                "--dry-run",
                "--strict",
                "--overwrite",
            ),
        },
        "train": {
            *("-o", "--mapper", "--prefix-length", "--lm", "--tune", "--epochs", "--batch-size", "--lr", "--warmup"),
            *("--seed", "--resume", "--overwrite"),
        },
        "caption": {
            *("--model", "--split", "--decode", "--beams", "-n", "--max-tokens", "--json", "--jsonl", "--csv", "-o"),
        },
        "inspect": {"--verify", "--json"},
        "demo": {"--only-dataset", "--images"},
    }
    for command, surface in expected.items():
        kept = surface | (common if command not in ("inspect", "demo") else {"--debug", "--version"})
        assert kept <= options(command), command


def test_the_map_in_contributing_is_the_code() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text()
    block = text[text.index("## The map") : text.index("Imports run one way")]
    listed = set()
    folder = ""
    for indent, name in re.findall(r"^    ( *)(\S+)", block, re.MULTILINE):
        if not indent:
            folder = name
        else:
            listed.add(folder + name)
    for name in listed:
        assert (ROOT / name).exists(), name
    files = {
        file.relative_to(ROOT).as_posix()
        for top in ("data", "precompute", "train", "caption")
        for file in (ROOT / top).glob("*.py")
        if file.name != "__init__.py"
    }
    assert files <= listed


def test_no_address_of_a_registry_and_no_path_of_a_machine_is_written_down() -> None:
    forbidden = re.compile("pypi" + r"\.org|files\.python" + "hosted|/ro" + "ot/|/wo" + "rk/")
    for file in ROOT.rglob("*"):
        hidden = any(
            part.startswith(".") and part not in (".ci", ".gitignore") for part in file.relative_to(ROOT).parts
        )
        if file.is_file() and not hidden and file.suffix in (".py", ".md", ".toml", "", ".txt"):
            found = forbidden.search(file.read_text(errors="ignore"))
            assert found is None, (file, found)
