"""Images that look the same, found among others; comparing all pairs is the oracle."""

import csv
import io
import itertools

import numpy as np
import pytest
from image_files import encode, jpeg, picture, write_table
from PIL import Image, ImageEnhance

from tfrecords_tools import write
from tfrecords_tools.conversion import near_duplicates
from tfrecords_tools.conversion.images import RejectedImageError
from tfrecords_tools.conversion.near_duplicates import ClosePairs, hash_image


def run(folder, rows, *arguments):
    """Converts a table; returns the exit code and the rows of near_duplicates.csv."""
    table = write_table(folder / "t.csv", rows)
    command = ["--table", table, "--output", str(folder / "out"), "--near-duplicates", *arguments]
    code = write.main(command)
    with open(folder / "out" / "near_duplicates.csv", newline="", encoding="utf-8") as file:
        return code, list(csv.DictReader(file))


def pairs_of(listed):
    return {frozenset((row["id"], row["other_id"])) for row in listed}


# The hash.


def test_the_hash_by_hand():
    """Cells of 20 pixels that grow darker to the right give ones, brighter ones zeros."""
    rows = [np.arange(9) * 20, 200 - np.arange(9) * 20] * 4
    image = Image.fromarray(np.kron(np.array(rows), np.ones((20, 20))).astype(np.uint8))
    coarse, fine = hash_image(encode(image, "PNG"))
    assert f"{coarse:064b}" == ("0" * 8 + "1" * 8) * 4
    assert len(fine) == 32


def test_the_hash_of_a_slow_version():
    """Every cell as the mean of its pixels, weighted with a triangle, from the whole picture."""
    gray = np.asarray(picture(3, (160, 120)).convert("L"), float)
    cells = weights(8, 120) @ gray @ weights(9, 160).T
    expected = (cells[:, :-1].round() > cells[:, 1:].round()).ravel()
    coarse, _ = hash_image(encode(Image.fromarray(gray.astype(np.uint8)), "PNG"))
    assert sum(map(int.__ne__, expected.astype(int).tolist(), map(int, f"{coarse:064b}"))) <= 1


def weights(cells, pixels):
    """The antialiased bilinear filter: float (cells, pixels)."""
    size = pixels / cells
    centers = (np.arange(cells) + 0.5) * size
    distance = np.abs(centers[:, None] - np.arange(pixels) - 0.5) / size
    triangle = np.maximum(1 - distance, 0)
    return triangle / triangle.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
def test_every_kind_of_image_has_a_hash(mode):
    gradient = Image.linear_gradient("L").rotate(90)
    image = Image.fromarray(np.asarray(gradient).astype(np.uint16) * 257)
    image = image if mode == "I;16" else gradient.convert(mode)
    coarse, _ = hash_image(encode(image, "PNG"))
    assert coarse in (0, 2**64 - 1) or mode == "1"  # dithered


def test_images_without_contrast_have_no_hash():
    assert hash_image(encode(Image.new("RGB", (300, 200), (7, 7, 7)), "JPEG")) is None
    assert hash_image(encode(Image.effect_noise((900, 800), 9), "PNG")) is None
    with pytest.raises(RejectedImageError):
        hash_image(jpeg(0)[:100])


# The search.


def all_pairs(hashes, distance):
    return {
        (one, other, (first ^ second).bit_count())
        for (one, first), (other, second) in itertools.combinations(enumerate(hashes.tolist()), 2)
        if (first ^ second).bit_count() <= distance
    }


def clustered(count, seed):
    """Hashes around some centres, so that there are many close ones; sorted, all different."""
    rng = np.random.default_rng(seed)
    centres = rng.integers(0, 2**64, 20, dtype=np.uint64)
    hashes = rng.choice(centres, count)
    for _ in range(3):
        hashes ^= np.uint64(1) << rng.integers(0, 64, count, dtype=np.uint64)
    return np.unique(hashes)


@pytest.mark.parametrize("distance", range(near_duplicates.LARGEST_DISTANCE + 1))
def test_close_pairs_are_all_pairs(distance):
    hashes = clustered(600, distance)
    close = ClosePairs(hashes, distance, neighbours=600)
    found = [
        (min(one, other), max(one, other), bits)
        for part in close
        for one, other, bits in part.tolist()
    ]
    expected = all_pairs(hashes, distance)
    assert len(found) == len(set(found))
    assert set(found) == expected
    assert (len(expected) > 100) == (distance >= 4)
    assert close.crowded == 0


def test_crowds_do_not_explode():
    """Hashes that share all but 12 bits: each is compared with 8 others of each two bands."""
    hashes = np.arange(4096, dtype=np.uint64)
    close = ClosePairs(hashes, 2, neighbours=8)
    found = sum(map(len, close))
    assert 0 < found < 6 * 8 * 4096
    assert 4000 < close.crowded <= 4096


