"""A conversion by Apache Beam: the same bytes as the local command's."""

import pytest
from conversions import folder_bytes
from image_files import write_photos, write_table

from tfrecords_tools.write import main


@pytest.mark.parametrize("more", [[], ["--max-side", "20"]])
def test_beam_writes_the_bytes_of_the_local_command(tmp_path, more):
    pytest.importorskip("apache_beam", reason="the extra beam is not installed")
    rows = write_photos(tmp_path, 30)
    (tmp_path / rows[3][2]).write_bytes(b"no image")
    table = write_table(tmp_path / "t.csv", rows)
    words = ["--table", str(table), "--images-per-shard", "7", *more]
    assert main([*words, "--output", str(tmp_path / "local")]) == 3
    assert main([*words, "--output", str(tmp_path / "beam"), "--runner", "DirectRunner"]) == 3
    assert folder_bytes(tmp_path / "beam") == folder_bytes(tmp_path / "local")
    assert len(folder_bytes(tmp_path / "local")) > 6
