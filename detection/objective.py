"""What a training step of the detector computes: targets of the points, and the loss."""

import keras
import numpy as np
from keras import ops

from detection.network import BOX_VALUES, points

RADIUS = 1.5  # strides: only points that near to an object's middle are its points
REACH = 8.0  # strides: a level's objects reach so far from their points, those of the next farther
ALPHA, GAMMA = 0.25, 2.0
GOOD_OVERLAP = 0.5


class DetectionObjective:
    """The loss of FCOS for one replica's images.

    A point is an object's if it lies in its box, at most 1.5 strides from its middle in x and y,
    and its farthest side lies in the reach of the point's level; of several objects the smallest
    has it. The loss is, per image, focal loss (arXiv:1708.02002) over all points and classes, plus
    1 − GIoU (arXiv:1902.09630) and the cross-entropy of the quality against the overlap over the
    object points, each divided by the number of object points (at least 1).

    The accuracy that the trainer logs is the share of object points whose box overlaps the object's
    by half or more.

    Args:
        num_classes: C.
        image_size: S.
        levels: of the pyramid.

    Call arguments:
        model: see `network.build_detector`.
        images: `(B, S, S, 3)` uint8.
        boxes: `(B, N, 5)` float32 xmin, ymin, xmax, ymax in pixels, and the class's number; −1 for
            the class where there is no box.
        training: whether this is a training step.

    Returns:
        {"loss": `(B,)`, "correct": `(B,)`}, float32.

    Reference:
        Tian et al., arXiv:2006.09214; the overlap in the place of centre-ness is its section 4.
    """

    freeze_batchnorm = False

    def __init__(self, num_classes: int, *, image_size: int, levels: int):
        self.num_classes = num_classes
        self._places, self._strides = points(image_size, levels)
        self._nearest = np.where(self._strides == self._strides.min(), 0.0, REACH / 2)
        self._farthest = np.where(self._strides == self._strides.max(), np.inf, REACH)

    def __call__(self, model: keras.Model, images, boxes, training: bool) -> dict:
        """Returns the loss of each image and what is logged beside it."""
        outputs = ops.cast(model(images, training=training), "float32")  # (B, P, C + 5)
        logits, distances, quality = ops.split(
            outputs, [self.num_classes, self.num_classes + BOX_VALUES - 1], axis=-1
        )
        classes, targets = self.targets(boxes)
        is_object = ops.cast(classes >= 0, "float32")  # (B, P)
        count = ops.maximum(ops.sum(is_object, axis=1), 1.0)  # (B,)

        def over_points(values):
            return ops.sum(values * is_object, axis=1) / count

        wanted = ops.one_hot(classes, self.num_classes)  # zeros for −1
        focal = ops.sum(focal_loss(logits, wanted), axis=(1, 2)) / count
        overlap, generalized = overlaps(distances, targets)
        overlap = ops.stop_gradient(overlap)
        entropy = ops.softplus(quality[..., 0]) - overlap * quality[..., 0]
        found = ops.sum(is_object, axis=1) > 0
        good = ops.cast(overlap >= GOOD_OVERLAP, "float32")
        return {
            "loss": focal + over_points(1.0 - generalized) + over_points(entropy),
            "correct": ops.where(found, over_points(good), 1.0),
        }

    def targets(self, boxes) -> tuple:
        """Returns what each point should say.

        Args:
            boxes: `(B, N, 5)`.

        Returns:
            Classes `(B, P)` int32, −1 for the background; distances `(B, P, 4)` float32, of any
            value there.
        """
        boxes = ops.cast(boxes, "float32")
        x, y = self._places[:, :1], self._places[:, 1:]  # (P, 1)
        xmin, ymin, xmax, ymax, label = (boxes[:, None, :, i] for i in range(5))  # (B, 1, N)
        sides = ops.stack([x - xmin, y - ymin, xmax - x, ymax - y], axis=-1)  # (B, P, N, 4)
        radius = RADIUS * self._strides[:, None]  # (P, 1)
        is_near = ops.abs(x - (xmin + xmax) / 2) < radius
        is_near &= ops.abs(y - (ymin + ymax) / 2) < radius
        reach = ops.max(sides, axis=-1) / self._strides[:, None]  # (B, P, N)
        fits = (reach >= self._nearest[:, None]) & (reach < self._farthest[:, None])
        is_own = (ops.min(sides, axis=-1) > 0) & is_near & fits & (label >= 0)
        area = ops.where(is_own, (xmax - xmin) * (ymax - ymin), np.inf)
        # A product in the place of a gather, which takes TPUs and XLA's compiler long.
        own = ops.one_hot(ops.argmin(area, axis=-1), boxes.shape[1], dtype="float32")  # (B, P, N)
        chosen = ops.sum(own[..., None] * sides, axis=2)  # (B, P, 4)
        labels = ops.cast(ops.sum(own * label, axis=-1), "int32")  # (B, P)
        return ops.where(ops.any(is_own, axis=-1), labels, -1), chosen


def focal_loss(logits, targets):
    """Returns the focal loss of each logit, of the shape of `logits`; targets are 0 or 1."""
    entropy = ops.softplus(logits) - targets * logits
    probability = ops.sigmoid(logits)
    missed = targets * (1.0 - probability) + (1.0 - targets) * probability
    weight = targets * ALPHA + (1.0 - targets) * (1.0 - ALPHA)
    return weight * missed**GAMMA * entropy


def overlaps(found, targets) -> tuple:
    """Returns IoU and GIoU of boxes around the same point.

    Args:
        found, targets: `(…, 4)` distances to left, top, right and bottom; negative ones of
            `targets` count as 0.

    Returns:
        IoU and GIoU, both `(…)`.
    """
    targets = ops.maximum(targets, 0.0)
    shared = ops.minimum(found, targets)
    hull = ops.maximum(found, targets)
    common, around = _area(shared), ops.maximum(_area(hull), 1e-6)
    union = ops.maximum(_area(found) + _area(targets) - common, 1e-6)
    overlap = common / union
    return overlap, overlap - (around - union) / around


def _area(sides):
    return (sides[..., 0] + sides[..., 2]) * (sides[..., 1] + sides[..., 3])
