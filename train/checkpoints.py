r"""The checkpoints of a run: `last`, and `best` by the validation loss or by a metric of captions.

The captions of the validation images are made and scored in the background (score.py). The score of an epoch is decided
on at the end of the next one, at the same place in every run, however fast the thread is:

    training    epoch 1, save `last` | epoch 2                | decide on score 1, save `last` | epoch 3 ...
    background                        \ caption, score epoch 1 /                                \ ...

A score that is there earlier, because `last` is saved within an epoch, is kept in the state until then. `last` at the
end of an epoch has the weights whose score is due, so a run that resumes from it scores them again.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Self

from clipcap.data.errors import CheckpointError
from clipcap.train.engine.distributed import World
from clipcap.train.model.captioning import ClipCapModel
from clipcap.train.model.checkpoint import CheckpointConfig, load_trained, read_config, save_checkpoint
from clipcap.train.run.folder import RunFolder
from clipcap.train.run.reporting import Reporter
from clipcap.train.run.state import State, TrainState, from_files, to_files
from clipcap.train.score import BackgroundScore

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class Checkpoints:
    """Writes and reads the checkpoints of a run, and decides which model is the best.

    A context, inside which a score may be made in the background. Only the first of several processes saves and scores.

    Args:
        folder: folder of the run.
        tokenizer: the tokenizer of the checkpoints.
        config: config.json of the checkpoints, but for their progress.
        metric: `loss`, or a name in `METRICS`.
        scores: makes the scores of that metric, in the first process; else None.
        reporter: reports the scores.
        world: this process among those that train the model.
    """

    def __init__(
        self,
        folder: RunFolder,
        tokenizer: "PreTrainedTokenizerBase",
        config: CheckpointConfig,
        *,
        metric: str,
        scores: BackgroundScore | None,
        reporter: Reporter,
        world: World,
    ) -> None:
        self.folder, self.tokenizer, self.config = folder, tokenizer, config
        self.metric, self.scores, self.reporter, self.world = metric, scores, reporter, world

    def __enter__(self) -> Self:
        if self.scores is not None:
            self.scores.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        if self.scores is not None:
            self.scores.__exit__(*error)

    def load_last(self, model: ClipCapModel) -> State:
        """Load the weights of `last` into a model of its shape, and return the training state beside them.

        Raises:
            CheckpointError: it is damaged, of a model of another shape, or its language model has changed since.
        """
        last = self.folder.last
        stored, now = read_config(last).language_model, self.config.language_model
        if stored.sha256 != now.sha256:
            raise CheckpointError(
                f"{now.name} is not the language model that {last} began with; put the right one back"
            )
        load_trained(last, model, with_lm=now.tuned)
        return from_files(last)

    def save_last(self, model: ClipCapModel, loop: TrainState, state: State) -> None:
        """Write the checkpoint `last`.

        Args:
            model: the model.
            loop: the state of the loop.
            state: all state besides the weights, which `load_last` returns again.

        Raises:
            CheckpointError: it cannot be written. The older one stays.
        """
        config = replace(self.config, progress=self._progress(loop))
        save_checkpoint(self.folder.last, model, self.tokenizer, config, to_files(state))
        self.folder.checkpoint_made()

    def save_best(self, model: ClipCapModel, loop: TrainState) -> None:
        """Write the checkpoint `best`.

        Raises:
            CheckpointError: it cannot be written. The older one stays.
        """
        config = replace(self.config, progress=self._progress(loop))
        save_checkpoint(self.folder.best, model, self.tokenizer, config)

    def decide_by_loss(self, loop: TrainState, loss: float | None) -> bool:
        """Take over the validation loss of an epoch; return whether its model is the best so far.

        Args:
            loop: the state of the loop, which is changed: its `best`, and with `metric` loss `epochs_since_best`.
            loss: the validation loss, in nats a token; None without validation. The newest model is then the best.
        """
        lowest = loss is None or loop.best is None or loss < loop.best
        if lowest:
            loop.best = loss
        if self.metric != "loss":
            return False
        loop.epochs_since_best = 0 if lowest else loop.epochs_since_best + 1
        return lowest

    def start_score(self, loop: TrainState, model: ClipCapModel) -> None:
        """Start to score the model of the last epoch, if its score is due and not there yet."""
        if self.scores is not None and loop.score_step is not None and loop.score is None:
            self.scores.start(model)

    def collect_score(self, loop: TrainState) -> None:
        """Wait for the score that is being made, keep it in the state, and write `best` if it is the highest so far.

        This is done before `last` is saved. Other processes than the first have no scores before `decide_by_score`.

        Raises:
            ClipCapError: the captions could not be scored, or `best` cannot be written.
        """
        if self.scores is None or not self.scores.running:
            return
        score, model = self.scores.result()
        if _is_higher(score, loop):
            assert loop.score_step is not None
            self.save_best(model, replace(loop, step=loop.score_step, best_score=score))
        loop.score = score

    def decide_by_score(self, loop: TrainState) -> None:
        """Report the score of the last epoch, which `collect_score` has kept, and take it over in all processes."""
        if loop.score_step is None:
            return
        score = self.world.broadcast(loop.score)
        assert score is not None
        best = _is_higher(score, loop)
        self.reporter.score(self.metric, score, step=loop.score_step, epoch=loop.epoch, best=best)
        loop.epochs_since_best = 0 if best else loop.epochs_since_best + 1
        loop.best_score = score if best else loop.best_score
        loop.score = loop.score_step = None

    def wait_for_score(self, stopped: Callable[[], bool]) -> bool:
        """Wait for the score that is being made until `stopped` returns True; return whether it is there."""
        return self.scores is None or not self.scores.running or self.scores.wait(stopped)

    def _progress(self, loop: TrainState) -> dict[str, Any]:
        """Return the progress that config.json records."""
        progress = {"step": loop.step, "epoch": loop.epoch, "best_val_loss": loop.best}
        if self.metric == "loss":
            return progress
        return {**progress, "metric": self.metric, f"best_val_{self.metric}": loop.best_score}


def _is_higher(score: float, loop: TrainState) -> bool:
    return loop.best_score is None or score > loop.best_score
