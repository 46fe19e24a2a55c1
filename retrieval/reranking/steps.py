"""Steps as text: `k_reciprocal:k1=20,k2=6,lambda_value=0.3`, in the order in which they run.

A recipe holds such texts, and `retrieval/search.py --steps` takes them. Everything is checked when
the text is read, before any work.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TextIO

import named_calls
from progress import format_seconds
from retrieval.reranking.post_processing import STEPS, State

_OF_REFERENCE = ("learned_whitening", "label_aware")


class Step(named_calls.Call):
    """A call of one of `post_processing.STEPS`."""

    def __call__(self, state: State) -> State:
        """Does it."""
        return STEPS[self.name](state, **self.options)


def parse(text: str) -> Step:
    """Reads one step.

    Args:
        text: NAME or NAME:OPTION=VALUE,OPTION=VALUE; what is left out has its default.

    Raises:
        ValueError: if there is no such step or option, a value is of another kind, or one without a
            default is missing.
    """
    call = named_calls.parse(text, STEPS, "a step", given=("state",))
    return Step(call.name, call.options)


def need_reference(texts: Sequence[str]) -> bool:
    """Whether a step is fitted on the labelled set or asks it."""
    steps = [parse(text) for text in texts]
    return any(
        step.name in _OF_REFERENCE or step.options.get("fit_on") == "reference" for step in steps
    )


def run(state: State, texts: Sequence[str], *, stream: TextIO | None = None) -> State:
    """Runs steps one after the other, and the search that is still due at the end.

    Args:
        state: embeddings, and what the steps need besides.
        texts: see `parse`.
        stream: where each step's time goes; None for nowhere.

    Returns:
        The state with answers.

    Raises:
        ValueError: if a step is not understood (before any is run) or lacks what it needs.
    """
    steps = [parse(text) for text in texts]
    for number, step in enumerate(steps, 1):
        started = time.monotonic()
        state = step(state)
        if stream is not None:
            took = format_seconds(time.monotonic() - started)
            print(f"step {number} of {len(steps)}: {step}  {took}", file=stream)
    return state.ranked()
