"""The detector's network, targets, loss, pictures and decoding, against slow versions."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from detectors import SIZES, save_backbone
from PIL import Image

from detection import inputs, network, predict
from detection.boxes import BoxedImage, BoxSet
from detection.objective import DetectionObjective, focal_loss, overlaps

SIZE, LEVELS = 64, 3


def test_points():
    places, strides = network.points(32, 3)
    assert places.shape == (16 + 4 + 1, 2)
    np.testing.assert_array_equal(places[:2], [[4, 4], [12, 4]])
    np.testing.assert_array_equal(places[16:18], [[8, 8], [24, 8]])
    np.testing.assert_array_equal(strides, [8] * 16 + [16] * 4 + [32])


def residual_backbone():
    """Strides 8, 16 and 32, each a residual block whose branch begins before the stride changes."""
    images = keras.Input((None, None, 3))
    values = keras.layers.Conv2D(4, 3, 8, padding="same")(images)
    for stage in range(3):
        stride = 2 if stage else 1
        branch = keras.layers.Conv2D(4, 1, name=f"inner_{stage}")(values)
        branch = keras.layers.Conv2D(4, 3, stride, padding="same")(branch)
        short = keras.layers.Conv2D(4, 1, stride, name=f"short_{stage}")(values)
        values = keras.layers.Add()([branch, short])
        values = keras.layers.ReLU(name=f"end_{stage}")(values)
    return keras.Model(images, values)


def test_feature_maps_are_ends_of_stages():
    backbone = residual_backbone()
    maps = network.feature_maps(backbone, SIZE)
    images = np.random.default_rng(0).uniform(size=(1, SIZE, SIZE, 3)).astype(np.float32)
    ends = [backbone.get_layer(f"end_{stage}").output for stage in range(3)]
    pairs = zip(maps(images), keras.Model(backbone.input, ends)(images), strict=True)
    for received, expected in pairs:
        np.testing.assert_array_equal(received, expected)
    flat = keras.layers.Conv2D(2, 3, 16)(backbone.input)
    with pytest.raises(ValueError, match="feature maps of strides 8, 16 and 32"):
        network.feature_maps(keras.Model(backbone.input, flat), SIZE)


def test_network_of_wrong_sizes():
    with pytest.raises(ValueError, match="expected a multiple of 32"):
        network.build_detector(1, image_size=80, levels=3)
    with pytest.raises(ValueError, match="at least 3 levels"):
        network.build_detector(1, image_size=64, levels=2)


def some_boxes(seed, count=6):
    rng = np.random.default_rng(seed)
    corner = rng.uniform(0, SIZE * 0.8, (3, count, 2))
    far = np.minimum(corner + rng.uniform(2, SIZE * 0.7, (3, count, 2)), SIZE)
    labels = rng.integers(-1, 3, (3, count, 1))
    return np.concatenate([corner, far, labels], axis=2).astype(np.float32)


def slow_targets(boxes):
    """Classes and distances of each point of one image, by loops."""
    classes, distances = [], []
    for (x, y), stride in zip(*network.points(SIZE, LEVELS), strict=True):
        best = None
        for xmin, ymin, xmax, ymax, label in boxes:
            sides = [x - xmin, y - ymin, xmax - x, ymax - y]
            near = abs(x - (xmin + xmax) / 2) < 1.5 * stride
            near = near and abs(y - (ymin + ymax) / 2) < 1.5 * stride
            low = 0 if stride == 8 else 4 * stride
            high = np.inf if stride == 32 else 8 * stride
            own = label >= 0 and min(sides) > 0 and near and low <= max(sides) < high
            area = (xmax - xmin) * (ymax - ymin)
            if own and (best is None or area < best[0]):
                best = (area, int(label), sides)
        classes.append(best[1] if best else -1)
        distances.append(best[2] if best else None)
    return classes, distances


@pytest.mark.parametrize("seed", range(3))
def test_targets(seed):
    boxes = some_boxes(seed)
    objective = DetectionObjective(3, image_size=SIZE, levels=LEVELS)
    classes, distances = (np.asarray(values) for values in objective.targets(boxes))
    assert (classes >= 0).sum() > 10
    for row in range(len(boxes)):
        expected, sides = slow_targets(boxes[row])
        assert classes[row].tolist() == expected
        for point in np.flatnonzero(classes[row] >= 0):
            np.testing.assert_allclose(distances[row, point], sides[point], atol=1e-4)


def test_overlaps():
    found = np.array([[2, 2, 2, 2], [1, 1, 1, 1], [4, 4, 4, 4]], np.float32)
    targets = np.array([[2, 2, 2, 2], [3, 1, 1, 1], [1, 1, 1, -1]], np.float32)
    overlap, generalized = (np.asarray(values) for values in overlaps(found, targets))
    # The third: 2 wide and 1 high (the negative side counts as 0) inside 8 x 8.
    np.testing.assert_allclose(overlap, [1, 0.5, 2 / 64], rtol=1e-6)
    # A hull that is the union takes nothing off.
    np.testing.assert_allclose(generalized, overlap, rtol=1e-6)
    apart, below = (
        np.asarray(values)
        for values in overlaps(
            np.array([[2, 2, 0.0, 0.0]], np.float32), np.array([[0, 0, 2, 2]], np.float32)
        )
    )
    # Squares of 2 that touch in a corner: union 8 in a hull of 16.
    np.testing.assert_allclose([apart[0], below[0]], [0, -0.5])


def test_focal_loss():
    logits = np.array([-3.0, 0.0, 2.5], np.float32)
    p = 1 / (1 + np.exp(-logits.astype(np.float64)))
    hit, miss = (
        np.asarray(focal_loss(logits, np.ones(3))),
        np.asarray(focal_loss(logits, np.zeros(3))),
    )
    np.testing.assert_allclose(hit, -0.25 * (1 - p) ** 2 * np.log(p), rtol=1e-5)
    np.testing.assert_allclose(miss, -0.75 * p**2 * np.log(1 - p), rtol=1e-5)


class Fixed:
    """Stands for a network that says the same of all images."""

    def __init__(self, outputs):
        self.outputs = outputs

    def __call__(self, images, training):
        return self.outputs


def slow_overlaps(found, target):
    def area(left, top, right, bottom):
        return (left + right) * (top + bottom)

    common = area(*map(min, found, target))
    hull = area(*map(max, found, target))
    union = area(*found) + area(*target) - common
    return common / union, common / union - (hull - union) / hull


def slow_loss(outputs, boxes, classes):
    result = []
    for row, rows in zip(outputs.astype(np.float64), boxes, strict=True):
        labels, sides = slow_targets(rows)
        count = max(sum(label >= 0 for label in labels), 1)
        total = 0.0
        for values, label, target in zip(row, labels, sides, strict=True):
            p = 1 / (1 + np.exp(-values[:classes]))
            for number in range(classes):
                is_own = number == label
                share = 0.25 if is_own else 0.75
                chance = p[number] if is_own else 1 - p[number]
                total -= share * (1 - chance) ** 2 * np.log(chance) / count
            if label < 0:
                continue
            overlap, generalized = slow_overlaps(values[classes : classes + 4], target)
            q = 1 / (1 + np.exp(-values[-1]))
            total += (1 - generalized) / count
            total -= (overlap * np.log(q) + (1 - overlap) * np.log(1 - q)) / count
        result.append(total)
    return result


def test_loss():
    boxes = some_boxes(4)
    boxes[2, :, 4] = -1  # an image without objects
    rng = np.random.default_rng(0)
    outputs = rng.normal(0, 2, (3, 84, 3 + 5)).astype(np.float32)
    outputs[..., 3:7] = rng.uniform(0, 40, (3, 84, 4))
    objective = DetectionObjective(3, image_size=SIZE, levels=LEVELS)

    @tf.function(jit_compile=True)
    def compiled(said, boxes):
        with tf.GradientTape() as tape:
            tape.watch(said)
            result = objective(Fixed(said), None, boxes, training=True)
        return result, tape.gradient(result["loss"], said)

    result, gradient = compiled(tf.constant(outputs), boxes)
    result = {name: value.numpy() for name, value in result.items()}
    # float32 sums over 84 points and 3 classes
    np.testing.assert_allclose(result["loss"], slow_loss(outputs, boxes, 3), rtol=1e-5)
    assert result["correct"][2] == 1
    assert np.isfinite(gradient).all()
    assert not gradient.numpy()[2, :, 3:].any()  # boxes of an image without objects say nothing
    empty = objective(
        Fixed(tf.constant(outputs)), None, np.full((3, 1, 5), -1, np.float32), training=True
    )
    assert np.isfinite(empty["loss"].numpy()).all()


def test_network_in_bfloat16(tmp_path):
    """What the loss is made of stays float32."""
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        path = save_backbone(tmp_path / "backbone.keras")
        model = network.build_detector(3, backbone=path, **SIZES)
    finally:
        keras.config.set_dtype_policy("float32")
    objective = DetectionObjective(3, image_size=SIZE, levels=LEVELS)
    images = np.random.default_rng(0).integers(0, 256, (3, SIZE, SIZE, 3), dtype=np.uint8)
    outputs = model(images, training=True)
    assert (outputs.shape, outputs.dtype) == ((3, 84, 8), tf.float32)
    assert outputs.numpy()[..., 3:7].min() >= 0
    values = objective(model, images, some_boxes(0), training=True)
    assert all(value.dtype == tf.float32 for value in values.values())
    assert all(np.isfinite(value).all() for value in values.values())


def test_decoding():
    places, _ = network.points(SIZE, LEVELS)
    outputs = np.full((1, 84, 2 + 5), -20, np.float32)
    outputs[..., 2:6] = 4
    outputs[..., 6] = 0  # quality 0.5
    outputs[0, 0, 0] = 20  # class 0 around (4, 4): 0, 0, 8, 8
    outputs[0, 1, 0] = 0  # the same box by the point at (12, 4), of a lower score
    outputs[0, 1, 2:6] = [12, 4, -4, 4]
    outputs[0, 1, 1] = 0  # another class is not suppressed by it
    boxes, scores, classes, counts = (
        values.numpy()
        for values in predict.decode(outputs, places, threshold=0.1, max_boxes=4, overlap=0.5)
    )
    assert counts.tolist() == [2]
    np.testing.assert_allclose(boxes[0, :2], [[0, 0, 8, 8]] * 2, atol=1e-5)
    np.testing.assert_allclose(scores[0], [np.sqrt(0.5), 0.5, 0, 0], rtol=1e-5)
    assert classes[0, :2].tolist() == [0, 1]


def test_place_by_hand():
    image = np.zeros((20, 40, 3), np.uint8)
    boxes = np.array([[0, 0, 40, 20, 1], [30, 0, 40, 20, 2], [1, 1, 2, 2, 0]], np.float32)

    def place(scale, slack):
        canvas, moved = inputs.place(image, boxes, size=20, scale=scale, slack=tf.constant(slack))
        return canvas.numpy(), moved.numpy()

    canvas, moved = place(1.0, [1.0, 0.0])  # 20 x 10, at the lower edge
    assert (canvas[:10] == inputs.GREY).all()
    assert (canvas[10:] == 0).all()
    np.testing.assert_allclose(moved[0], [0, 10, 20, 20, 1])
    assert moved[2, 4] == inputs.NO_CLASS  # half a pixel is left of it
    canvas, moved = place(2.0, [0.0, 1.0])  # 40 x 20, its left half cut off
    assert canvas.shape == (20, 20, 3)
    np.testing.assert_allclose(moved[0], [0, 0, 20, 20, 1])
    np.testing.assert_allclose(moved[1], [10, 0, 20, 20, 2])
    assert moved[2, 4] == inputs.NO_CLASS


@pytest.fixture(scope="module")
def squares(tmp_path_factory):
    """Six black pictures with a white rectangle each; the last one's file is damaged."""
    folder = tmp_path_factory.mktemp("squares")
    images = []
    for number in range(6):
        pixels = np.zeros((40, 60, 3), np.uint8)
        left, top = 3 * number, 2 * number
        pixels[top : top + 20, left : left + 24] = 255
        path = folder / f"{number}.png"
        Image.fromarray(pixels).save(path)
        box = np.array([[left, top, left + 24, top + 20]], np.float32)
        images.append(BoxedImage(f"p{number}", str(path), box, ("item",)))
    (folder / "5.png").write_bytes((folder / "5.png").read_bytes()[:30])
    return BoxSet(tuple(images), ())