# The command.


def test_a_conversion_lists_them(tmp_path, capsys):
    original = picture(1, (200, 150))
    images = {
        "original": encode(original, "JPEG", quality=95),
        "copy": encode(original, "JPEG", quality=95),
        "small": encode(original.resize((120, 90)), "JPEG", quality=70),
        "png": encode(original, "PNG"),
        "black": encode(Image.new("L", (50, 50)), "PNG"),
        "night": encode(Image.new("L", (60, 50)), "PNG"),
        **{f"other{seed}": jpeg(seed, (200, 150)) for seed in range(2, 8)},
    }
    rows = []
    for name, data in images.items():
        (tmp_path / f"{name}.jpg").write_bytes(data)
        rows.append((name, "2" if name == "png" else "1", f"{name}.jpg"))
    code, listed = run(tmp_path, rows)
    assert code == 0
    assert pairs_of(listed) == {
        frozenset(pair)
        for pair in itertools.combinations(["original", "copy", "small", "png"], 2)
        if set(pair) != {"original", "copy"}  # in copies.csv
    }
    assert all(row["id"] < row["other_id"] for row in listed)
    labels = {name: label for name, label, _ in rows}
    assert all(labels[row["other_id"]] == row["other_label"] for row in listed)
    distances = [int(row["distance"]) for row in listed]
    assert distances == sorted(distances)
    output = capsys.readouterr().out
    assert "note: 5 pairs of images look the same (3 of another class" in output
    assert "near_duplicates.csv lists them; 2 images without contrast are not compared" in output
    assert run(tmp_path, rows) == (0, listed)
    assert "nothing to do" in capsys.readouterr().out
    (tmp_path / "out" / "near_duplicates.csv").unlink()
    assert run(tmp_path, rows[::-1]) == (0, listed)
    assert "0 shards written" in capsys.readouterr().out


def test_one_image_a_hundred_times(tmp_path, capsys):
    """Other bytes and the same pixels: the first 32 each with each, the others with the first."""
    data = encode(picture(1), "PNG")
    for number in range(100):
        (tmp_path / f"{number}.png").write_bytes(data + b"%d" % number)
    code, listed = run(tmp_path, [(f"{n:03d}", "1", f"{n}.png") for n in range(100)])
    assert code == 0
    expected = {frozenset((f"{a:03d}", f"{b:03d}")) for b in range(32) for a in range(b)}
    expected |= {frozenset(("000", f"{n:03d}")) for n in range(32, 100)}
    assert pairs_of(listed) == expected
    assert "100 images are like so many that some pairs are not listed" in capsys.readouterr().out


@pytest.mark.parametrize("distance", ["-1", "9"])
def test_a_distance_out_of_range(tmp_path, capsys, distance):
    table = write_table(tmp_path / "t.csv", [])
    command = ["--table", table, "--output", str(tmp_path / "o"), "--near-duplicates", distance]
    assert write.main(command) == 2
    assert "expected near duplicates at a distance from 0 to 8" in capsys.readouterr().err


def changed(image):
    """A photograph as it comes back: other quality, size, brightness, file format."""
    width, height = image.size
    yield encode(image, "JPEG", quality=20)
    yield encode(image.resize((width // 3, height // 3), Image.Resampling.LANCZOS), "JPEG")
    yield encode(image.resize((width * 3 // 2, height * 3 // 2)), "JPEG", progressive=True)
    yield encode(ImageEnhance.Brightness(image).enhance(1.2), "JPEG", quality=90)
    yield encode(ImageEnhance.Brightness(image).enhance(0.7), "JPEG", quality=90)
    yield encode(image.convert("L"), "JPEG")
    yield encode(image, "WEBP", quality=60)


def test_photographs(shared, tmp_path):
    """800 photographs of groceries, 67 of them seven times more in another form."""
    paths = sorted((shared / "data" / "grocery" / "images").rglob("*.jpg"))[::6][:800]
    rows, planted = [], set()
    for number, path in enumerate(paths):
        data = path.read_bytes()
        variants = [data]
        if number % 12 == 0:
            variants += changed(Image.open(io.BytesIO(data)).convert("RGB"))
        names = [f"{number:03d}-{variant}" for variant in range(len(variants))]
        for name, content in zip(names, variants, strict=True):
            (tmp_path / name).write_bytes(content)
            rows.append((name, "1", name))
        planted |= {frozenset((names[0], name)) for name in names[1:]}
    code, listed = run(tmp_path, rows)
    assert code == 0
    found = pairs_of(listed)
    recall = len(found & planted) / len(planted)
    false = {pair for pair in found if len({name[:3] for name in pair}) == 2}
    assert recall > 0.99
    assert len(false) <= 3
