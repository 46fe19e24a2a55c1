"""The table of metrics: values with their intervals, and what each of them means."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping

from eval import ranking_metrics
from eval.page.run import Run
from eval.recognition import Recognized
from eval.scores import Score

HEADLINE = ("map_at_100", "recall_at_1", "gap", "recall_at_10")
HEADLINES = 3

# label and meaning by name; {k} is the number at the end of the name
_METRICS = {
    "map_at": ("mAP@{k}", "mean average precision of the first {k}: AP divided by min(right, {k})"),
    "gap": ("GAP", "global average precision of recognition: all queries by falling score"),
    "top_1": ("top-1", "share of the queries with a label that get a right one"),
    "recall_at_1": ("R@1", "share of the queries whose first image is right"),
    "recall_at": ("R@{k}", "share of the queries with a right image among the first {k}"),
    "precision_at": ("P@{k}", "mean share of right images among the first {k}"),
    "share_of_relevant_at": ("found@{k}", "mean share of the right images among the first {k}"),
    "r_precision": ("R-precision", "share of right images among the first R, R right ones exist"),
    "map_at_r": ("MAP@R", "average precision of the first R, as in metric learning"),
    "digix_score": ("DIGIX", "half R@1 and half mAP@10"),
    "mean_position": ("mean position", "rank of the first right image; {none} if there is none"),
    "median_position": ("median position", "the same, in the middle of all queries"),
}
_LEFT_OUT = ("precision_at_1",)  # the same as recall_at_1


@dataclasses.dataclass(frozen=True)
class Metric:
    """One line of the table.

    Attributes:
        name: of the metric in `eval.metrics`.
        label: its usual name.
        value: as shown.
        interval: the bounds as shown, "" for none.
        meaning: in words.
        bar: left end, right end and value in percent of 0 to 1; None for a rank.
    """

    name: str
    label: str
    value: str
    interval: str
    meaning: str
    bar: tuple[float, float, float] | None


def compute(run: Run, judged: Recognized | None, bootstrap: int) -> dict[str, Score]:
    """Returns all metrics by name, with intervals if `bootstrap` is not 0."""
    depth = run.relevance.relevant.shape[1]
    scores = ranking_metrics.summary(run.relevance, depth, bootstrap=bootstrap)
    if judged is not None:
        scores = {
            "gap": judged.gap(bootstrap=bootstrap),
            "top_1": judged.top_1(bootstrap=bootstrap),
            **scores,
        }
    return scores


def lines(scores: Mapping[str, Score], depth: int) -> list[Metric]:
    """Returns the lines of the table in the order of `_METRICS`."""
    found = [_line(name, score, depth) for name, score in scores.items() if name not in _LEFT_OUT]
    order = list(_METRICS)
    return sorted(found, key=lambda line: order.index(_family(line.name)[0]))


def headline(table: list[Metric]) -> list[Metric]:
    """Returns the lines that stand at the top of the page: mAP@100, R@1 and GAP (or R@10)."""
    by_name = {line.name: line for line in table}
    return [by_name[name] for name in HEADLINE if name in by_name][:HEADLINES]


def _family(name: str) -> tuple[str, str]:
    """Returns ("recall_at", "5") for "recall_at_5"."""
    found = None if name in _METRICS else re.fullmatch(r"(.*_at)_(\d+)", name)
    return (found[1], found[2]) if found else (name, "")


def _line(name: str, score: Score, depth: int) -> Metric:
    family, k = _family(name)
    label, meaning = (text.format(k=k, none=depth + 1) for text in _METRICS[family])
    is_rank = name.endswith("position")
    as_text = "{:.1f}".format if is_rank else "{:.3f}".format
    bounds = score.interval
    interval = "" if bounds is None else " to ".join(map(as_text, bounds))
    low, high = (float(score), float(score)) if bounds is None else bounds
    bar = None if is_rank else tuple(round(100 * value, 2) for value in (low, high, score))
    return Metric(name, label, as_text(score), interval, meaning, bar)
