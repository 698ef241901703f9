"""Fixtures that the tests share, made from the parts in small_world.py."""

import importlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import CodeType

import pytest

from remote_hub import Hub, new_hub
from small_world import (
    CAPTIONS,
    COMMANDS,
    DEMO_IMAGES,
    Result,
    Run,
    command_line,
    make_clip,
    make_coco,
    make_lm,
    small_models,
    without_sockets,
)
from web_server import serve

ROOT = Path(__file__).resolve().parents[1]
if importlib.util.find_spec("clipcap") is None:  # a checkout that is not installed
    sys.path.append(str(ROOT))

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as in the background of a shell; processes of tests inherit it
    signal.signal(signal.SIGINT, signal.default_int_handler)
os.environ["HF_HUB_OFFLINE"] = "1"  # tests download nothing
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["OMP_NUM_THREADS"] = "1"  # for models of this size, more threads are slower


SLOW_FIXTURES = ("demo_run", "trained")
POSIX_NAMES = {"AF_UNIX", "another_process", "fork", "interrupt_at_step", "interrupt_in", "kill", "killpg", "mkfifo"}
# The files that take longest. Under `--no-loadscope-reorder` they start first, so that no process of pytest-xdist is
# left with a long one at the end. Of those that use `demo_run`, only one is here: the others would wait for it.
LONGEST = (
    "caption/demo/test_demo.py",
    "precompute/test_ray.py",
    "precompute/test_architectures.py",
    "train/engine/test_distributed.py",
    "precompute/test_timm.py",
    "precompute/test_full_size.py",
    "train/test_photographs.py",
    "train/test_killed.py",
    "precompute/test_killed.py",
    "data/cache/test_cache.py",
    "train/test_resume.py",
    "train/test_metric.py",
    "caption/test_captions_file.py",
    "data/metrics/test_toolkit.py",
    "precompute/test_no_network.py",
    "precompute/test_devices.py",
    "precompute/test_imported.py",
    "precompute/test_growing.py",
    "precompute/test_weights_file.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Move the longest files to the front. Mark tests `slow` that use a slow fixture, `posix` what Windows lacks."""
    rank = {ROOT / "tests" / name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: rank.get(item.path, len(rank)))  # a stable sort
    for item in items:
        if any(name in getattr(item, "fixturenames", ()) for name in SLOW_FIXTURES):
            item.add_marker(pytest.mark.slow)
        if isinstance(item, pytest.Function) and not POSIX_NAMES.isdisjoint(names_in(item.function.__code__)):
            item.add_marker(pytest.mark.posix)


def names_in(code: CodeType) -> Iterator[str]:
    """The names that a function uses, and the functions inside it."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from names_in(constant)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip tests that are marked `gpu` on a machine without one, and those that are marked `posix` on Windows."""
    if item.get_closest_marker("posix") is not None and os.name != "posix":
        pytest.skip("Windows: this test needs a POSIX system")
    if item.get_closest_marker("gpu") is not None:
        import torch

        if not torch.cuda.is_available():
            pytest.skip("no CUDA device: this test needs a GPU")


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real data. Tests that need it are skipped where `CLIPCAP_SHARED` is not set."""
    folder = os.environ.get("CLIPCAP_SHARED", "")
    if not folder:
        pytest.skip("CLIPCAP_SHARED is not set: no real data to test against")
    return Path(folder)


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str]) -> Run:
    """A function that runs a command in this process: `run("precompute", folder, "-o", path)`."""

    def call(command: str, *arguments: object) -> Result:
        module = importlib.import_module(COMMANDS[command])
        from clipcap.data.command.app import run_command

        capfd.readouterr()
        with pytest.raises(SystemExit) as leaving:
            run_command(module.app, f"clipcap-{command}", [str(argument) for argument in arguments])
        out, err = capfd.readouterr()
        assert isinstance(leaving.value.code, int)
        return Result(leaving.value.code, out, err)

    return call


@pytest.fixture(scope="session")
def tokenizer_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A byte-level BPE tokenizer as GPT-2's, with a small vocabulary, trained on `CAPTIONS`."""
    from tokenizers import ByteLevelBPETokenizer
    from transformers import AutoTokenizer

    folder = tmp_path_factory.mktemp("tokenizer")
    trained = ByteLevelBPETokenizer()
    trained.train_from_iterator(CAPTIONS, vocab_size=400, special_tokens=["<|endoftext|>"], show_progress=False)
    trained.save_model(str(folder))
    (folder / "config.json").write_text('{"model_type": "gpt2"}')
    AutoTokenizer.from_pretrained(str(folder)).save_pretrained(str(folder))
    return folder


@pytest.fixture(scope="session")
def lm_folder(tmp_path_factory: pytest.TempPathFactory, tokenizer_folder: Path) -> Path:
    """A small GPT-2 with random weights and the small vocabulary, as transformers saves it."""
    return make_lm(tmp_path_factory.mktemp("lm"), tokenizer_folder)


@pytest.fixture(scope="session")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small CLIP with random weights in open_clip's format: images of 32 pixels, embeddings of width 16."""
    return make_clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture
def all_cores() -> Iterator[None]:
    """Let torch compute on all cores, or on the share of this process of pytest-xdist, for full-size models."""
    import torch

    # Threads that outnumber the cores wait for one another, and burn the time of the other processes meanwhile.
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // workers))
    yield
    torch.set_num_threads(1)


@pytest.fixture
def coco(tmp_path: Path) -> Path:
    """A small COCO folder, a new one for each test: 12 training and 5 validation images."""
    return make_coco(tmp_path / "coco")


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[type[Hub]]:
    """A store without files behind `hub://` and `hf://`. The folders of mirrors are in `tmp_path / "mirrors"`."""
    import fsspec

    from clipcap.data.remote import folder

    kind = new_hub()
    monkeypatch.setattr(folder, "PAUSES", (0.0, 0.0))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "mirrors"))
    (tmp_path / "mirrors").mkdir()
    real = fsspec.get_filesystem_class("hf")
    for protocol in kind.protocol:
        fsspec.register_implementation(protocol, kind, clobber=True)
    yield kind
    fsspec.register_implementation("hf", real, clobber=True)