OPTIONS = {
    "image_size": 32,
    "batch_size": 2,
    "seed": 3,
    "variation": inputs.Variation(scales=(0.8, 1.2)),
}


def take(dataset, count):
    return [[part.numpy() for part in batch] for batch in dataset.take(count)]


@pytest.fixture(scope="module")
def batches(squares):
    """Three epochs of three batches."""
    return take(inputs.training_batches(squares, **OPTIONS), 9)


def test_boxes_move_with_their_pictures(batches):
    shown, lost = 0, 0
    for images, boxes, weights in batches:
        assert images.shape == (2, 32, 32, 3)
        assert boxes.shape == (2, 1, 5)
        for pixels, box, weight in zip(images, boxes[:, 0], weights, strict=True):
            lost += weight == 0
            if weight == 0 or box[4] < 0:
                continue
            y, x = np.nonzero(pixels[..., 0] > 190)  # brighter than the canvas
            received = [x.min(), y.min(), x.max() + 1, y.max() + 1]
            np.testing.assert_allclose(box[:4], received, atol=1.2)  # a pixel of smoothing
            shown += 1
    assert shown > 8
    assert lost == 3  # once in each epoch


def test_batches_go_on_from_any_step_on_any_host(squares, batches):
    share = inputs.Share(host=1, hosts=2)
    rest = take(inputs.training_batches(squares, first_step=4, share=share, **OPTIONS), 5)
    for expected, received in zip(batches[4:], rest, strict=True):
        for a, b in zip(expected, received, strict=True):
            np.testing.assert_array_equal(a[1:], b)


def test_ids_of_batches(squares, batches):
    ids = [inputs.ids_of_batch(squares, step=step, batch_size=2, seed=3) for step in range(9)]
    for first in (0, 3, 6):
        assert sorted(np.ravel(ids[first : first + 3])) == [f"p{number}" for number in range(6)]
    assert ids[:3] != ids[3:6]
    lost = [[name == "p5" for name in batch] for batch in ids]
    assert [(weights == 0).tolist() for *_, weights in batches] == lost


def test_wrong_inputs(squares):
    with pytest.raises(ValueError, match="at least one batch of 7"):
        inputs.training_batches(squares, image_size=32, batch_size=7, seed=0)
    with pytest.raises(ValueError, match="0 < smallest <= largest"):
        inputs.Variation(scales=(1.0, 0.5))
