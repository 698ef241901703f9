"""What the source shows of other systems: no fork, no name that Windows forbids, no default encoding, POSIX guarded."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("clipcap", "data", "precompute", "train", "caption", "docs")
FILES = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))
NOT_ON_WINDOWS = re.compile(
    r"(os\.(fork\w*|forkpty|mkfifo|mknod|killpg|getpgid|setsid|get\w*uid|get\w*gid|chown|sysconf|sched_\w+|statvfs|"
    r"pread|pwrite|register_at_fork|O_(NOFOLLOW|NONBLOCK|NOCTTY|CLOEXEC|DIRECTORY|SYNC))|"
    r"signal\.(SIGKILL|SIGHUP|SIGALRM|SIGUSR\d|SIGCHLD|SIGQUIT|alarm|setitimer|pthread_\w+))"
)
POSIX_MODULES = {"fcntl", "resource", "pwd", "grp", "termios", "tty", "pty", "posix"}


def with_owners(node: ast.AST, owners: tuple[ast.AST, ...] = ()) -> Iterator[tuple[ast.AST, tuple[ast.AST, ...]]]:
    """Yield every node below one, with the nodes that it is in."""
    for child in ast.iter_child_nodes(node):
        yield child, (*owners, node)
        yield from with_owners(child, (*owners, node))


def is_guard(node: ast.AST) -> bool:
    """Whether what is inside runs only where the system has it."""
    if isinstance(node, ast.If | ast.IfExp | ast.BoolOp):
        condition = ast.unparse(node if isinstance(node, ast.BoolOp) else node.test)
        return "os.name" in condition or "hasattr" in condition
    return isinstance(node, ast.With) and "AttributeError" in ast.unparse(node.items[0])


def problems(source: str) -> list[str]:
    """The lines of a module that another system would fail at, or do otherwise."""
    found = []
    for node, owners in with_owners(ast.parse(source)):
        text = ast.unparse(node) if isinstance(node, ast.expr) else ""
        if isinstance(node, ast.Attribute) and NOT_ON_WINDOWS.fullmatch(text) and not any(map(is_guard, owners)):
            found.append(f"{text} without a guard")
        if isinstance(node, ast.Import) and not POSIX_MODULES.isdisjoint(alias.name for alias in node.names):
            found.append(f"{ast.unparse(node)} without a guard")
        if isinstance(node, ast.Call):
            found += [f"{text} {problem}" for problem in problems_of_call(node)]
        if isinstance(node, ast.FunctionDef) and "os.fsync(" in ast.unparse(node) and "'rb'" in ast.unparse(node):
            found.append(f"{node.name} syncs a file that is open for reading")
    return found


def problems_of_call(call: ast.Call) -> Iterator[str]:
    name, options = ast.unparse(call.func), {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
    method = isinstance(call.func, ast.Attribute)
    ours = name == "files.read_text"  # always UTF-8
    if method and name.endswith((".read_text", ".write_text")) and "encoding" not in options and not ours:
        yield "has no encoding"
    if name == "open" or (method and name.endswith(".open")):
        modes = [ast.unparse(argument).strip("'") for argument in call.args]
        is_text = any(re.fullmatch("[rwxa]t?[+]?", mode) for mode in modes) or not (modes or options)
        if is_text and "encoding" not in options:
            yield "has no encoding"
    if options.get("text") == "True" or options.get("universal_newlines") == "True":
        yield "has no encoding"
    if name.endswith("ProcessPoolExecutor") and "'spawn'" not in options.get("mp_context", ""):
        yield "depends on the system's way to start processes"
    if name.endswith(("get_context", "set_start_method")) and [ast.unparse(one) for one in call.args] != ["'spawn'"]:
        yield "does not spawn"
    if name in ("multiprocessing.Process", "multiprocessing.Pool", "mp.Process", "mp.Pool", "DataLoader"):
        yield "depends on the system's way to start processes"


@pytest.mark.parametrize(
    "line",
    [
        "path.read_text()",
        "path.write_text('a')",
        "open(path, 'w')",
        "path.open()",
        "path.open('a')",
        "subprocess.run(command, text=True)",
        "os.killpg(1, 2)",
        "signal.signal(signal.SIGHUP, handle)",
        "import fcntl",
        "ProcessPoolExecutor(2)",
        "multiprocessing.get_context('fork')",
        "def sync(path):\n    with open(path, 'rb') as file:\n        os.fsync(file)",
    ],
)
def test_a_line_that_another_system_fails_at_is_found(line: str) -> None:
    assert len(problems(line)) == 1
    assert problems("path.read_text(encoding='utf-8'); open(path, 'rb'); Image.open(file); read_text(path)") == []
    assert problems("if os.name == 'posix':\n    os.killpg(1, signal.SIGKILL)") == []


def test_the_program_runs_alike_on_every_system() -> None:
    found = {file.relative_to(ROOT).as_posix(): problems(file.read_text(encoding="utf-8")) for file in FILES}
    assert {name: lines for name, lines in found.items() if lines} == {}


@pytest.mark.slow
def test_names_of_files_are_allowed_on_windows(small_cache: Path, trained: Path) -> None:
    made = [path for folder in (small_cache.parent, trained) for path in folder.rglob("*")]
    assert len(made) > 20
    for path in made:
        assert re.fullmatch(r'[^<>:"/\\|?*\x00-\x1f]*[^<>:"/\\|?*\x00-\x1f. ]', path.name), path
        assert not re.fullmatch(r"(?i)(con|prn|aux|nul|com\d|lpt\d)(\..*)?", path.name), path
