"""The tables, the tars and the rows of a synthetic Google Landmarks v2."""

import copy
import csv
import os
import shutil

import pytest
from synthetic_gldv2 import unpacked, write_bucket

from tfrecords_tools.mirroring import gldv2_check
from tfrecords_tools.readers import gldv2, tars
from tfrecords_tools.readers import gldv2_tables as formats
from tfrecords_tools.readers.tables import MISSING, Reject, Row
from tfrecords_tools.write import write

TAR = "train/images_001.tar"


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    return write_bucket(tmp_path_factory.mktemp("gldv2"))


@pytest.fixture
def bucket(original, tmp_path):
    """A set that the test may damage."""
    root = shutil.copytree(original.root, tmp_path / "gldv2")
    return type(original)(root, original.images, original.landmarks, original.clean)


def lines_of(bucket, name):
    with open(bucket.root / name, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def flat(value):
    """A typed value as the table writes it."""
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)


@pytest.mark.parametrize("table", formats.TABLES, ids=lambda table: table.path)
def test_every_table_is_read_as_it_is(table, original):
    """The slow way: csv.DictReader, everything as text."""
    expected = [list(line.values()) for line in lines_of(original, table.path)]
    rows = list(table.read(str(original.root / table.path)))
    single = table in (formats.INDEX, formats.TEST)
    found = [[str(row)] if single else [flat(value) for value in row] for row in rows]
    if table is formats.RETRIEVAL_SOLUTION:
        expected = [[q, "" if i == "None" else i, u] for q, i, u in expected]
    assert found == expected
    assert len(found) > 10


def test_ids_and_landmarks_have_the_type_of_their_part(original):
    def first(table):
        return next(iter(table.read(str(original.root / table.path))))

    assert isinstance(first(formats.TRAIN).id, formats.TrainId)
    assert isinstance(first(formats.TRAIN).landmark, formats.TrainLandmark)
    assert isinstance(first(formats.INDEX_LANDMARKS).landmark, formats.IndexLandmark)
    answers = list(formats.RETRIEVAL_SOLUTION.read(original.root / formats.RETRIEVAL_SOLUTION.path))
    assert all(isinstance(i, formats.IndexId) for answer in answers for i in answer.images)
    assert all(isinstance(answer.id, formats.TestId) for answer in answers)
    assert {answer.usage for answer in answers} == {"Public", "Private", "Ignored"}
    assert all((answer.usage == "Ignored") == (not answer.images) for answer in answers)


def test_parts_do_not_mix():
    text = "0123456789abcdef"
    train, index = formats.TrainId(text), formats.IndexId(text)
    mixtures = [
        lambda: train == index,
        lambda: train != index,
        lambda: index in {train: 1},
        lambda: index in [train],
        lambda: {train, index},
        lambda: formats.TrainId(index),
        lambda: formats.TrainLandmark(7) == formats.IndexLandmark(7),
        lambda: formats.TrainLandmark(7) != formats.IndexLandmark(7),
        lambda: formats.IndexLandmark(7) in {formats.TrainLandmark(7)},
        lambda: formats.IndexLandmark(formats.TrainLandmark(7)),
    ]
    for mixture in mixtures:
        with pytest.raises(TypeError, match="train, index and test are numbered apart"):
            mixture()
    assert train == formats.TrainId(text) == text
    assert {train: 1}[formats.TrainId(text)] == 1
    assert formats.TrainLandmark("07") == 7
    assert type(copy.copy(train)) is formats.TrainId


@pytest.mark.parametrize(
    "text", ["", "0123456789abcde", "0123456789ABCDEF", "../../../etc/pass", "0123456789abcdef\n"]
)
def test_an_id_is_16_hexadecimal_characters(text):
    with pytest.raises(ValueError, match="expected an id of 16 hexadecimal"):
        formats.TrainId(text)


@pytest.mark.parametrize("number", ["", "-1", "1.0", "x", -1, "9999999999", "٣"])
def test_a_landmark_is_a_number(number):
    with pytest.raises(ValueError, match="expected the number of a landmark"):
        formats.TrainLandmark(number)


