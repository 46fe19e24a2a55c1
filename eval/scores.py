"""A metric's value with its interval: means over queries and the bootstrap, for all metrics."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

INTERVAL = (0.025, 0.975)  # quantiles of the 95 % interval


class Score(float):
    """A metric's value, with the bounds of its 95 % confidence interval or None."""

    interval: tuple[float, float] | None

    def __new__(cls, value: float, interval: tuple[float, float] | None = None) -> Score:
        """Makes the float and hangs the interval on it."""
        score = super().__new__(cls, value)
        score.interval = interval
        return score


def mean(values: np.ndarray, *, bootstrap: int = 0, seed: int = 0) -> Score:
    """Returns the mean of one value per query; see `means`."""
    return means({"": values}, bootstrap=bootstrap, seed=seed)[""]


def means(
    columns: Mapping[str, np.ndarray], *, bootstrap: int = 0, seed: int = 0
) -> dict[str, Score]:
    """Returns the means over the queries, all intervals from the same resamplings.

    Args:
        columns: by name, one value per query (Q,). A query with NaN has no value there: it is left
            out of the mean of that column and of its resamplings.
        bootstrap: the number of resamplings of the queries for the interval; 0 for none.
        seed: of the resamplings.

    Returns:
        By name the mean, NaN without any query. The interval is the percentile bootstrap's (Efron,
        1979), at 95 %.
    """
    table = np.stack([np.asarray(c, np.float64) for c in columns.values()], axis=1)  # (Q, M)
    known = ~np.isnan(table)
    table = np.where(known, table, 0.0)
    counts = known.sum(axis=0)
    values = _divide(table.sum(axis=0), counts)
    if not bootstrap:
        return {name: Score(value) for name, value in zip(columns, values.tolist(), strict=True)}
    both = np.concatenate([table, known], axis=1)  # (Q, 2 M): what is summed, what is counted
    sums = np.array([times @ both for times in draws(len(table), bootstrap, seed)])
    resampled = _divide(sums[:, : len(values)], sums[:, len(values) :])  # (bootstrap, M)
    return {
        name: Score(value, interval(column))
        for name, value, column in zip(columns, values.tolist(), resampled.T, strict=True)
    }


def complement(score: Score) -> Score:
    """Returns 1 - score with its interval, such as the error of an accuracy."""
    bounds = score.interval
    return Score(1 - score, None if bounds is None else (1 - bounds[1], 1 - bounds[0]))


def draws(count: int, bootstrap: int, seed: int) -> Iterator[np.ndarray]:
    """Yields how often each query is drawn, (count,) float64, for every resampling.

    `count` queries are drawn with replacement. Equal seeds give equal drawings, so that metrics and
    runs that share a seed are resampled together.

    Raises:
        ValueError: if `bootstrap` is not positive.
    """
    if bootstrap < 1:
        raise ValueError(f"expected a positive number of resamplings. Received: {bootstrap}")
    rng = np.random.default_rng(seed)
    for _ in range(bootstrap):
        drawn = rng.integers(count, size=count) if count else np.zeros(0, np.int64)
        yield np.bincount(drawn, minlength=count).astype(np.float64)


def interval(values: np.ndarray) -> tuple[float, float]:
    """Returns the 95 % percentile interval of resampled values.

    A resampling without a value (NaN: no query in it counts) is passed over.
    """
    values = values[~np.isnan(values)]
    if not len(values):
        return float("nan"), float("nan")
    low, high = np.quantile(values, INTERVAL)
    return float(low), float(high)


def _divide(sums: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Returns sums / counts, NaN where the count is 0."""
    return np.divide(sums, counts, out=np.full(sums.shape, np.nan), where=counts > 0)
