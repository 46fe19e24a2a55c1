"""A finished detector: from images to boxes above a threshold, with non-maximum suppression."""

import dataclasses
import json
import os
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

import files
from detection.inputs import place
from detection.network import BOX_VALUES, points
from models.storage import load_model

INFO_NAME = "detector.json"
MODEL_NAME = "model.keras"


@dataclasses.dataclass(frozen=True)
class Info:
    """What `detector.json` says of a detector.

    Attributes:
        classes: their names; the position is the number.
        image_size: side S of the canvas.
        levels: of the pyramid.
    """

    classes: tuple[str, ...]
    image_size: int
    levels: int

    @classmethod
    def load(cls, folder: str) -> "Info":
        """Reads it; FileNotFoundError if there is no finished detector, ValueError if damaged."""
        for name in (INFO_NAME, MODEL_NAME):
            path = os.path.join(folder, name)
            if not files.exists(path):
                raise FileNotFoundError(
                    f"expected the workdir of a finished detection/fit.py. Received: {folder}, "
                    f"which has no {name}"
                )
        path = os.path.join(folder, INFO_NAME)
        try:
            fields = json.loads(files.read(path))
            return cls(tuple(fields["classes"]), fields["image_size"], fields["levels"])
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path}: expected what detection/fit.py writes: {error}") from error

    def save(self, folder: str) -> None:
        """Writes it."""
        text = json.dumps(dataclasses.asdict(self), indent=1) + "\n"
        files.write_text(os.path.join(folder, INFO_NAME), text)


@dataclasses.dataclass(frozen=True)
class Detections:
    """What was found in one image, the highest score first.

    Attributes:
        boxes: (n, 4) float32 xmin, ymin, xmax, ymax in the image's pixels.
        scores: (n,) float32 in [0, 1].
        labels: n names of classes.
    """

    boxes: np.ndarray
    scores: np.ndarray
    labels: tuple[str, ...]


class Detector:
    """Finds objects in images of any size.

    Args:
        folder: workdir of `detection/fit.py`.
        threshold: lowest score. The quality is part of it, so that few are above 0.9.
        max_boxes: most boxes of an image.
        overlap: a box that overlaps one of a higher score and its class by more is left out.
        batch_size: images per call of the network; the last batch is filled up.

    Raises:
        FileNotFoundError: there is no finished detector.
    """

    def __init__(
        self,
        folder: str,
        *,
        threshold: float = 0.6,
        max_boxes: int = 20,
        overlap: float = 0.6,
        batch_size: int = 8,
    ):
        for name, value in (("threshold", threshold), ("overlap", overlap)):
            if not 0 <= value <= 1:
                raise ValueError(f"{name}: expected a number from 0 to 1. Received: {value}")
        self.info = Info.load(folder)
        self.batch_size = batch_size
        model = load_model(os.path.join(folder, MODEL_NAME))
        places, _ = points(self.info.image_size, self.info.levels)

        @tf.function(jit_compile=False)  # suppression has no XLA form on CPUs
        def detect(canvases):
            outputs = model(canvases, training=False)
            return decode(
                outputs, places, threshold=threshold, max_boxes=max_boxes, overlap=overlap
            )

        self._detect = detect

    def __call__(self, images: Sequence[np.ndarray]) -> list[Detections]:
        """Detects in uint8 `(H, W, 3)` RGB images; one result for each."""
        size, results = self.info.image_size, []
        for first in range(0, len(images), self.batch_size):
            part = images[first : first + self.batch_size]
            canvases = np.zeros((self.batch_size, size, size, 3), np.uint8)
            for row, image in zip(canvases, part, strict=False):
                row[:] = canvas(image, size)
            boxes, scores, classes, counts = (x.numpy() for x in self._detect(canvases))
            for row, image in enumerate(part):
                found = slice(0, int(counts[row]))
                results.append(
                    Detections(
                        _in_pixels(boxes[row, found], image, size),
                        scores[row, found],
                        tuple(self.info.classes[int(c)] for c in classes[row, found]),
                    )
                )
        return results


def canvas(image: np.ndarray, size: int) -> np.ndarray:
    """Returns uint8 `(S, S, 3)`: the image as large as fits, in the top left corner."""
    slack = tf.zeros((2,))
    return place(image, tf.zeros((0, 5)), size=size, scale=1.0, slack=slack)[0].numpy()


def _in_pixels(boxes: np.ndarray, image: np.ndarray, size: int) -> np.ndarray:
    height, width = image.shape[:2]
    ratio = size / max(height, width)
    scaled = np.maximum(np.round(np.array([width, height], np.float32) * np.float32(ratio)), 1)
    factors = np.tile(np.array([width, height], np.float32) / scaled, 2)
    return np.clip(boxes * factors, 0, np.array([width, height] * 2, np.float32))


def decode(
    outputs, places: np.ndarray, *, threshold: float, max_boxes: int, overlap: float
) -> tuple[tf.Tensor, ...]:
    """Turns the network's outputs into boxes, of static shapes.

    A score is the root of the probability of the class times the quality.

    Args:
        outputs: `(B, P, C + 5)`, see `network.build_detector`.
        places: `(P, 2)`.
        threshold, max_boxes, overlap: see `Detector`.

    Returns:
        Boxes `(B, max_boxes, 4)` xmin, ymin, xmax, ymax on the canvas; scores and classes
        `(B, max_boxes)`; their number `(B,)`, after which come zeros.
    """
    outputs = tf.cast(outputs, tf.float32)
    num_classes = outputs.shape[-1] - BOX_VALUES
    logits, distances, quality = tf.split(outputs, [num_classes, 4, 1], axis=-1)
    scores = tf.sqrt(tf.sigmoid(logits) * tf.sigmoid(quality))  # (B, P, C)
    corners = tf.concat([places - distances[..., :2], places + distances[..., 2:]], axis=-1)
    boxes, kept, classes, counts = tf.image.combined_non_max_suppression(
        tf.gather(corners, [1, 0, 3, 2], axis=-1)[:, :, None],
        scores,
        max_output_size_per_class=max_boxes,
        max_total_size=max_boxes,
        iou_threshold=overlap,
        score_threshold=threshold,
        clip_boxes=False,
    )
    return tf.gather(boxes, [1, 0, 3, 2], axis=-1), kept, classes, counts
