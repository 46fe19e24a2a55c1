"""Losses across a batch by their formulas, one pair at a time, in float64.

`references` is (embeddings, labels) to compare the batch with; None is the batch itself.
"""

import math

import numpy as np


def units(x):
    norms = np.linalg.norm(x, axis=1, keepdims=True)
    return x / np.maximum(norms, 1e-6)


def others(i, labels, references):
    """Yields the rows that anchor i is compared with, and whether their class is its own."""
    own, classes = references is None, labels if references is None else references[1]
    for j, label in enumerate(classes):
        if not (own and i == j):
            yield j, label == labels[i]


def rows_of(x, references):
    return x if references is None else np.asarray(references[0], float)


def contrastive(x, labels, positive_margin=0.0, negative_margin=1.0, references=None):
    rows, x = units(rows_of(x, references)), units(x)
    far, near = [], []
    for i in range(len(x)):
        for j, same in others(i, labels, references):
            distance = np.linalg.norm(x[i] - rows[j])
            value = distance - positive_margin if same else negative_margin - distance
            if value > 0:
                (far if same else near).append(value)
    return sum(sum(values) / max(len(values), 1) for values in (far, near))


def circle(x, labels, margin=0.4, scale=80.0, references=None, constant=None):
    """`constant`: the embeddings whose cosines the weights are of; they have no gradient."""
    constant = x if constant is None else constant
    held_rows, constant = units(rows_of(constant, references)), units(constant)
    rows, x = units(rows_of(x, references)), units(x)
    losses = []
    for i in range(len(x)):
        sums = {True: 0.0, False: 0.0}
        for j, same in others(i, labels, references):
            cosine, held = x[i] @ rows[j], constant[i] @ held_rows[j]
            if same:
                exponent = -max(0, 1 + margin - held) * (cosine - (1 - margin))
            else:
                exponent = max(0, held + margin) * (cosine - margin)
            sums[same] += math.exp(scale * exponent)
        if all(sums.values()):
            losses.append(math.log1p(sums[True] * sums[False]))
    losses = [loss for loss in losses if loss > 0]
    return sum(losses) / max(len(losses), 1)


def multi_similarity(x, labels, alpha=2.0, beta=50.0, base=0.5, epsilon=None, references=None):
    rows, x = units(rows_of(x, references)), units(x)
    total = 0.0
    for i in range(len(x)):
        own = {True: [], False: []}
        for j, same in others(i, labels, references):
            own[same].append(x[i] @ rows[j])
        pulled, pushed = own[True], own[False]
        if epsilon is not None:
            pulled = [s for s in own[True] if own[False] and s < max(own[False]) + epsilon]
            pushed = [s for s in own[False] if own[True] and s > min(own[True]) - epsilon]
        total += math.log1p(sum(math.exp(alpha * (base - s)) for s in pulled)) / alpha
        total += math.log1p(sum(math.exp(beta * (s - base)) for s in pushed)) / beta
    return total / len(x)


def triplet(x, labels, margin=0.3, references=None):
    rows, total = rows_of(x, references), 0.0
    for i in range(len(x)):
        distances = {True: [], False: []}
        for j, same in others(i, labels, references):
            distances[same].append(np.linalg.norm(x[i] - rows[j]))
        if not all(distances.values()):
            continue
        difference = max(distances[True]) - min(distances[False])
        soft = margin == "soft"
        total += math.log1p(math.exp(difference)) if soft else max(0.0, margin + difference)
    return total / len(x)


def gradient(function, x, step=1e-6):
    """Returns the gradient of a function of one array by central differences."""
    x = np.asarray(x, np.float64)
    slopes = np.zeros_like(x)
    for place in np.ndindex(x.shape):
        ahead, behind = x.copy(), x.copy()
        ahead[place] += step
        behind[place] -= step
        slopes[place] = (function(ahead) - function(behind)) / (2 * step)
    return slopes
