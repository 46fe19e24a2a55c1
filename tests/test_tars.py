"""Where images lie inside tars, against tarfile and hand-made damage."""

import io
import pathlib
import shutil
import tarfile

import numpy as np
import pytest
from synthetic_gldv2 import make_tar, unpacked, write_bucket

from tfrecords_tools.readers import tars

TAR = "train/images_001.tar"


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    return write_bucket(tmp_path_factory.mktemp("gldv2"))


@pytest.fixture
def bucket(original, tmp_path):
    """A set that the test may damage."""
    root = shutil.copytree(original.root, tmp_path / "gldv2")
    return type(original)(root, original.images, original.landmarks, original.clean)


def test_index_agrees_with_tarfile(original):
    path = original.archive(TAR)
    with tarfile.open(path) as tar:
        expected = sorted(
            (int(pathlib.PurePath(m.name).stem, 16), m.offset_data, m.size)
            for m in tar
            if m.isfile()
        )
    index = tars.scan(str(path))
    assert index.members.tolist() == expected
    assert index.others == ()


def test_the_index_is_kept_while_the_tar_is_the_same(bucket):
    path = bucket.archive(TAR)
    kept = pathlib.Path(str(path) + tars.INDEX_SUFFIX)
    first = tars.read_index(str(path))
    stamp = kept.stat().st_mtime_ns
    assert np.array_equal(tars.read_index(str(path)).members, first.members)
    assert kept.stat().st_mtime_ns == stamp
    kept.write_bytes(kept.read_bytes()[:100])
    assert np.array_equal(tars.read_index(str(path)).members, first.members)
    data = path.read_bytes()
    path.write_bytes(make_tar({unpacked("0123456789abcdef"): bytes(100), "a.txt": b""}))
    again = tars.read_index(str(path))
    assert [f"{image:016x}" for image in again.members["id"].tolist()] == ["0123456789abcdef"]
    assert tars.read_index(str(path)).others == (("./a.txt", tars.NOT_AN_IMAGE),)
    path.write_bytes(data)
    assert np.array_equal(tars.read_index(str(path)).members, first.members)


def test_a_folder_that_cannot_be_written(bucket, monkeypatch):
    path = bucket.archive(TAR)
    pathlib.Path(str(path) + tars.INDEX_SUFFIX + ".partial").mkdir()
    assert len(tars.read_index(str(path)).members) == 60


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda data: b"", "expected a whole, uncompressed tar"),
        (lambda data: b"<html>" * 200, "expected a whole, uncompressed tar"),
        (lambda data: data[:1100], r"expected \d+ bytes up to the end of '\./.*cut off"),
        (lambda data: data[:512], "end mark at byte 512. Received: 0 bytes"),
        (lambda data: data[:700], "end mark at byte 512. Received: 188 bytes"),
        (lambda data: data.rstrip(b"\0"), "unexpected end of data"),
        (lambda data: data[:512] + b"!" + data[513:], "end mark at byte 512.*something"),
        (lambda data: data[:-10240] + b"!" * 10240, "end mark at byte"),
    ],
)
def test_a_broken_tar(damage, message, bucket):
    data = bucket.archive(TAR).read_bytes()
    bucket.archive(TAR).write_bytes(damage(data))
    with pytest.raises(tars.BrokenTarError, match=message) as caught:
        tars.scan(str(bucket.archive(TAR)))
    assert str(bucket.archive(TAR)) in str(caught.value)


def test_a_packed_tar(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w:gz"):
        pass
    with pytest.raises(tars.BrokenTarError, match="expected a whole, uncompressed tar"):
        tars.scan(str(tmp_path / "a.tar"))


def test_what_is_no_image_is_named(tmp_path):
    image = "0123456789abcdef"
    path = str(tmp_path / "a.tar")
    with tarfile.open(path, "w") as tar:
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.DIRTYPE):
            member = tarfile.TarInfo(f"{kind.decode()}/{image}.jpg")
            member.type, member.linkname = kind, "/etc/passwd"
            tar.addfile(member)
        for name in (f"{image}.JPG", f"{image}.jpg.txt", f"0{image}.jpg", f"{image}", "a/README"):
            tar.addfile(tarfile.TarInfo(name))
        for data in (b"first", b"second"):
            member = tarfile.TarInfo(f"a/{image}.jpg")
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    index = tars.scan(path)
    reasons = [reason for _, reason in index.others]
    assert reasons == [tars.NOT_A_FILE] * 4 + [tars.NOT_AN_IMAGE] * 5 + [tars.TWICE]
    tars.unpack(path, str(tmp_path / "out"))
    assert (tmp_path / "out" / unpacked(image)).read_bytes() == b"second"
    assert len([file for file in (tmp_path / "out").rglob("*") if not file.is_dir()]) == 1


def test_places_of_images_in_several_tars(tmp_path):
    """Two tars have image 5: the first counts."""
    for number, images in enumerate([[5, 2**64 - 1], [0, 5], []]):
        members = {f"{image:016x}.jpg": bytes([number]) for image in images}
        (tmp_path / f"{number}.tar").write_bytes(make_tar(members))
    paths = [str(tmp_path / f"{number}.tar") for number in range(3)]
    places = tars.Places.load(paths)
    assert places.ids.tolist() == [0, 5, 2**64 - 1]
    assert places.tar.tolist() == [1, 0, 0]
    assert places.find(np.array([5, 7, 2**64 - 1], np.uint64)).tolist() == [1, -1, 2]
    assert tars.Places.load([]).find(np.array([5], np.uint64)).tolist() == [-1]
    assert (places.ids.itemsize, places.offset.itemsize) == (8, 8)
    assert (places.tar.itemsize, places.size.itemsize) == (2, 4)
