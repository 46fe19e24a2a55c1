"""The loop of a stage on the host: train, report, save, look at the held-out images, stop."""

import time
from collections.abc import Callable, Iterable, Iterator

from training import alarms
from training.checkpoints import Checkpoints
from training.hosts import Hosts
from training.interval import IntervalSums
from training.measured import Pace
from training.plan import LoopLength, Plan
from training.profiling import Profile
from training.reporting import Reporter, Silence
from training.stop_signal import InterruptedPassError, StoppedError, StopSignal
from training.trainer import NonFiniteError, Trainer


class StageLoop:
    """Goes on from where the trainer stands to the end of the stage.

    What is done at which step follows from the plan and the log, except for the length of the
    device loops and the moments of the checkpoints, which change no result.

    Args:
        trainer: with the state restored.
        plan: see `Plan`.
        reporter: of the same stage.
        checkpoints: where the state goes; the chief alone writes it.
        interval: the sums of the trainer, which are part of the state.
        checks: by the name of their event, (what measures, what reports) at ends of epochs.
        stop: the signal.
    """

    def __init__(
        self,
        trainer: Trainer,
        plan: Plan,
        reporter: Reporter | Silence,
        *,
        checkpoints: Checkpoints,
        interval: IntervalSums,
        checks: dict[str, tuple[Callable[[Callable], dict], Callable]],
        stop: StopSignal,
    ):
        self._trainer = trainer
        self._plan = plan
        self._reporter = reporter
        self._checkpoints = checkpoints
        self._interval = interval
        self._checks = checks
        self._stop = stop
        self._together = Hosts(trainer.strategy)
        self._length = LoopLength(plan.loop_seconds)
        self._paces: list[Pace] = []
        self._compiled = False
        self._due = self._started = time.monotonic()
        self.saving = 0.0  # seconds

    @property
    def saving_share(self) -> float:
        """The share of the time so far that went into checkpoints."""
        return self.saving / max(time.monotonic() - self._started, 1e-9)

    def run(self, batches: Iterator, profile: Profile) -> None:
        """Trains to the end.

        Raises:
            StoppedError: a signal asked for it; everything is saved.
            NonFiniteError: a step's loss or gradient was not finite; nothing is saved after it.
            StorageError: the log or a checkpoint cannot be written.
        """
        self._check()
        try:
            while self._trainer.step < self._plan.total_steps:
                profile.at(self._trainer.step)
                self._train(batches)
                self._save_or_stop()
                self._check()
        finally:
            profile.stop()

    def _train(self, batches: Iterator) -> None:
        trainer, plan = self._trainer, self._plan
        first = trainer.step
        steps = plan.next_stop(first, self._length.steps) - first
        started = time.monotonic()
        result = trainer.train(batches, steps, go_on=not (first == 0 or plan.is_report(first)))
        seconds = time.monotonic() - started
        self._length.adapt(steps, seconds)
        self._paces.append(Pace(steps, seconds, trainer.waited))
        if plan.is_report(trainer.step):
            self._reporter.train(trainer.step, result, self._pace())

    def _pace(self) -> Pace:
        """Returns the sums since the last report, without the first loop, which compiles."""
        paces, self._paces = self._paces, []
        if not self._compiled and len(paces) > 1:
            paces = paces[1:]
        self._compiled = True
        return Pace(
            sum(pace.steps for pace in paces),
            sum(pace.seconds for pace in paces),
            sum(pace.waited for pace in paces),
        )

    def _save_or_stop(self) -> None:
        step, total = self._trainer.step, self._plan.total_steps
        is_due = time.monotonic() >= self._due or step >= total
        # One number, so that hosts have one thing to agree on: stop? save? how many steps next?
        word = int(self._stop.asked) | int(is_due) << 1 | self._length.steps << 2
        words = self._together.gather(word)
        asked = any(number & 1 for number in words)
        self._length.steps = min(number >> 2 for number in words)
        if asked or words[0] >> 1 & 1:
            self._save()
        if asked:
            self._end_stopped()

    def _save(self) -> None:
        self._interval.collect()
        if not self._together.is_chief:
            return
        started = time.monotonic()
        self._reporter.sync()  # a log that is behind its checkpoint would have a gap for ever
        self._checkpoints.save()
        took = time.monotonic() - started
        self.saving += took
        wait = max(self._plan.checkpoint_seconds, took / self._plan.checkpoint_share)
        self._due = time.monotonic() + wait

    def _end_stopped(self) -> None:
        self._together.wait()  # a host that ends early would end the others while they save
        text = f"stage {self._plan.stage} is saved at step {self._trainer.step}"
        # Now, since tf.data may take up to a minute to end its threads.
        print(text, flush=True)
        raise StoppedError(text)

    def _check(self) -> None:
        """Looks at the held-out images, unless the log has it from before a stop."""
        step = self._trainer.step
        if not self._plan.is_epoch_end(step):
            return
        for event, (measure, report) in self._checks.items():
            is_off = event == "retrieval" and not self._plan.measures_retrieval(step)
            if is_off or self._together.gather(int(self._reporter.has(event, step)))[0]:
                continue
            try:
                report(step, measure(self._watched))
            except InterruptedPassError:
                self._save()
                self._end_stopped()

    def _watched(self, batches: Iterable) -> Iterable:
        """Lets a signal end a pass; several hosts end it together, after it."""
        return batches if self._together.count > 1 else self._stop.watched(batches)


def explain(
    error: NonFiniteError, reporter: Reporter | Silence, ids_of: Callable[[int], list[str]] | None
) -> NonFiniteError:
    """Logs the alarm of a step that is not finite; returns the error with the batch named."""
    ids = ids_of(error.step) if ids_of else []
    alarm = alarms.not_finite(str(error), ids)
    reporter.alarm(error.step, alarm, ids=ids)
    reporter.close()
    error.args = (alarm.message,)
    return error
