"""Which photographs there are: sizes, splits, labels, the long tail and the mistakes in it."""

import hashlib
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from demo.landmarks import TABLES, generator

TRAIN, INDEX, QUERY, NO_MATCH = "train", "index", "query", "query_nomatch"
LABELS = 200_000  # labels are drawn from 0 to here, so that they are not contiguous


@dataclass(frozen=True)
class Size:
    """How much to draw.

    Attributes:
        train_landmarks: Landmarks to learn from.
        most: Photographs of the most photographed of them; the least has 2.
        tail: Exponent of the long tail; larger means more rare landmarks.
        mislabelled: Share of the training photographs that show something else.
        clean: Chance of a correctly labelled photograph to be marked clean.
        test_landmarks: Landmarks with photographs in the index and queries.
        queries: Queries that have a match.
        distractor_landmarks: Landmarks in the index that no query shows.
        stray_landmarks: Landmarks of queries without a match, one photograph each.
        stray_scenes: Queries without a match that show no landmark at all.
    """

    train_landmarks: int = 240
    most: int = 40
    tail: float = 4.3
    mislabelled: float = 0.05
    clean: float = 0.72
    test_landmarks: int = 100
    queries: int = 250
    distractor_landmarks: int = 36
    stray_landmarks: int = 30
    stray_scenes: int = 30


SIZES = {
    "full": Size(),
    "tiny": Size(
        train_landmarks=12,
        most=9,
        tail=1.6,
        test_landmarks=5,
        queries=8,
        distractor_landmarks=2,
        stray_landmarks=2,
        stray_scenes=2,
    ),
}


class Photo(NamedTuple):
    """One photograph of the plan.

    Attributes:
        id: 16 hexadecimal digits.
        split: `train`, `index`, `query` or `query_nomatch`.
        label: The label in the table, which is wrong for a mislabelled photograph.
        landmark: Number of what it shows: a landmark, or a scene where `scene` is set.
        shot: Which photograph of it.
        scene: Whether it shows no landmark.
        is_clean: Whether it belongs to the clean subset.
    """

    id: str
    split: str
    label: int
    landmark: int
    shot: int
    scene: bool = False
    is_clean: bool = True

    @property
    def path(self) -> str:
        """Path relative to the data's folder, with forward slashes."""
        return f"images/{self.label:06d}/{self.id}.jpg"


def plan(size: Size, seed: int) -> list[Photo]:
    """All photographs, sorted by split, label and id; the same for the same size and seed."""
    rng = generator(seed, TABLES)
    total = (
        size.train_landmarks + size.test_landmarks + size.distractor_landmarks
        + size.stray_landmarks + size.stray_scenes
    )  # fmt: skip
    labels = rng.choice(LABELS, total, replace=False).tolist()
    photos = _train(size, seed, labels, rng)
    photos += _test(size, seed, labels, rng)
    return sorted(photos, key=lambda photo: (photo.split, photo.label, photo.id))


def class_counts(size: Size) -> list[int]:
    """Training photographs per landmark, from the most to the least: a long tail."""
    shares = np.linspace(1.0, 0.0, size.train_landmarks)
    return [2 + round((size.most - 2) * float(share) ** size.tail) for share in shares]


def _photo_id(seed: int, landmark: int, shot: int, scene: bool) -> str:
    text = f"{seed}/{'scene' if scene else 'landmark'}/{landmark}/{shot}"
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _train(size: Size, seed: int, labels: list[int], rng: np.random.Generator) -> list[Photo]:
    counts = class_counts(size)
    shots = list(counts)  # the next free shot of every landmark
    wrong = _wrong_places(counts, size.mislabelled, rng)
    next_scene = size.stray_scenes
    photos = []
    for landmark, count in enumerate(counts):
        chance = _clean_chance(count, size.clean, rng)
        for shot in range(count):
            shown, scene = (landmark, shot), False
            if (landmark, shot) in wrong and rng.random() < 0.3:
                shown, scene = (next_scene, 0), True
                next_scene += 1
            elif (landmark, shot) in wrong:
                other = (landmark + int(rng.integers(1, len(counts)))) % len(counts)
                shown = (other, shots[other])
                shots[other] += 1
            clean = (landmark, shot) not in wrong and rng.random() < chance
            name = _photo_id(seed, *shown, scene)
            photos.append(Photo(name, TRAIN, labels[landmark], *shown, scene, bool(clean)))
    return photos


def _wrong_places(
    counts: list[int], share: float, rng: np.random.Generator
) -> set[tuple[int, int]]:
    """(landmark, shot) of the mislabelled, in classes of 4 and more: most of a class is right."""
    places = [(number, shot) for number, count in enumerate(counts) if count >= 4
              for shot in range(count)]  # fmt: skip
    wanted = min(len(places), round(sum(counts) * share))
    chosen = rng.choice(len(places), wanted, replace=False).tolist()
    return {places[position] for position in chosen}


def _clean_chance(count: int, usual: float, rng: np.random.Generator) -> float:
    """The chance of a clean mark; zero for some small classes, which then have no clean image."""
    absent = 0.6 if count <= 3 else 0.15 if count <= 6 else 0.0
    return 0.0 if rng.random() < absent else usual


def _test(size: Size, seed: int, labels: list[int], rng: np.random.Generator) -> list[Photo]:
    first = size.train_landmarks
    photos = []

    def add(split: str, landmark: int, count: int, start: int = 0) -> None:
        for shot in range(start, start + count):
            name = _photo_id(seed, landmark, shot, False)
            photos.append(Photo(name, split, labels[landmark], landmark, shot))

    asked = rng.multinomial(
        size.queries - size.test_landmarks, np.full(size.test_landmarks, 1 / size.test_landmarks)
    )
    for number in range(size.test_landmarks):
        stored = int(rng.integers(3, 11))
        add(INDEX, first + number, stored)
        add(QUERY, first + number, 1 + int(asked[number]), start=stored)
    first += size.test_landmarks
    for number in range(size.distractor_landmarks):
        add(INDEX, first + number, int(rng.integers(2, 5)))
    first += size.distractor_landmarks
    for number in range(size.stray_landmarks):
        add(NO_MATCH, first + number, 1)
    first += size.stray_landmarks
    for number in range(size.stray_scenes):
        name = _photo_id(seed, number, 0, True)
        photos.append(Photo(name, NO_MATCH, labels[first + number], number, 0, scene=True))
    return photos
