"""A small Google Landmarks v2 in the published formats, and a server for it that can misbehave."""

import contextlib
import dataclasses
import hashlib
import http.server
import io
import itertools
import pathlib
import tarfile
import threading

import numpy as np
from image_files import jpeg, write_table

ARCHIVES = {"train": 4, "index": 2, "test": 1}
IMAGES = {"train": 240, "index": 60, "test": 40}


@dataclasses.dataclass
class Bucket:
    """What `write_bucket` made.

    images: {part: {id: bytes}}; landmarks: {id: landmark} of train and index; clean: ids.
    """

    root: pathlib.Path
    images: dict[str, dict[str, bytes]]
    landmarks: dict[str, int]
    clean: set[str]

    def archive(self, path):
        """The tar of that path, such as train/images_001.tar."""
        return self.root / path

    def ids_in(self, path):
        with tarfile.open(self.root / path) as tar:
            return {pathlib.PurePath(name).stem for name in tar.getnames() if ".jpg" in name}

    def replace(self, path, data):
        """Gives an archive other bytes, and the md5 of these."""
        (self.root / path).write_bytes(data)
        write_md5(self.root, path)


def write_bucket(root, *, archives=ARCHIVES, images=IMAGES, seed=0):
    """Writes tars, md5s, tables and solutions below `root`."""
    rng = np.random.default_rng(seed)
    numbers = rng.permutation(sum(images.values()))
    # Ids of all kinds, also those whose highest bit is set.
    ids = iter([hashlib.sha256(bytes(f"{seed}:{n}", "utf-8")).hexdigest()[:16] for n in numbers])
    pictures = {
        part: {image: jpeg(int(image, 16), (40, 30)) for image in itertools.islice(ids, count)}
        for part, count in images.items()
    }
    for part, members in pictures.items():
        cut = -(-len(members) // archives[part])
        batches = itertools.batched if hasattr(itertools, "batched") else _batched
        for number, batch in enumerate(batches(members.items(), cut)):
            path = f"{part}/images_{number:03d}.tar"
            (root / part).mkdir(parents=True, exist_ok=True)
            (root / path).write_bytes(make_tar({unpacked(i): data for i, data in batch}))
            write_md5(root, path)
    landmarks, clean = _write_tables(root, pictures, rng)
    return Bucket(root, pictures, landmarks, clean)


def unpacked(image):
    return f"{image[0]}/{image[1]}/{image[2]}/{image}.jpg"


def make_tar(members, *, prefix="./"):
    """The bytes of a tar of {name: bytes}; with folders, as `tar -c .` writes them."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        folder = tarfile.TarInfo(prefix)
        folder.type = tarfile.DIRTYPE
        tar.addfile(folder)
        for name, data in members.items():
            member = tarfile.TarInfo(prefix + name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


def write_md5(root, path):
    part, name = path.split("/")
    file = root / "md5sum" / part / f"md5.{name.removesuffix('.tar')}.txt"
    file.parent.mkdir(parents=True, exist_ok=True)
    digest = hashlib.md5((root / path).read_bytes(), usedforsecurity=False).hexdigest()
    file.write_text(f"{digest}  {name}\n")


def _write_tables(root, pictures, rng):
    """Landmark n has n images up to 12, some of them clean; the numbers have gaps."""
    train, index, test = (list(pictures[part]) for part in ("train", "index", "test"))
    sizes = [*range(1, 13)] * len(train)
    train_landmarks = [7 * n + 2 for n, size in enumerate(sizes) for _ in range(size)][: len(train)]
    index_landmarks = [5 * (n // 3) + 2 for n in range(len(index))]
    landmarks = dict(zip([*train, *index], [*train_landmarks, *index_landmarks], strict=True))
    clean = {image for image in train if landmarks[image] % 4 and rng.random() < 0.7}
    members = {}
    for image in train:
        if image in clean:
            members.setdefault(landmarks[image], []).append(image)
    hierarchy = ("church", "religious building", "human-made")
    label = 'http://commons.wikimedia.org/wiki/Category:Église "A, B" {}'.format
    tables = {
        "train": ("id,url,landmark_id", [(i, f"https://x/a,{i}.jpg", landmarks[i]) for i in train]),
        "train_clean": ("landmark_id,images", [(n, " ".join(m)) for n, m in members.items()]),
        "train_attribution": (
            "id,url,author,license,title",
            [(i, "https://" + 400 * "x", "Zoë, B.", "CC-BY", f'a "title"\n{i}') for i in train],
        ),
        "index": ("id", [(i,) for i in index]),
        "index_image_to_landmark": ("id,landmark_id", [(i, landmarks[i]) for i in index]),
        "test": ("id", [(i,) for i in test]),
    }
    for part, ids in (("train", train), ("index", index)):
        known = sorted({landmarks[i] for i in ids})
        tables[f"{part}_label_to_category"] = (
            "landmark_id,category",
            [(n, label(n)) for n in known],
        )
        tables[f"{part}_label_to_hierarchical"] = (
            "landmark_id,category,supercategory,hierarchical_label,natural_or_human_made",
            [(n, label(n), *hierarchy) for n in known],
        )
    (root / "metadata").mkdir()
    for name, (header, rows) in tables.items():
        write_table(root / "metadata" / f"{name}.csv", rows, header.split(","))
    _write_solutions(root / "ground_truth", train_landmarks, index, test)
    return landmarks, clean


def _write_solutions(folder, train_landmarks, index, test):
    """Query n has n % 4 landmarks and n % 5 images; those without images are ignored."""
    folder.mkdir()
    usages = itertools.cycle(["Public", "Private"])
    recognition, retrieval = [], []
    for number, (query, usage) in enumerate(zip(test, usages, strict=False)):
        truths = sorted(set(train_landmarks))[number : number + number % 4]
        recognition.append((query, " ".join(map(str, truths)), usage))
        images = index[number : number + number % 5]
        retrieval.append((query, " ".join(images), usage) if images else (query, "None", "Ignored"))
    write_table(folder / "recognition_solution_v2.1.csv", recognition, ("id", "landmarks", "Usage"))
    write_table(folder / "retrieval_solution_v2.1.csv", retrieval, ("id", "images", "Usage"))


def _batched(items, size):  # Python 3.11 has no itertools.batched
    items = iter(items)
    while batch := tuple(itertools.islice(items, size)):
        yield batch


@dataclasses.dataclass(frozen=True)
class Request:
    method: str
    path: str
    range: str | None
    status: int


class Server(http.server.ThreadingHTTPServer):
    """Serves a folder with ETag and Range, and misbehaves where `faults` says so.

    faults: {"GET train/images_000.tar": ["close", "503"]}, used up one per request. "close" and
    "stall" send the first 70 % of what was asked for and then close or are silent; "whole" ignores
    the Range; a number is the status of an answer without file; "huge" claims 2 PB.
    log: the requests answered, in their order.
    """

    daemon_threads = True

    def __init__(self, root):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.root = pathlib.Path(root)
        self.faults = {}
        self.log = []
        self.released = threading.Event()
        self.url = f"http://127.0.0.1:{self.server_port}"

    def requests(self, path, method="GET"):
        return [r for r in self.log if r.path == path and r.method == method]

    def handle_error(self, request, client_address):
        """A client that went away in the middle is what several tests want."""


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else each answer waits 40 ms for a late ACK
    server: Server

    def do_HEAD(self):
        self._answer()

    def do_GET(self):
        self._answer()

    def log_message(self, *arguments):
        pass

    def _answer(self):
        path = self.path.lstrip("/")
        fault = next(iter(self.server.faults.get(f"{self.command} {path}", [])), None)
        if fault is not None:
            self.server.faults[f"{self.command} {path}"].pop(0)
        file = self.server.root / path
        if (fault or "").isdigit() or not file.is_file():
            self._start(path, int(fault or 404), {"Content-Length": "0"})
            return
        data = file.read_bytes()
        etag = f'"{hashlib.md5(data, usedforsecurity=False).hexdigest()}"'
        start = self._range_start(etag) if fault != "whole" else 0
        length = 2 * 10**15 if fault == "huge" else len(data) - start
        headers = {"ETag": etag, "Content-Length": str(length)}
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        self._start(path, 206 if start else 200, headers)
        if self.command == "HEAD":
            return
        data = data[start:]
        self.wfile.write(data[: len(data) * 7 // 10] if fault in ("close", "stall") else data)
        if fault == "stall":
            self.wfile.flush()
            self.server.released.wait(20)
        if fault in ("close", "stall"):
            self.close_connection = True

    def _range_start(self, etag):
        asked = self.headers.get("Range")
        is_same = self.headers.get("If-Range", etag) == etag
        return int(asked.removeprefix("bytes=").rstrip("-")) if asked and is_same else 0

    def _start(self, path, status, headers):
        self.server.log.append(Request(self.command, path, self.headers.get("Range"), status))
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()


@contextlib.contextmanager
def serve(root):
    """Runs a server for the folder `root` in threads of this process."""
    with Server(root) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield server
        finally:
            server.released.set()
            server.shutdown()
            thread.join()
