"""Memory and time of a conversion against the size of the set.

    python benchmarks/conversion_memory.py [--images 1000 10000 100000 1000000] [--folder DIR]

Makes a tree of tiny JPEG files, all different, and a table of them, converts it on all cores in a
process of its own, and prints the highest memory of the command and of its largest worker, and
the wall time. The last line extrapolates the time for Google Landmarks v2 (4,132,914 images) from
the largest set and the bytes per second given by --megabytes-per-second.
"""

import argparse
import io
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time

if not __package__:
    sys.path[0] = str(pathlib.Path(__file__).resolve().parents[1])

import psutil
from PIL import Image

ROOT = pathlib.Path(__file__).resolve().parents[1]
GLDV2_IMAGES = 4_132_914
GLDV2_BYTES = 500e9


def make_set(folder: str, images: int) -> str:
    """Writes `images` tiny JPEG files that all differ, and returns the path of their table."""
    buffer = io.BytesIO()
    Image.new("RGB", (16, 16), (90, 120, 200)).save(buffer, "JPEG")
    start, rest = buffer.getvalue()[:2], buffer.getvalue()[2:-2]
    table = os.path.join(folder, "train.csv")
    with open(table, "w") as file:
        file.write("id,label,path\n")
        for number in range(images):
            name = f"{number % 256:02x}/{number // 256 % 256:02x}/{number:016x}"
            path = pathlib.Path(folder, name + ".jpg")
            if number < 65536:
                path.parent.mkdir(parents=True, exist_ok=True)
            # A comment at the end of the file makes each a different one.
            comment = b"\xff\xfe\x00\x12" + f"{number:016x}".encode()
            path.write_bytes(start + rest + comment + b"\xff\xd9")
            file.write(f"{number:016x},{number // 20},{name}.jpg\n")
    return table


def convert(table: str, output: str) -> tuple[float, float, float]:
    """Runs the command; returns seconds, and MiB of the command and of its largest worker."""
    script = str(ROOT / "tfrecords_tools" / "write.py")
    command = [sys.executable, script, "--table", table, "--output", output]
    start = time.monotonic()
    job = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # noqa: S603
    highest = {"command": 0, "worker": 0}
    process = psutil.Process(job.pid)
    while job.poll() is None:
        try:
            highest["command"] = max(highest["command"], _memory(process))
            for child in process.children(recursive=True):
                highest["worker"] = max(highest["worker"], _memory(child))
        except psutil.NoSuchProcess:
            pass
        time.sleep(0.05)
    if job.returncode != 0:
        raise RuntimeError(f"expected exit code 0 of {command}. Received: {job.returncode}")
    return time.monotonic() - start, highest["command"], highest["worker"]


def _memory(process: psutil.Process) -> float:
    return process.memory_info().rss / 2**20


def main(argv: list[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--images", type=int, nargs="+", default=[1000, 10_000, 100_000, 1_000_000])
    parser.add_argument("--folder", help="scratch folder (default: a temporary one)")
    parser.add_argument(
        "--megabytes-per-second",
        type=float,
        default=500.0,
        help="of the disk, reading and writing at once, for the extrapolation (default: 500)",
    )
    args = parser.parse_args(argv)
    print(f"{'images':>9}{'seconds':>10}{'images/s':>10}{'MiB':>8}{'MiB of a worker':>17}")
    for images in args.images:
        with tempfile.TemporaryDirectory(dir=args.folder) as scratch:
            table = make_set(scratch, images)
            output = os.path.join(scratch, "out")
            seconds, command, worker = convert(table, output)
            shutil.rmtree(output)
        print(
            f"{images:>9}{seconds:>10.1f}{images / seconds:>10.0f}{command:>8.0f}{worker:>17.0f}",
            flush=True,
        )
    overhead = seconds / images * GLDV2_IMAGES
    copying = GLDV2_BYTES / 1e6 / args.megabytes_per_second
    print(
        f"Google Landmarks v2: {overhead / 60:.0f} min of work per image, "
        f"{copying / 60:.0f} min of copying 500 GB at {args.megabytes_per_second:.0f} MB/s"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