@pytest.mark.parametrize(
    ("table", "text", "message"),
    [
        (formats.TRAIN, "", "expected the header id,url,landmark_id. Received: $"),
        (formats.TRAIN, "id,landmark_id\n", "Received: id,landmark_id"),
        (formats.TRAIN, "id,url,landmark_id\n../x,u,1\n", "line 2: expected an id"),
        (formats.TRAIN, "id,url,landmark_id\n0123456789abcdef,u\n", "line 2: expected 3 cells"),
        (formats.TRAIN, "id,url,landmark_id\n0123456789abcdef,u,x\n", "line 2: .* landmark"),
        (formats.TRAIN_CLEAN, "landmark_id,images\n1,ab cd\n", "line 2: expected an id"),
        (formats.RETRIEVAL_SOLUTION, "id,images,Usage\n0123456789abcdef,,x\n", "Usage in"),
        (formats.TEST, "id\n\xff\n", "after line 0: expected CSV in UTF-8"),
    ],
)
def test_a_table_that_is_not_as_published(table, text, message, tmp_path):
    file = tmp_path / "table.csv"
    file.write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError, match=message):
        list(table.read(str(file)))


def test_byte_order_mark_empty_lines_and_windows_line_ends(tmp_path):
    file = tmp_path / "train.csv"
    file.write_bytes('\ufeffid,url,landmark_id\r\n\r\n0123456789abcdef,"a,b",3\r\n'.encode())
    assert list(formats.TRAIN.read(str(file))) == [("0123456789abcdef", "a,b", 3)]
    file.write_bytes(b"\xef\xbb\xbflandmark_id,images\r\n\r\n3,0123456789abcdef\r\n")
    assert list(formats.TRAIN_CLEAN.read(str(file))) == [(3, ("0123456789abcdef",))]


def test_a_landmark_of_ten_thousand_images(tmp_path):
    """170,000 characters; the csv module refuses more than 131,072 in a cell."""
    file = tmp_path / "train_clean.csv"
    ids = [f"{number:016x}" for number in range(10_000)]
    file.write_text(f"landmark_id,images\n7,{' '.join(ids)}\n")
    (row,) = formats.TRAIN_CLEAN.read(str(file))
    assert list(row.images) == ids


def place_of(row):
    with open(row.path, "rb") as file:
        file.seek(row.offset)
        return file.read(-1 if row.size is None else row.size)


def check_rows(bucket, part, rows):
    """Against the dictionaries that the set was made of."""
    assert [row.id for row in rows] == list(bucket.images[part])
    for row in rows:
        assert place_of(row) == bucket.images[part][row.id]
        assert row.label == ("" if part == "test" else str(bucket.landmarks[row.id]))
        assert row.is_clean == (part != "train" or row.id in bucket.clean)
        assert row.path.startswith(f"{bucket.root}/{part}/")


@pytest.mark.parametrize("part", gldv2.PARTS)
def test_rows_of_the_tars(part, original):
    rows = list(gldv2.rows(str(original.root), part))
    assert all(row.size is not None for row in rows)
    check_rows(original, part, rows)
    kinds = {row.is_clean for row in rows}
    assert kinds == ({True, False} if part == "train" else {True})


@pytest.mark.parametrize("part", gldv2.PARTS)
def test_rows_of_the_unpacked_tree(part, bucket):
    for path in gldv2.find_tars(str(bucket.root), part):
        tars.unpack(path, str(bucket.root / part))
        os.remove(path)
    check_rows(bucket, part, list(gldv2.rows(str(bucket.root), part)))


def test_an_image_that_is_nowhere_is_rejected(bucket):
    tars.unpack(str(bucket.archive(TAR)), str(bucket.root / "train"))
    gone = bucket.ids_in(TAR)
    bucket.archive(TAR).unlink()
    lost = min(gone)
    (bucket.root / "train" / unpacked(lost)).unlink()
    rows = list(gldv2.rows(str(bucket.root), "train"))
    rejects = [row for row in rows if isinstance(row, Reject)]
    assert rejects == [Reject(lost, f"{bucket.root}/train/{unpacked(lost)}", MISSING)]
    whole = {row.id for row in rows if isinstance(row, Row) and row.size is None}
    assert whole == gone - {lost}


def test_index_without_landmarks(bucket):
    (bucket.root / formats.INDEX_LANDMARKS.path).unlink()
    assert {row.label for row in gldv2.rows(str(bucket.root), "index")} == {""}


def test_a_folder_with_brackets_in_its_name(bucket, tmp_path):
    root = bucket.root.rename(tmp_path / "set [1]*?")
    assert len(gldv2.find_tars(str(root), "train")) == 4


def change(bucket, table, old, new):
    file = bucket.root / table.path
    text = file.read_text(encoding="utf-8")
    assert text.count(old) == 1
    file.write_text(text.replace(old, new), encoding="utf-8")


def test_a_clean_image_of_another_landmark(bucket):
    image = min(bucket.clean)
    landmark = bucket.landmarks[image]
    change(bucket, formats.TRAIN, f'{image}.jpg",{landmark}', f'{image}.jpg",{landmark + 1}')
    message = f"expected landmark {landmark} for {image}.*Received: {landmark + 1}"
    with pytest.raises(ValueError, match=message):
        list(gldv2.rows(str(bucket.root)))


