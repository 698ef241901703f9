"""The frame of every command: its help in groups, one-line errors, exit statuses, Ctrl-C, and libraries kept quiet.

Results go to stdout, everything else to stderr. Exit status 0: done; 1: a fault of ours; 2: something that the person
can correct; 3: `clipcap-inspect` with `doctor` found a fault in the data; 130: interrupted.
"""

import errno
import io
import logging
import os
import re
import sys
import traceback
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperCommand

from clipcap.data.command.interrupt import remember_interrupts
from clipcap.data.command.messages import show_messages
from clipcap.data.command.printable import printable
from clipcap.data.errors import MACHINE_ERRORS, ClipCapError, UnknownSourceError, one_line
from clipcap.data.memory import exhausted_memory
from clipcap.data.version import program_version

LAST_GROUP = "Other"
# Of the file system: a name or a folder that the person can correct.
_OF_A_PATH = {errno.ENAMETOOLONG, errno.ELOOP, errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO}


def _print_version(context: typer.Context, wanted: bool) -> None:
    if wanted:
        print(f"{context.info_name} {program_version()}")
        raise typer.Exit


Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
Version = Annotated[
    bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
]


class Command(TyperCommand):
    """A command whose help lists the options in groups, and its examples as they stand.

    Attributes:
        presets: gives the values that each preset has for this command's options.
    """

    presets: Callable[[], Mapping[str, Mapping[str, Any]]] = dict

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the options, group after group in the order of their first option."""
        groups: dict[str, list[tuple[str, str]]] = {}
        parameter: Any
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is None:
                continue
            title = getattr(parameter, "rich_help_panel", None) or LAST_GROUP
            if not parameter.opts[0].startswith("-"):
                default = "" if parameter.required or parameter.default is None else f"  [default: {parameter.default}]"
                title, record = "Arguments", (_argument_name(parameter), parameter.help + default)
            groups.setdefault(title, []).append(record)
        for title in [*(title for title in groups if title != LAST_GROUP), LAST_GROUP]:
            with formatter.section(title):
                formatter.write_dl(groups[title])

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """The words of the usage line after the command's name."""
        arguments = [p for p in self.get_params(ctx) if not p.opts[0].startswith("-")]
        return ["[OPTIONS]", *(_argument_name(p) if p.required else f"[{_argument_name(p)}]" for p in arguments)]

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        """Write the examples."""
        if self.epilog:
            with formatter.section("Examples"):
                for line in self.epilog.strip().splitlines():
                    formatter.write(f"{'':{formatter.current_indent}}{line.strip()}\n")


def _argument_name(parameter: Any) -> str:
    return str(parameter.metavar or parameter.name.upper())


def new_app() -> typer.Typer:
    """A typer application, as all our commands use it."""
    return typer.Typer(pretty_exceptions_enable=False, rich_markup_mode=None)


def command(
    app: typer.Typer, *, examples: str, presets: Callable[[], Mapping[str, Mapping[str, Any]]] = dict
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Make a function the command of an application.

    Args:
        app: with no other command.
        examples: command lines to show at the end of the help, one a line.
        presets: gives the values that each preset has for this command's options.
    """
    kind = type("Command", (Command,), {"presets": staticmethod(presets)})
    names = {"help_option_names": ["-h", "--help"]}
    return app.command(cls=kind, epilog=examples, context_settings=names)


def run_command(app: typer.Typer, name: str, arguments: Sequence[str] | None = None) -> NoReturn:
    """Run a single-command app as the program `name`, and exit with its status.

    Args:
        app: an app with one command.
        name: the program's name, with which its errors begin.
        arguments: of the command line, after the name; by default those of this process.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in arguments
    quiet_libraries(debug)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # file names need not be UTF-8
    program: Any = typer.main.get_command(app)
    rename = partial(with_option_names, parameters=program.params)
    try:
        with remember_interrupts(), show_messages(rename):
            status = program.main(arguments, prog_name=name, standalone_mode=False)
        sys.stdout.flush()
        if status == 130:  # typer's way to report Ctrl-C
            raise KeyboardInterrupt
    except ClipCapError as error:
        lines = str(error).split("\n") if isinstance(error, UnknownSourceError) else [str(error)]
        status = _report(name, map(rename, lines), 2, debug)
    except KeyboardInterrupt:
        status = _report(name, ["interrupted"], 130, debug)
    except (BrokenPipeError, SystemExit) as error:
        # The reader of our output has gone (`| head`), which typer turns into an exit with 1: nothing is wrong.
        if isinstance(error, SystemExit) and not isinstance(error.__context__, BrokenPipeError):
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # else Python complains when it flushes stdout
        status = 0
    except Exception as error:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            place = f" ({error.filename})" if error.filename else ""
            fact = f"the disk is full{place}: free some space, then run the same command"
            status = _report(name, [fact], 2, debug)
        elif memory := exhausted_memory(error):
            fact = f"{memory} ran out ({one_line(error)[:160]}); close other programs that use it"
            status = _report(name, [rename(f"{fact}, or give a smaller `batch_size` or model")], 2, debug)
        elif isinstance(error, OSError) and error.errno in _OF_A_PATH and error.filename is not None:
            fact = " ".join(f"{error.filename} cannot be used ({error.strerror})".split())
            status = _report(name, [f"{fact}; correct that, or give another path"], 2, debug)
        elif isinstance(error, OSError) and error.errno in MACHINE_ERRORS:
            fact = f"{error.filename or 'a file'} cannot be read or written: {error.strerror}"
            status = _report(name, [f"{fact}; fix that and run the same command again"], 2, debug)
        elif hasattr(error, "format_message"):  # typer's own: an unknown option, a missing argument, a bad value
            status = _report(name, [f"{_usage_message(error)} See {name} --help."], 2, debug)
        else:
            fact = f"unexpected {type(error).__name__}: {one_line(error)} (--debug shows the traceback)"
            status = _report(name, [fact], 1, debug)
    sys.exit(status if isinstance(status, int) else 0)


def with_option_names(text: str, parameters: Sequence[Any]) -> str:
    """A message of the library as the command line shows it: parameters in backticks become options.

    Args:
        text: such as "`batch_size` must be at least 1, not 0".
        parameters: of the click command.

    Returns:
        Such as "--batch-size must be at least 1, not 0". What is no parameter of the command stays as it is.
    """
    shown = {
        str(parameter.name): next((name for name in parameter.opts if name.startswith("--")), parameter.opts[0])
        if parameter.opts[0].startswith("-")
        else parameter.metavar or str(parameter.name).upper()
        for parameter in parameters
    }
    return re.sub(r"`([a-z][a-z0-9_]*)`", lambda found: shown.get(found[1], found[0]), text)


def _usage_message(error: Exception) -> str:
    """What typer says of a wrong command line, as one sentence on one line."""
    message = " ".join(str(error.format_message()).split())  # type: ignore[attr-defined]
    return message if message.endswith(".") else message + "."


def quiet_libraries(debug: bool) -> None:
    """Keep warnings and log lines of the libraries off the person's screen, unless `debug`; let none report its use."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # else every forked worker prints a warning
    if debug:
        return
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")
    warnings.simplefilter("ignore")
    logging.getLogger().addHandler(logging.NullHandler())  # open_clip logs to the root logger


def _report(name: str, lines: Iterable[str], status: int, debug: bool) -> int:
    if debug:
        print("\n".join(map(printable, traceback.format_exc().rstrip().split("\n"))), file=sys.stderr)
    message = "\n".join(map(printable, lines))
    print(f"{name}: {message}", file=sys.stderr)
    return status
