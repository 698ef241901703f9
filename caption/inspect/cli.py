"""`clipcap-inspect CACHE|CHECKPOINT`: the command line of `inspect`, `export` and the doctor."""

import json
import re
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from clipcap.data.command.app import Debug, Version, command, new_app, run_command
from clipcap.data.command.printable import printable, printable_json

app = new_app()
FAILURES_SHOWN = 20
FOUND = 3  # exit status of the doctor where it has findings

EXAMPLES = """
clipcap-inspect cache.h5 --verify                      # counts, splits, recipe, failed images; checks every checksum
clipcap-inspect checkpoints/best                       # mapper, language model, encoder, settings of the run
clipcap-inspect checkpoints/best --export rmokady m.pt # a file for the tools of rmokady/CLIP_prefix_caption
clipcap-inspect cache.h5 --doctor                      # what is wrong with the data, why, and what fixes it
clipcap-inspect checkpoints/best --doctor --cache cache.h5
"""


@command(app, examples=EXAMPLES)
def inspect(
    path: Annotated[
        Path,
        typer.Argument(
            metavar="CACHE|CHECKPOINT",
            help="A cache.h5, a shard, the folder of a checkpoint, or a .pt or .pkl of rmokady, jmisilo or Lahdhirim.",
        ),
    ],
    verify: Annotated[
        bool, typer.Option("--verify", rich_help_panel="What it does", help="Read everything, and check each checksum.")
    ] = False,
    doctor: Annotated[
        bool,
        typer.Option(
            "--doctor",
            rich_help_panel="What it does",
            help="Look for faults: of a cache, such as rows that are shifted against their captions; of a checkpoint, "
            "such as a model that ignores the image. Exit status 3 if there are any.",
        ),
    ] = False,
    cache: Annotated[
        Path | None,
        typer.Option(
            metavar="CACHE",
            rich_help_panel="What it does",
            help="Cache on whose validation split the doctor examines a checkpoint. Default: only its weights are.",
        ),
    ] = None,
    export: Annotated[
        tuple[str, Path] | None,
        typer.Option(
            metavar="rmokady FILE",
            rich_help_panel="What it does",
            help="Write the checkpoint to a file that the tools of rmokady load.",
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", rich_help_panel="Output", help="Print all facts as one JSON object.")
    ] = False,
    debug: Debug = False,
    version: Version = False,
) -> None:
    """Say what a cache or a checkpoint is, and whether it is whole."""
    from clipcap.caption.inspect.describe import inspect as describe
    from clipcap.caption.inspect.export import export as write

    if doctor or cache is not None:
        _examine(path, cache, export, doctor=doctor, verify=verify, as_json=as_json)
        return
    if export is not None:
        print(printable(str(write(path, *export)), sys.stdout))
        return
    facts = describe(path, verify=verify)
    if as_json:
        print(printable_json(json.dumps(facts, ensure_ascii=False, indent=1)))
    else:
        _print_facts(facts)


def _examine(
    path: Path,
    cache: Path | None,
    export: tuple[str, Path] | None,
    *,
    doctor: bool,
    verify: bool,
    as_json: bool,
) -> None:
    """Print what the doctor finds; exit with status 3 if there are findings."""
    from dataclasses import asdict, replace

    from clipcap.caption.inspect.describe import inspect as describe
    from clipcap.caption.inspect.doctor import examine_cache, examine_checkpoint
    from clipcap.caption.inspect.doctor.show import as_text
    from clipcap.data.command.progress import plural
    from clipcap.data.errors import UsageError

    if not doctor:
        raise UsageError("`cache` is for the `doctor`; give both")
    if export is not None:
        raise UsageError("`export` writes a checkpoint and the `doctor` examines it; give one of the two")
    is_cache = describe(path, verify=verify)["kind"].startswith("cache")
    if is_cache and cache is not None:
        raise UsageError(f"`cache` is for checkpoints, and {path} is a cache; leave `cache` out")
    findings, facts = examine_cache(path) if is_cache else examine_checkpoint(path, cache)
    findings = [replace(one, cause=_with_options(one.cause), fix=_with_options(one.fix)) for one in findings]
    facts = {name: _with_options(value) if isinstance(value, str) else value for name, value in facts.items()}
    if as_json:
        content = {"findings": [asdict(finding) for finding in findings], "facts": facts}
        text = printable_json(json.dumps(content, ensure_ascii=False, allow_nan=False, indent=1))
    else:
        text = as_text(findings, facts)
    print(text)
    if findings:
        print(f"clipcap-inspect: the doctor has {plural(len(findings), 'finding')}", file=sys.stderr)
        raise typer.Exit(FOUND)


def _with_options(text: str) -> str:
    """Return a text with options in place of parameters. Fixes name those of several commands, all spelled alike."""
    return re.sub(r"`([a-z_]+)`", lambda found: "--" + found[1].replace("_", "-"), text)


def _print_facts(facts: dict[str, Any]) -> None:
    failures = facts.pop("failures", None)
    lines = [line for name, value in facts.items() for line in _fact(name.replace("_", " "), value)]
    if failures is not None:
        lines.append(f"failures: {len(failures):,}")
        lines += [f"  {failure['path']}: {failure['reason']}" for failure in failures[:FAILURES_SHOWN]]
        if len(failures) > FAILURES_SHOWN:
            lines.append(f"  and {len(failures) - FAILURES_SHOWN:,} more: --json lists all")
    print("\n".join(map(printable, lines)))


def _fact(name: str, value: Any) -> list[str]:
    """Return the lines of a fact: a dict is an indented block, and anything else is on the line of its name."""
    if isinstance(value, dict):
        return [f"{name}:", *(f"  {key}: {json.dumps(item, ensure_ascii=False)}" for key, item in value.items())]
    if isinstance(value, bool):
        return [f"{name}: {'yes' if value else 'no'}"]
    return [f"{name}: {value:,}" if isinstance(value, int) else f"{name}: {value}"]


def main() -> None:
    """Entry point of `clipcap-inspect`."""
    run_command(app, "clipcap-inspect")


if __name__ == "__main__":
    main()