@pytest.fixture
def web(tmp_path: Path, hub: type[Hub]) -> Iterator[str]:
    """The URL under which `tmp_path / "web"` is served; `hub` sets how long failed requests wait."""
    (tmp_path / "web").mkdir()
    with serve(tmp_path / "web") as url:
        yield url


@pytest.fixture(scope="session")
def small_cache(tmp_path_factory: pytest.TempPathFactory, clip_folder: Path, tokenizer_folder: Path) -> Path:
    """The cache of a small COCO folder, in two shards. Tests must only read it."""
    folder = tmp_path_factory.mktemp("cache")
    make_coco(folder / "coco")
    arguments = [folder / "coco", "-o", folder / "cache.h5", *small_models(clip_folder, tokenizer_folder)]
    subprocess.run(command_line("precompute", [*arguments, "--shard-size", 10]), check=True, capture_output=True)
    return folder / "cache.h5"


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory, small_cache: Path, lm_folder: Path) -> Path:
    """The folder of a run on the small cache, long enough for captions that differ. Tests must only read it."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    options = ["--lm", lm_folder, "--epochs", 25, "--batch-size", 9, "--lr", 8e-3, "--precision", "fp32"]
    arguments = [small_cache, "-o", folder, *options, "--device", "cpu"]
    subprocess.run(command_line("train", arguments), check=True, capture_output=True)
    return folder


@pytest.fixture(scope="session")
def demo_run(tmp_path_factory: pytest.TempPathFactory) -> "tuple[Path, subprocess.CompletedProcess[str]]":
    """The folder of a small demo that ran without a network, and its process. Tests must only read the folder.

    The processes of pytest-xdist share one: the first one that asks for it makes it, and the others wait.
    """
    from clipcap.data.cache.atomic import write_file
    from clipcap.data.errors import UsageError
    from clipcap.data.lock import hold_lock

    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "demo"
    folder.mkdir(exist_ok=True)
    arguments = command_line("demo", ["out", "--images", DEMO_IMAGES])
    ended = folder / "ended.json"
    while not ended.exists():
        try:
            with hold_lock(folder / "lock", "the demo"):
                if not ended.exists():
                    done = subprocess.run(
                        arguments,
                        cwd=folder,
                        env=without_sockets(folder),
                        capture_output=True,
                        text=True,
                        check=False,
                    )
                    write_file(ended, json.dumps([done.returncode, done.stdout, done.stderr]).encode())
        except UsageError:  # another process has the lock
            time.sleep(0.5)
    status, out, err = json.loads(ended.read_text())
    assert status == 0, err
    return folder / "out", subprocess.CompletedProcess(arguments, status, out, err)
