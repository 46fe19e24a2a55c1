"""How long a stage trains, and at which steps the host looks."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Plan:
    """The steps of a stage.

    What is logged, and at which steps, follows from `log_every` and the epochs alone. How many
    steps the device does between two looks of the host follows from the clock: see `LoopLength`.

    Attributes:
        stage: its number, for the reports.
        total_steps: steps of the stage.
        steps_per_epoch: validation comes after each epoch.
        log_every: steps between two lines of the log, counted from the start of each epoch; the
            end of an epoch has one as well.
        retrieval_every: epochs between two measurements of retrieval; 0 for none.
        profile: the first and the last step that TensorFlow's profiler records, counted from 1.
        loop_seconds: the longest that the devices are left alone. A signal to stop is seen after
            that time, and what a pre-emption leaves of its 30 s remains for the checkpoint.
        checkpoint_seconds: least time between two checkpoints.
        checkpoint_share: share of the time that may go into checkpoints; the next one is due
            1/share times as long after the last as that took to write.
    """

    stage: int
    total_steps: int
    steps_per_epoch: int
    log_every: int = 100
    retrieval_every: int = 0
    profile: tuple[int, int] | None = None
    loop_seconds: float = 5.0
    checkpoint_seconds: float = 10.0
    checkpoint_share: float = 0.02

    def __post_init__(self):
        if self.log_every < 1:
            raise ValueError(f"--log-every: expected at least 1. Received: {self.log_every}")
        for name in ("retrieval_every", "checkpoint_seconds"):
            if getattr(self, name) < 0:
                option = f"--{name.replace('_', '-')}"
                raise ValueError(f"{option}: expected at least 0. Received: {getattr(self, name)}")

    def next_report(self, step: int) -> int:
        """Returns the first step after `step` that has a line in the log."""
        done = step % self.steps_per_epoch
        in_epoch = (done // self.log_every + 1) * self.log_every
        end = step - done + min(in_epoch, self.steps_per_epoch)
        return min(end, self.total_steps)

    def next_stop(self, step: int, steps: int) -> int:
        """Returns where a loop of at most `steps` steps that begins at `step` ends."""
        end = min(step + steps, self.next_report(step))
        if self.profile:
            first, last = self.profile
            end = min([end, *(edge for edge in (first - 1, last) if step < edge)])
        return end

    def is_report(self, step: int) -> bool:
        """Whether the log has a line of this step."""
        return step > 0 and self.next_report(step - 1) == step

    def is_epoch_end(self, step: int) -> bool:
        """Whether an epoch ends with this step."""
        return step > 0 and (step % self.steps_per_epoch == 0 or step == self.total_steps)

    def measures_retrieval(self, step: int) -> bool:
        """Whether retrieval is measured at this end of an epoch."""
        if not self.retrieval_every:
            return False
        epochs = step // self.steps_per_epoch
        return epochs % self.retrieval_every == 0 or step == self.total_steps


class LoopLength:
    """The number of steps for the next loop, so that it takes about so many seconds.

    The first loop, which compiles, is one step, and so is the second, the first that can be
    timed; then a loop has at most twice the steps of the one before. A step that takes longer
    than `seconds` is a loop of its own.

    Args:
        seconds: that a loop should take.

    Attributes:
        steps: of the next loop.
    """

    def __init__(self, seconds: float):
        self._seconds = seconds
        self._timed = False
        self.steps = 1

    def adapt(self, steps: int, seconds: float) -> None:
        """Takes note of a loop of `steps` steps that took `seconds`."""
        if not self._timed:
            self._timed = True
            return
        fitting = int(self._seconds * steps / max(seconds, 1e-6))
        self.steps = max(1, min(2 * steps, fitting))
