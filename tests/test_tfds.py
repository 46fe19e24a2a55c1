"""Sets that TFDS prepares are read without it, and TFDS opens the shards that we write."""

import dataclasses
import pathlib
import shutil

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds
from image_files import encode, jpeg, picture
from own_shards import CLASS_IDS, SPLITS, images, write_own

from input_pipeline import records, schema
from tfrecords_tools.conversion import tfds_metadata
from tfrecords_tools.readers import catalog_sets, foreign
from tfrecords_tools.readers.tables import WHITE_SPACE, Reject

# TFDS 4.9 calls what protobuf 7 is to drop.
NAMES = ["red shoe", "boot", "10"]


class SmallSet(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """A set of the examples {split: list} that the constructor is given."""

    name = "shop"
    VERSION = tfds.core.Version("1.2.3")

    def __init__(self, features, splits, **options):
        self._contents = features, splits
        super().__init__(**options)

    def _info(self):
        features = tfds.features.FeaturesDict(self._contents[0])
        return tfds.core.DatasetInfo(builder=self, features=features, disable_shuffling=True)

    def _split_generators(self, manager):
        return {split: enumerate(examples) for split, examples in self._contents[1].items()}

    def _generate_examples(self):
        raise NotImplementedError


def prepare(data_dir, features, splits, file_format="tfrecord", shards=1):
    """Stores a set; returns the folder of its version."""
    builder = SmallSet(features, splits, data_dir=str(data_dir), file_format=file_format)
    config = tfds.download.DownloadConfig(num_shards=shards)
    builder.download_and_prepare(download_config=config)
    return str(builder.data_path)


def write_photos(folder, count):
    """JPEG and PNG files, whose bytes TFDS keeps as they are."""
    paths = []
    for seed in range(count):
        path = folder / f"{seed}.jpg"
        path.write_bytes(jpeg(seed) if seed % 2 else encode(picture(seed), "PNG"))
        paths.append(str(path))
    return paths


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """(data_dir, folder of the version, paths of the photographs): 5 in train, 2 in test."""
    data_dir = tmp_path_factory.mktemp("tfds")
    paths = write_photos(data_dir, 7)
    examples = [
        {"photo": path, "kind": number % 3, "meta": {"key": f"k{number}", "price": number}}
        for number, path in enumerate(paths)
    ]
    examples[6]["kind"] = -1  # how TFDS keeps the labels of a test set that nobody knows
    features = {
        "photo": tfds.features.Image(),
        "kind": tfds.features.ClassLabel(names=NAMES),
        "meta": {"key": tfds.features.Text(), "price": np.int64},
    }
    return (
        data_dir,
        prepare(data_dir, features, {"train": examples[:5], "test": examples[5:]}, shards=2),
        paths,
    )


def read_all(*args, **options):
    rows = []
    for row in catalog_sets.rows(*args, **options):
        with open(row.path, "rb") as file:
            file.seek(row.offset)
            rows.append((row.id, row.label, file.read(row.size)))
    return rows


def test_a_prepared_set_by_folder_and_by_name(shop):
    data_dir, folder, paths = shop
    names = [*(f"train-{number}" for number in range(5)), "test-0", "test-1"]
    labels = ["red shoe", "boot", "10", "red shoe", "boot", "10", ""]
    contents = [pathlib.Path(path).read_bytes() for path in paths]
    expected = list(zip(names, labels, contents, strict=True))
    assert sorted(read_all(folder)) == sorted(expected)
    assert sorted(read_all("shop", data_dir=str(data_dir))) == sorted(expected)
    assert sorted(read_all("shop:1.2.3", data_dir=str(data_dir))) == sorted(expected)
    assert read_all(folder, "train") == expected[:5]
    assert read_all(folder, "train[1:3]") == expected[1:3]
    assert read_all(folder, "test+train[60%:]") == expected[5:] + expected[3:5]
    assert [row.id for row in foreign.rows(folder, split="test")] == ["test-0", "test-1"]


PHOTO = np.zeros((4, 5, 3), np.uint8)


def test_features_are_found_or_named(tmp_path):
    features = {
        "views": {"front": tfds.features.Image(), "back": tfds.features.Image()},
        "mask": tfds.features.LabeledImage(labels=2, shape=(None, None, 1)),
        "depth": tfds.features.Image(shape=(None, None, 1), dtype=np.float32),
        "class": tfds.features.ClassLabel(num_classes=3),
        "brand": tfds.features.ClassLabel(names=["a", "b"]),
        "item": np.int64,
        "code": tfds.features.Text(),
        "many": tfds.features.Sequence(tfds.features.Image()),
    }
    example = {
        "views": {"front": PHOTO, "back": PHOTO + 9},
        "mask": PHOTO[..., :1],
        "depth": np.zeros((4, 5, 1), np.float32),
        "class": 2,
        "brand": 1,
        "item": -7,
        "code": "x y",
        "many": [PHOTO],
    }
    folder = prepare(tmp_path, features, {"train": [example]})
    both = r"image=NAME of \['views/back', 'views/front'\]. Received: image=None"
    with pytest.raises(ValueError, match=both):
        read_all(folder)
    with pytest.raises(ValueError, match="image=mask; all features: "):
        read_all(folder, image="mask")
    front = {"image": "views/front"}
    with pytest.raises(ValueError, match=r"label=NAME of \['brand', 'class'\]"):
        read_all(folder, **front)
    for label, text in (("brand", "b"), ("class", "2"), ("item", "-7"), ("code", "x y")):
        ((image_id, found, data),) = read_all(folder, **front, label=label)
        assert (image_id, found) == ("train-0", text)
        np.testing.assert_array_equal(tf.io.decode_image(data), PHOTO)
    for name in ("many", "none"):
        with pytest.raises(ValueError, match=rf"label to be one of .*'item'.* Received: '{name}'"):
            read_all(folder, **front, label=name)
    with pytest.raises(ValueError, match="expected id_feature to be one of"):
        read_all(folder, **front, label="item", id_feature="views")
    (row,) = catalog_sets.rows(folder, **front, label="item", id_feature="code")
    assert row == Reject("x y", row.path, WHITE_SPACE)


def test_sets_without_images_or_labels(tmp_path):
    folder = prepare(tmp_path / "a", {"image": tfds.features.Image()}, {"t": [{"image": PHOTO}]})
    assert [row.label for row in catalog_sets.rows(folder)] == [""]
    folder = prepare(tmp_path / "b", {"text": tfds.features.Text()}, {"t": [{"text": "a"}]})
    with pytest.raises(ValueError, match=r"of \[\]. Received: image=None; .*\['text'\]"):
        read_all(folder)


def test_splits_that_are_not_there(shop):
    for split in ("validation", "train[", "train[:200]x"):
        with pytest.raises(ValueError, match=r"expected a split of \['test', 'train'\]"):
            read_all(shop[1], split)


def test_a_file_with_too_few_records(shop, tmp_path):
    folder = shutil.copytree(shop[1], tmp_path / "1.2.3")
    path = next(folder.glob("shop-train*"))
    spans = list(records.record_spans(str(path)))
    with open(path, "r+b") as file:
        file.truncate(spans[-1][0] - 12)
    with pytest.raises(ValueError, match=rf"expected {len(spans)} records. .*: {len(spans) - 1}$"):
        read_all(str(folder))


def test_other_file_formats(tmp_path):
    features = {"image": tfds.features.Image(), "label": tfds.features.ClassLabel(num_classes=1)}
    splits = {"train": [{"image": PHOTO, "label": 0}] * 3}
    folder = prepare(tmp_path / "a", features, splits, "array_record")
    with pytest.raises(ValueError, match=r"expected TFRecord files, .* Received: array_record"):
        read_all(folder)


class WaymarkMade(SmallSet):
    """A set that TFDS knows by name and can make here."""

    name = "waymark_made"

    def __init__(self, **options):
        features = {"image": tfds.features.Image(), "label": tfds.features.ClassLabel(names=["a"])}
        super().__init__(features, {"each": [{"image": PHOTO, "label": 0}]}, **options)


class WaymarkOffline(WaymarkMade):
    """One that would have to be downloaded where there is no network."""

    name = "waymark_offline"

    def _split_generators(self, manager):
        raise ConnectionError("no route to host\nand more")


def test_sets_that_are_not_prepared_yet(tmp_path):
    options = {"data_dir": str(tmp_path)}
    assert [row[:2] for row in read_all("waymark_made", **options)] == [("each-0", "a")]
    info = tmp_path / "waymark_made" / "1.2.3" / "dataset_info.json"
    before = info.stat().st_mtime_ns
    assert len(read_all("waymark_made", "each", **options)) == 1
    assert info.stat().st_mtime_ns == before
    with pytest.raises(ValueError, match=r"prepared in .* Received: ConnectionError: no route"):
        read_all("waymark_offline", **options)
    with pytest.raises(ValueError, match=r"no_such_set: expected a set of TensorFlow Datasets"):
        read_all("no_such_set", **options)
    with pytest.raises(ValueError, match=r"expected the name of a set or a folder with dataset_"):
        read_all(str(tmp_path))


def open_own(folder):
    """Returns {split: examples} as TFDS reads a data directory."""
    builder = tfds.builder_from_directory(str(folder))
    assert builder.info.splits.keys() == SPLITS.keys()
    read = {
        split: list(builder.as_dataset(split=split).as_numpy_iterator())
        for split in builder.info.splits
    }
    return builder, read


def test_tfds_opens_our_shards(tmp_path):
    names = tfds_metadata.write_metadata(schema.Manifest.load(write_own(tmp_path)))
    assert names == ["dataset_info.json", "features.json", "image.class.label.labels.txt"]
    builder, read = open_own(tmp_path)
    label = builder.info.features[schema.LABEL]
    assert label.names == list(CLASS_IDS)
    for split, sizes in SPLITS.items():
        expected = [image[1:] for image in images() if image[0] == split]
        assert builder.info.splits[split].shard_lengths == list(sizes)
        assert len(read[split]) == len(expected)
        for example, values in zip(read[split], expected, strict=True):
            image_id, number, is_clean, image_format, encoded = values
            assert example[schema.ID].decode() == image_id
            assert example[schema.LABEL] == number
            assert example[schema.IS_CLEAN] == is_clean
            assert example[schema.FORMAT].decode() == image_format
            assert example[schema.ENCODED].shape == (
                example[schema.HEIGHT],
                example[schema.WIDTH],
                3,
            )
            pixels = tf.io.decode_image(encoded, channels=3).numpy()
            np.testing.assert_array_equal(example[schema.ENCODED], pixels)


def test_tfds_reads_a_part_of_our_shards_as_pairs(tmp_path):
    tfds_metadata.write_metadata(schema.Manifest.load(write_own(tmp_path)))
    builder = tfds.builder_from_directory(str(tmp_path))
    pairs = builder.as_dataset(split="train_clean[2:4]", as_supervised=True)
    (image, label), (_, last) = pairs.as_numpy_iterator()
    assert (label, last, image.dtype) == (2, 3, np.uint8)
    # The bytes as they are, without decoding.
    skip = {schema.ENCODED: tfds.decode.SkipDecoding()}
    raw = builder.as_dataset(split="validation", decoders=skip).as_numpy_iterator()
    assert [example[schema.ENCODED] for example in raw] == [image[5] for image in images()][-2:]


def test_the_metadata_depends_on_the_manifest_alone(tmp_path):
    contents = []
    for folder in (tmp_path / "a", tmp_path / "another place"):
        folder.mkdir()
        names = tfds_metadata.write_metadata(schema.Manifest.load(write_own(folder)))
        assert names == tfds_metadata.write_metadata(schema.Manifest.load(str(folder)))
        contents.append([(folder / name).read_bytes() for name in names])
    assert contents[0] == contents[1]
    assert str(tmp_path).encode() not in b"".join(contents[0])


def replace(directory, **fields):
    manifest = schema.Manifest.load(directory)
    dataclasses.replace(manifest, **fields).save()


def test_class_ids_that_tfds_cannot_keep(tmp_path):
    write_own(tmp_path)
    replace(tmp_path, class_ids=("7", "two\nlines", "8", "9"))
    tfds_metadata.write_metadata(schema.Manifest.load(str(tmp_path)))
    builder, read = open_own(tmp_path)
    assert builder.info.features[schema.LABEL].names == ["0", "1", "2", "3"]
    assert [example[schema.LABEL] for example in read["train_clean"]] == [0, 1, 2, 3, 0]


def test_an_index_without_labels(tmp_path):
    record = schema.encode_example(
        encoded=jpeg(0), image_format="jpeg", height=16, width=24,
        label=schema.NO_LABEL, image_id="a", is_clean=True,
    )  # fmt: skip
    path = tmp_path / "index-00000-of-00001.tfrec"
    with records.RecordWriter(str(path)) as writer:
        writer.write(record)
    shard = schema.Shard(path.name, 1, writer.bytes, writer.crc32c)
    splits = {"index": (shard,), "validation": ()}
    schema.Manifest(str(tmp_path), splits, (), (), (), {}, 0, "").save()
    tfds_metadata.write_metadata(schema.Manifest.load(str(tmp_path)))
    builder = tfds.builder_from_directory(str(tmp_path))
    (example,) = builder.as_dataset(split="index").as_numpy_iterator()
    assert (example[schema.LABEL], example[schema.ID]) == (-1, b"a")
    assert list(builder.info.splits) == ["index"]


def test_our_shards_stay_ours_beside_the_metadata(tmp_path):
    tfds_metadata.write_metadata(schema.Manifest.load(write_own(tmp_path)))
    labels = [row.label for row in foreign.rows(str(tmp_path))]
    assert labels == [CLASS_IDS[image[2]] for image in images()]
    # TFDS' reader finds the same images, whose ids it would have to be told.
    rows = list(catalog_sets.rows(str(tmp_path), id_feature=schema.ID))
    assert rows == [dataclasses.replace(row, is_clean=True) for row in foreign.rows(str(tmp_path))]


def test_metadata_needs_a_manifest(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"expected a data directory with manifest.json"):
        tfds_metadata.write_metadata(schema.Manifest.load(str(tmp_path)))
