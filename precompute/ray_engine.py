"""Stage 1 on a Ray cluster: Ray Data maps the numbers of shards to shards, with an encoder in each worker.

    this process     reads the dataset, plans the shards, starts the map, writes the index
    worker on GPU 0  shard 0 | shard 2 | ...
    worker on GPU 1  shard 1 | shard 3 | ...      all of them write to a folder that they share

`RAY_ADDRESS` names the cluster; without it, Ray starts on this machine. A shard is the same whoever makes it, and is
written whole or not at all. So Ray starts a worker that is lost again with the shard that it was at, and a run that
is started again makes the shards that are missing.
"""

import json
import logging
import os
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clipcap.data.cache.fingerprint import Fingerprint
from clipcap.data.cache.index import Cache
from clipcap.data.command.progress import Progress, plural
from clipcap.data.errors import ClipCapError, UsageError, one_line
from clipcap.data.pretrained.device import choose_device
from clipcap.data.pretrained.new_tokenizer import is_new
from clipcap.data.pretrained.tokenizer import load_tokenizer
from clipcap.data.records import Source
from clipcap.data.remote import is_url
from clipcap.precompute.encoders.load import load_encoder
from clipcap.precompute.failures import Failure, Failures
from clipcap.precompute.maker import ShardMaker
from clipcap.precompute.output import Output
from clipcap.precompute.parallel import choose_workers
from clipcap.precompute.plan import Plan, plan_output
from clipcap.precompute.result import Interrupted
from clipcap.precompute.run import begin, finish
from clipcap.precompute.settings import DEFAULT_ENCODER, PrecomputeSettings

if TYPE_CHECKING:
    from numpy.typing import NDArray

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Job:
    """What a worker needs to make any shard of a plan.

    Attributes:
        plan: the plan, with the dataset.
        output: where shards go, as all workers see it.
        fingerprint: the recipe.
        encoder, pretrained: names of the encoder and its weights, as `load_encoder` takes them.
        tokenizer: name or folder of the tokenizer.
        device: of the encoder.
        workers: number of threads.
    """

    plan: Plan
    output: Output
    fingerprint: Fingerprint
    encoder: str
    pretrained: str | None
    tokenizer: str
    device: str
    workers: int


class RayWorker:
    """Makes shards in a process of the cluster.

    Args:
        job: Ray's reference to the job.
    """

    def __init__(self, job: Any) -> None:
        import ray

        self.job = job = ray.get(job)
        recipe = job.fingerprint
        encoder = load_encoder(
            job.encoder,
            job.pretrained,
            device=choose_device(job.device),
            precision=recipe.precision,
            features=recipe.features,
        )
        if encoder.weights_sha256 != recipe.weights_sha256:
            raise UsageError(f"{job.encoder} has other weights on a worker than here; give all machines the same files")
        tokenizer = load_tokenizer(job.tokenizer)
        self._maker = ShardMaker(job.plan, job.output, encoder, tokenizer, recipe, workers=job.workers)

    def __call__(self, batch: "dict[str, NDArray[Any]]") -> dict[str, list[Any]]:
        """Make the shards with these numbers; return images encoded, failures as JSON, and an error of each.

        Whether failures end the run is decided where those of all workers are known.
        """
        rows: dict[str, list[Any]] = {"shard": [], "images": [], "failures": [], "error": []}
        for number in batch["shard"].tolist():
            images = len(self.job.plan.to_encode(number))
            failures = Failures(total=images, strict=False, half_is_fatal=False)
            error = ""
            try:
                self._maker.make([number], failures, Progress("encoding", "images", images, bar=False))
            except ClipCapError as caught:
                error = str(caught)
            for name, value in zip(rows, (number, images, json.dumps(failures.found), error), strict=True):
                rows[name].append(value)
        return rows


def shared_folder(source: str | Path) -> Path:
    """Return the absolute path of a dataset, since workers may have other working folders.

    Raises:
        UsageError: it is a URL.
    """
    if is_url(source):
        raise UsageError(f"`engine` ray reads a folder that all machines share, and {source} is a URL; copy it there")
    return Path(source).resolve()