def test_a_clean_image_that_train_lacks(bucket):
    image = min(bucket.clean)
    change(bucket, formats.TRAIN_CLEAN, image, "0123456789abcdef")
    with pytest.raises(ValueError, match="Received: 1 that it lacks, such as 0123456789abcdef"):
        list(gldv2.rows(str(bucket.root)))


def test_a_clean_image_twice(bucket):
    image = min(bucket.clean)
    change(bucket, formats.TRAIN_CLEAN, image, f"{image} {image}")
    with pytest.raises(ValueError, match=f"Received: {image} more often"):
        list(gldv2.rows(str(bucket.root)))


def test_rows_need_the_tables(bucket):
    (bucket.root / formats.TRAIN_CLEAN.path).unlink()
    with pytest.raises(FileNotFoundError, match=r"train_clean\.csv"):
        list(gldv2.rows(str(bucket.root)))
    with pytest.raises(ValueError, match="expected a part in"):
        list(gldv2.rows(str(bucket.root), "training"))


def test_rows_of_a_bucket(original, monkeypatch):
    """tf.io.gfile's own in-memory bucket in the place of gs://."""
    import tensorflow as tf

    for file in original.root.rglob("*.*"):
        target = f"ram://gldv2/{file.relative_to(original.root).as_posix()}"
        tf.io.gfile.makedirs(target.rpartition("/")[0])
        with tf.io.gfile.GFile(target, "wb") as copy:
            copy.write(file.read_bytes())
    for part in gldv2.PARTS:
        for _ in range(2):  # from the headers, and from the indexes that this leaves
            rows = list(gldv2.rows("ram://gldv2", part))
            assert {row.id for row in rows} == original.images[part].keys()
            for row in rows[::10]:
                with tf.io.gfile.GFile(row.path, "rb") as file:
                    file.seek(row.offset)
                    assert file.read(row.size) == original.images[part][row.id]


def test_compare_finds_no_difference(original):
    for part in gldv2.PARTS:
        found = gldv2_check.compare(str(original.root), part)
        assert found == gldv2_check.Differences((), ())


def records_of(directory, manifest):
    """{split: {id: (encoded, label, is_clean)}}, read by TensorFlow."""
    import tensorflow as tf

    found = {split: {} for split in manifest.splits}
    for split in manifest.splits:
        for record in tf.data.TFRecordDataset(manifest.shard_paths(split)).as_numpy_iterator():
            features = tf.train.Example.FromString(record).features.feature
            image = features["image/id"].bytes_list.value[0].decode()
            assert image not in found[split]
            found[split][image] = (
                features["image/encoded"].bytes_list.value[0],
                features["image/class/label"].int64_list.value[0],
                bool(features["image/is_clean"].int64_list.value[0]),
            )
    return found


def test_the_winners_splits_are_made_of_the_tars(original, tmp_path):
    """The splits by hand: clean and noisy, one of each class with four clean images held out."""
    manifest = write(
        str(tmp_path), sources=[f"gldv2:{original.root}"], images_per_shard=50, stream=None
    ).manifest
    records = records_of(str(tmp_path), manifest)
    train, numbers = original.images["train"], original.landmarks
    landmarks = sorted({numbers[image] for image in train})
    assert manifest.class_ids == tuple(map(str, landmarks))
    for split in records.values():
        for image, (encoded, label, is_clean) in split.items():
            assert encoded == train[image]
            assert landmarks[label] == numbers[image]
            assert is_clean == (image in original.clean)
    clean = {n: [i for i in original.clean if numbers[i] == n] for n in landmarks}
    held_out = [numbers[image] for image in records["validation"]]
    assert sorted(held_out) == [n for n in landmarks if len(clean[n]) >= 4]
    assert len(held_out) > 10
    assert records["train_noisy"].keys() == train.keys() - original.clean
    assert records["train_clean"].keys() | records["validation"].keys() == original.clean
    # Class n of the clean set is the n-th landmark that has clean images, in the total set's order.
    totals = {n: total for total, n in enumerate(landmarks)}
    in_order = [totals[n] for n in landmarks if clean[n]]
    assert [manifest.clean_labels().tolist().index(c) for c in range(len(in_order))] == in_order


@pytest.mark.parametrize("part", ["index", "test"])
def test_index_and_queries_become_one_split(part, original, tmp_path):
    manifest = write(
        str(tmp_path), sources=[f"gldv2:{original.root}:{part}"], split=part, stream=None
    ).manifest
    records = records_of(str(tmp_path), manifest)
    assert {image: record[0] for image, record in records[part].items()} == original.images[part]
