"""Several devices at once: each has a process, which makes a part of the shards (part.py).

this process         reads the dataset, starts the others, shows what they say, waits
process 1 on cuda:0  part 1/4
process 2 on cuda:1  part 2/4
...                                whoever ends last writes the index
"""

import logging
import multiprocessing
import os
import signal
import sys
import traceback
from collections.abc import Mapping
from dataclasses import replace
from logging.handlers import QueueHandler, QueueListener
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any

from clipcap.data.command.interrupt import remember_interrupts
from clipcap.data.command.messages import LOGGERS
from clipcap.data.errors import ClipCapError, UsageError
from clipcap.data.pretrained.device import choose_device
from clipcap.precompute.parallel import available_cores, choose_workers
from clipcap.precompute.part import Part
from clipcap.precompute.settings import PrecomputeSettings

logger = logging.getLogger(__name__)


def encode_on_devices(
    source: str | Path, output: str | Path, settings: PrecomputeSettings, devices: int, options: Mapping[str, Any]
) -> None:
    """Run `precompute` in one process for each device, and wait until all have ended. One that fails stops no other.

    Args:
        source, output, settings: as for `precompute`. The device in the settings is a kind of device, such as cuda.
        devices: how many.
        options: further arguments of `precompute`.

    Raises:
        UsageError: there are not so many devices.
        ClipCapError: what the first process that failed has raised, or that it died.
        KeyboardInterrupt: Ctrl-C was pressed. All processes have ended.
    """
    shares = [replace(settings, **share) for share in _shares(settings, devices)]
    context = multiprocessing.get_context("spawn")
    messages, errors = context.Queue(), context.SimpleQueue()
    listener = QueueListener(messages, _Forward())
    listener.start()
    processes: list[SpawnProcess] = []
    try:
        for number, share in enumerate(shares, start=1):
            arguments = (source, output, share, {**options, "part": Part(number, devices)}, messages, errors)
            processes.append(context.Process(target=_make_part, args=arguments))
            processes[-1].start()
        for process in processes:
            process.join()
    except KeyboardInterrupt:
        for process in processes:  # a terminal has told them too, `kill` has not
            if process.pid is not None and process.is_alive():
                os.kill(process.pid, signal.SIGINT)
        for process in processes:
            process.join()
        raise
    finally:
        listener.stop()
    if not errors.empty():
        raise ClipCapError(errors.get())
    for number, process in enumerate(processes, start=1):
        if process.exitcode:
            fact = f"the process of part {number}/{devices} died (exit status {process.exitcode})"
            raise ClipCapError(f"{fact}; run the same command again, which continues after the finished shards")


def _shares(settings: PrecomputeSettings, devices: int) -> list[dict[str, Any]]:
    """Return the settings of each process that differ from those of all."""
    import torch

    device = choose_device(settings.device)
    if device.type == "cpu":
        workers = max(1, (settings.workers or available_cores()) // devices)
        return [{"device": "cpu", "workers": workers}] * devices
    here = torch.cuda.device_count() if device.type == "cuda" else 1
    if ":" in settings.device or devices > here:
        raise UsageError(
            f"`devices` {devices} of the `device` {settings.device}: there are {here} here; give as many `devices` as "
            "there are, and a `device` without a number"
        )
    workers = max(1, choose_workers(settings.workers) // devices)
    return [{"device": f"{device.type}:{number}", "workers": workers} for number in range(devices)]


class _Forward(logging.Handler):
    """Logs here what the processes have logged."""

    def emit(self, record: logging.LogRecord) -> None:
        logger.log(record.levelno, f"[{record.processName}] {record.getMessage()}")


def _make_part(
    source: str | Path,
    output: str | Path,
    settings: PrecomputeSettings,
    options: dict[str, Any],
    messages: Any,
    errors: Any,
) -> None:
    """Run `precompute` in a process of its own."""
    from clipcap.precompute.start import precompute

    part = options["part"]
    multiprocessing.current_process().name = str(part)
    sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123, SIM115 (not a terminal: progress is logged, as for a pipe)
    handler = QueueHandler(messages)
    for name in LOGGERS:
        logging.getLogger(name).addHandler(handler)
        logging.getLogger(name).setLevel(logging.INFO)
    try:
        with remember_interrupts():
            precompute(source, output, settings, **options)
    except KeyboardInterrupt:
        sys.exit(130)
    except ClipCapError as error:
        errors.put(f"part {part}: {error}")
        sys.exit(2)
    except Exception:
        errors.put(f"part {part}: unexpected: {' '.join(traceback.format_exc().split())}")
        sys.exit(1)