def encode_with_ray(
    source: Source,
    output: Output,
    fingerprint: Fingerprint,
    settings: PrecomputeSettings,
    *,
    reuse: Sequence[Cache],
    count: int,
) -> list[Failure]:
    """Encode all images that no shard has yet on a Ray cluster, and write the index.

    Args:
        source: all its records have a split; its root is absolute.
        output: where the cache goes, an absolute path, locked. Its shards have the same recipe.
        fingerprint: the recipe.
        settings: name encoder, tokenizer and device.
        reuse: caches of the same encoder, whose rows are copied.
        count: number of workers; 0 takes one for each GPU of the cluster, or else for each machine.

    Returns:
        The images that could not be read.

    Raises:
        UsageError: ray is not installed, or as `plan_output`.
        SourceError: the failures end the run. Finished shards stay.
        ClipCapError: a worker failed in another way, or the cluster did.
        Interrupted: Ctrl-C was pressed.
    """
    plan = plan_output(source, output, fingerprint, reuse, settings.limit)
    job = Job(
        plan=plan,
        output=output,
        fingerprint=fingerprint,
        encoder=_absolute(settings.encoder or DEFAULT_ENCODER),
        pretrained=None if settings.pretrained is None else _absolute(settings.pretrained),
        tokenizer=str(output.tokenizer) if is_new(settings.tokenizer) else _absolute(settings.tokenizer),
        device=settings.device,
        workers=choose_workers(settings.workers),
    )
    todo, done, failures = begin(plan, output, settings.strict)
    try:
        with (
            redirect_stdout(sys.stderr),  # Ray prints there what it notices
            Progress("encoding", "images", failures.total, done) as progress,
        ):
            if todo:
                _map(job, count, todo, failures, progress)
    except KeyboardInterrupt as interrupt:
        raise Interrupted(shards=len(output.shards())) from interrupt
    plan = plan_output(source, output, fingerprint)
    if plan.finished.keys() != plan.shards.keys():
        missing = plural(len(plan.shards) - len(plan.finished), "shard")
        raise ClipCapError(f"{missing} of {output.index} cannot be seen here; let all workers write to a shared folder")
    finish(plan, plan.finished, output, fingerprint)
    return [failure for number in sorted(plan.finished) for failure in plan.survey.failures[number]]


def _absolute(name: str) -> str:
    """Return the absolute path of a model that is a file or a folder; other names as they are."""
    return str(Path(name).resolve()) if Path(name).exists() else name


def _map(job: Job, count: int, todo: list[int], failures: Failures, progress: Progress) -> None:
    """Make the shards of a plan that are to be written."""
    ray = _start_ray()
    try:
        cpus, gpus = (int(ray.cluster_resources().get(kind, 0)) for kind in ("CPU", "GPU"))
        on_gpus = gpus > 0 and job.device != "cpu"
        count = min(len(todo), count or (gpus if on_gpus else len(ray.nodes())))
        threads = max(1, cpus // count)
        job = replace(job, device="cuda" if on_gpus else "cpu", workers=min(job.workers, threads))
        logger.info(f"Ray: {plural(count, 'worker')} with {'a GPU' if on_gpus else plural(threads, 'core')} each")
        reference = ray.put(job)  # kept here, for workers that are started again
        shards = ray.data.from_items([{"shard": number} for number in todo], override_num_blocks=len(todo))
        made = shards.map_batches(
            RayWorker,
            fn_constructor_args=(reference,),
            batch_size=1,
            concurrency=count,
            num_cpus=None if on_gpus else threads,
            num_gpus=1 if on_gpus else None,
        )
        for row in made.iter_rows():
            if row["error"]:
                raise ClipCapError(row["error"])
            found = [Failure(*failure) for failure in json.loads(row["failures"])]
            for failure in found:
                failures.add(failure)
            progress.advance(row["images"], skipped=len(found))
    except ClipCapError:
        raise
    except Exception as error:  # Ray's own, of many classes
        raise ClipCapError(f"Ray: {one_line(error)[:300]}; run the same command again to continue") from error
    finally:
        ray.shutdown()


def _start_ray() -> Any:
    """Connect to the cluster, or start one on this machine, and keep Ray quiet."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it would report to its makers
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise UsageError("`engine` ray needs Ray; install it: pip install 'ray[data]'") from error
    ray.init(log_to_driver=False, logging_level=logging.ERROR)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    for name in ("ray", "ray.data"):
        logging.getLogger(name).setLevel(logging.ERROR)
    return ray
