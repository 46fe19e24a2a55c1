"""What goes wrong in a training and shows in its log, with likely causes."""

import dataclasses
import math
from collections.abc import Sequence

FEWEST_STEPS, MOST_STEPS, EPOCHS = 200, 3000, 3
SPREAD = 3.0  # standard deviations of the accuracy of guesses
NEAR_GUESS = 0.9  # share of ln C
COLLAPSED = 0.98  # mean cosine of all pairs of embeddings; of a random network 0.9 and more too
NEAR_TARGET = 0.9  # target cosine that goes with a low loss
RUNAWAY = 4.0  # times the first scale
WAITING, WARM_UP = 0.2, 60.0  # of the time; seconds of a stage in which buffers fill


@dataclasses.dataclass(frozen=True)
class Alarm:
    """Something that will not get better by waiting.

    Attributes:
        cause: a word; each is raised once in a stage.
        message: what was seen, and what it may come from.
    """

    cause: str
    message: str


class Alarms:
    """Looks at the lines of a stage's log, in their order.

    What it raises follows from these lines alone, so that a run that goes on from a checkpoint,
    and shows it the lines before, raises what a run in one piece does.

    - "chance": from step P on, P = 3 epochs, at least 200 and at most 3,000 steps: the accuracy
      over the last P / 2 steps is at most 1/C and three standard deviations of guessing, and the
      loss at least 0.9 ln C.
    - "collapse": from step P on, all embeddings of the held-out images point the same way (mean
      cosine of pairs above 0.98), or so do those of the training images and the class centres
      (target cosine above 0.9 with an accuracy of chance).
    - "scale": s is 4 times that of the first line. Of a training without a scale and a target
      cosine these two alarms are left out.
    - "input": in two lines in a row, after the first minute, a fifth of the time or more was
      spent waiting for batches.

    Args:
        num_classes: C.
        batch_size: images per step.
        steps_per_epoch: steps of an epoch.
    """

    def __init__(self, *, num_classes: int, batch_size: int, steps_per_epoch: int):
        self._num_classes = num_classes
        self._batch_size = batch_size
        self.patience = max(FEWEST_STEPS, min(EPOCHS * steps_per_epoch, MOST_STEPS))
        self._epoch = steps_per_epoch
        self._rows: list[dict] = []  # with "steps"
        self._first_scale = None
        self._raised: set[str] = set()

    def see(self, row: dict) -> list[Alarm]:
        """Returns what the next line of the log gives reason for."""
        found = []
        if row["event"] == "train":
            self._keep(row)
            found = [self._chance(), self._aligned(), self._scale(row), self._input()]
        elif row["event"] == "retrieval":
            found = [self._collapse(row)]
        new = [alarm for alarm in found if alarm and alarm.cause not in self._raised]
        self._raised |= {alarm.cause for alarm in new}
        return new

    def _keep(self, row):
        before = self._rows[-1]["step"] if self._rows else 0
        self._rows.append({**row, "steps": row["step"] - before})
        oldest = row["step"] - self.patience // 2
        self._rows = [kept for kept in self._rows[:-2] if kept["step"] > oldest] + self._rows[-2:]
        if self._first_scale is None:
            self._first_scale = row.get("scale")

    def _mean(self, name: str) -> float:
        steps = sum(row["steps"] for row in self._rows)
        return sum(row[name] * row["steps"] for row in self._rows) / max(steps, 1)

    def _is_guess(self) -> bool:
        """Whether the accuracy is what guessing gives."""
        chance = 1 / self._num_classes
        images = self._batch_size * sum(row["steps"] for row in self._rows)
        deviation = math.sqrt(chance * (1 - chance) / images)
        return self._mean("accuracy") <= chance + SPREAD * deviation

    def _is_late(self, row: dict) -> bool:
        return row["step"] >= self.patience

    def _chance(self) -> Alarm | None:
        row, guess = self._rows[-1], math.log(self._num_classes)
        loss = self._mean("loss")
        if not (self._is_late(row) and self._is_guess() and loss >= NEAR_GUESS * guess):
            return None
        return Alarm(
            "chance",
            f"the accuracy stays at chance: {self._mean('accuracy'):.2g} after {row['step']} steps "
            f"({row['step'] / self._epoch:.1f} epochs), where guessing gives 1/C = "
            f"{1 / self._num_classes:.2g}; the loss is {loss:.3g}, ln C is {guess:.3g}. Likely: a "
            f"learning rate too high or too low (it is {row['learning_rate']:.2g}), labels that do "
            "not belong to the images, images that show nothing (see batch.png), a backbone "
            "without its weights",
        )

    def _aligned(self) -> Alarm | None:
        row = self._rows[-1]
        if not all("target_cosine" in kept for kept in self._rows):
            return None
        cosine = self._mean("target_cosine")
        if not (self._is_late(row) and self._is_guess() and cosine > NEAR_TARGET):
            return None
        return _collapse_alarm(
            f"images and class centres all point the same way: the target cosine is {cosine:.3f} "
            "while the accuracy is that of guessing"
        )

    def _collapse(self, row: dict) -> Alarm | None:
        if not self._is_late(row) or row["mean_cosine"] <= COLLAPSED:
            return None
        return _collapse_alarm(
            f"all embeddings point the same way: the mean cosine of two held-out images is "
            f"{row['mean_cosine']:.3f}"
        )

    def _scale(self, row: dict) -> Alarm | None:
        if "scale" not in row or row["scale"] <= RUNAWAY * self._first_scale:
            return None
        return Alarm(
            "scale",
            f"the scale runs away: s = {row['scale']:.3g} at step {row['step']}, "
            f"{self._first_scale:.3g} at the beginning. Likely: many wrong labels or a learning "
            "rate too high; --set model.scale=adacos_fixed keeps it where it began",
        )

    def _input(self) -> Alarm | None:
        shares = [row.get("input_wait", 0.0) for row in self._rows[-2:]]
        is_early = self._rows[-1].get("seconds", 0.0) < WARM_UP
        if is_early or len(shares) < 2 or min(shares) < WAITING:
            return None
        ratio = 1 / max(1 - shares[-1], 1e-3)
        return Alarm(
            "input",
            f"the input is slower than the step: the devices wait {shares[-1]:.0%} of the time, a "
            f"batch takes {ratio:.1f} times as long to make as to train on. Likely: photographs "
            "much larger than the input (write shards of smaller ones), costly augmentation, few "
            "CPU cores, or storage that is far away",
        )


def _collapse_alarm(seen: str) -> Alarm:
    return Alarm(
        "collapse",
        f"{seen}. Likely: a learning rate too high, a margin too large for the beginning, or "
        "images that all look alike after augmentation (see batch.png)",
    )


def not_finite(message: str, ids: Sequence[str]) -> Alarm:
    """Returns the alarm of a step whose loss or gradient is not a number."""
    shown = ", ".join(ids[:8]) + (f" and {len(ids) - 8} more (log.jsonl)" if len(ids) > 8 else "")
    return Alarm("not finite", f"{message}. Images of that batch: {shown or 'not known'}")
