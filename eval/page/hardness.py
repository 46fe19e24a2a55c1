"""Why a query is hard: rules on its first answers, stated in `RULES` and shown on the page.

Exactly one of the reasons about the answers holds (CONFUSED, TIE, UNLIKE, MIXED or, without
classes, OTHERS); NOTHING and FEW can hold besides. A query without any answer has UNANSWERED alone.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from eval.page.classes import Classes
from eval.page.run import TOP, Run

UNANSWERED, NOTHING, FEW = "unanswered", "nothing similar", "few right images"
CONFUSED, TIE, UNLIKE = "confused with a class", "a tie of near classes", "right images unlike it"
MIXED, OTHERS = "many classes", "other images first"

FEWEST = 3
NEAR = 0.02
QUANTILE = 0.05
_ENOUGH = 20  # right first answers that make the quantile mean something

RULES = {
    UNANSWERED: "there is no prediction for the query.",
    NOTHING: "the first answer is less similar than in 95 % of the queries whose first answer is "
    "right.",
    FEW: f"at most {FEWEST} images of the index are right, and at most half the median of all "
    "queries.",
    CONFUSED: f"at least half of the first {TOP} answers are wrong images of one class, or the "
    f"first answer is, and half of that class (two images or more) is among the first {TOP}.",
    TIE: f"no class is so frequent, and wrong images of at least two classes are within "
    f"{100 * NEAR:.0f} % of the first answer's similarity.",
    UNLIKE: f"at least half of the first {TOP} answers are right; what is missing comes later.",
    MIXED: f"none of these: the first {TOP} answers are of many classes.",
    OTHERS: f"more than half of the first {TOP} answers are wrong, and their classes are not "
    "known.",
}


@dataclasses.dataclass(frozen=True)
class Reasons:
    """Which reasons hold for the Q judged queries.

    Attributes:
        holds: by reason, (Q,) bool.
        rival: (Q,) int64, the class that the query is taken for, or the one with the most wrong
            images among the first answers; -1 if there is none whose class is known.
        rival_count: (Q,) int64, how many.
        shown: (Q,) int64, the number of first answers that were looked at.
        right: (Q,) int64, how many of these are right.
        first: (Q,) float32, the first answer's similarity; NaN without an answer.
        low: the similarity below which NOTHING holds; NaN if there is no rule.
    """

    holds: dict[str, np.ndarray]
    rival: np.ndarray
    rival_count: np.ndarray
    shown: np.ndarray
    right: np.ndarray
    first: np.ndarray
    low: float

    def of(self, row: int) -> list[str]:
        """Returns the reasons that hold for a query, in the order of `RULES`."""
        return [reason for reason in RULES if self.holds[reason][row]]


def find(run: Run, classes: Classes) -> Reasons:
    """Applies the rules to every judged query."""
    relevance = run.relevance
    right = relevance.relevant[:, :TOP]  # (Q, t)
    width = right.shape[1]
    answered = run.answers >= 0
    positions = np.full(right.shape, -1)
    columns = run.positions[run.answers[answered], :width]
    positions[np.flatnonzero(answered), : columns.shape[1]] = columns
    similarities = np.full(right.shape, np.nan, np.float32)
    similarities[answered] = run.similarities[run.answers[answered], :width]
    codes = np.where(positions >= 0, classes.index[positions], -1)
    own = np.where(answered, classes.query[run.answers], -1)
    amounts = np.bincount(classes.index[classes.index >= 0], minlength=1)
    sizes = np.where(codes >= 0, amounts[codes], 0)
    return judge(right, positions >= 0, similarities, codes, sizes, own, relevance.positives)


def judge(
    right: np.ndarray,
    there: np.ndarray,
    similarities: np.ndarray,
    codes: np.ndarray,
    sizes: np.ndarray,
    own: np.ndarray,
    positives: np.ndarray,
) -> Reasons:
    """Applies the rules to arrays.

    Args:
        right: (Q, t) bool, which of the first answers are right.
        there: (Q, t) bool, which of them there are.
        similarities: (Q, t) float32 of the answers, NaN where there is none.
        codes: (Q, t) int64, their classes, -1 where not known.
        sizes: (Q, t) int64, how many images these classes have in the index.
        own: (Q,) int64, the queries' classes, -1 where not known.
        positives: (Q,) int64, right images in the index.
    """
    shown = there.sum(axis=1)
    count_right = right.sum(axis=1)
    rival_images = ~right & (codes >= 0) & (codes != own[:, None])
    same = codes[:, :, None] == codes[:, None, :]  # (Q, t, t)
    counts = (same & rival_images[:, None, :]).sum(axis=2) * rival_images
    # A class of few images cannot fill half of the answers: half of the class is enough then.
    leads = (counts[:, 0] >= 2) & (2 * counts[:, 0] >= sizes[:, 0])
    place = np.where(leads, 0, counts.argmax(axis=1))
    rival_count = np.take_along_axis(counts, place[:, None], axis=1)[:, 0]
    rival = np.where(rival_count > 0, np.take_along_axis(codes, place[:, None], axis=1)[:, 0], -1)
    first = similarities[:, 0]
    low = _low(first, right[:, 0])
    near = rival_images & (similarities >= (first - NEAR * np.abs(first))[:, None])
    # An image is its class's first near one if no near image before it has the same class.
    earlier = np.tril(np.ones(same.shape[1:], bool), -1)
    firsts = near & ~(same & near[:, None, :] & earlier).any(axis=2)

    unanswered = shown == 0
    unlike = 2 * count_right >= shown
    confused = ~unlike & (leads | (2 * rival_count >= shown))
    tie = ~unlike & ~confused & (firsts.sum(axis=1) >= 2)
    known = rival_count > 0
    holds = {
        UNANSWERED: unanswered,
        NOTHING: ~unanswered & (first < low),
        FEW: ~unanswered & (positives <= FEWEST) & (2 * positives <= np.median(positives)),
        CONFUSED: ~unanswered & confused,
        TIE: ~unanswered & tie,
        UNLIKE: ~unanswered & unlike,
        MIXED: ~unanswered & ~unlike & ~confused & ~tie & known,
        OTHERS: ~unanswered & ~unlike & ~confused & ~tie & ~known,
    }
    return Reasons(holds, rival, rival_count, shown, count_right, first, low)


def describe(reasons: Reasons, row: int, classes: Classes, positives: int) -> list[str]:
    """Returns a query's reasons in words with its numbers."""
    shown = int(reasons.shown[row])
    texts = {
        UNANSWERED: "no prediction",
        NOTHING: f"nothing similar: {reasons.first[row]:.3f}, usually above {reasons.low:.3f}",
        FEW: f"few right images: {positives}",
        TIE: "a tie of near classes",
        UNLIKE: f"{int(reasons.right[row])} of the first {shown} are right, others unlike them",
        MIXED: "many classes, none prevails",
        OTHERS: "other images first, classes not known",
    }
    if reasons.rival[row] >= 0:
        name = classes.names[reasons.rival[row]]
        count = int(reasons.rival_count[row])
        texts[CONFUSED] = f"confused with class {name}: {count} of the first {shown}"
    return [texts[reason] for reason in reasons.of(row)]


def counts(reasons: Reasons, among: np.ndarray) -> list[tuple[str, str, int]]:
    """Returns reason, rule and the number of queries it holds for, among some (Q,) bool."""
    found = ((reason, int((reasons.holds[reason] & among).sum())) for reason in RULES)
    return [(reason, RULES[reason], count) for reason, count in found if count]


def _low(first: np.ndarray, right: np.ndarray) -> float:
    """Returns the similarity that 95 % of the right first answers reach."""
    values = first[right]
    return float(np.quantile(values, QUANTILE)) if len(values) >= _ENOUGH else float("nan")
