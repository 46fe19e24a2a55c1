"""Images that look the same without being the same file: another size, quality or brightness.

Each image gets a difference hash: it is shrunk to a grid of grey cells, and a bit says whether a
cell is brighter than its right neighbour (N. Krawetz, "Kind of Like That", hackerfactor.com, 2013).
Pairs are looked for by 64 bits of 9 x 8 cells; 256 bits of 17 x 16 cells must agree with them, as
among millions of images some share the coarse ones by chance.

On photographs of groceries at distance 4: of those saved again as JPEG of quality 20 or as WebP, in
1/3 or 3/2 of the size, brightened by 20 % or darkened by 30 %, 99.6 % or more are found; of those
cropped by 2 % at each side, 72 %; by 5 %, 1 %. Of 14.9 million pairs of different photographs, 22
are listed, most of them one scene or one design of package.

The hash is our own: ImageHash decodes every image in full, which takes 11 ms instead of 2 ms at
1600 x 1200 pixels, and brings PyWavelets for hashes that are of no use here.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping

import numpy as np
from PIL import Image

from tfrecords_tools.conversion import copies, images
from tfrecords_tools.conversion.catalogue import Catalogue
from tfrecords_tools.conversion.images import RejectedImageError
from tfrecords_tools.conversion.inspection import read_image

NEAR_DUPLICATES_NAME = "near_duplicates.csv"
DISTANCE = 4  # of 64 bits
LARGEST_DISTANCE = 8  # above, the bands are so short that most images share two of them
PAIRS, FLAT, CROWDED = "pairs", "without contrast", "in crowds"

# Of 256 bits. Another quality, size or brightness changes up to 15, a crop by 2 % up to 43.
_FINE_DISTANCE = 48
_CONTRAST = 8  # grey levels between the darkest and the brightest cell; below, bits are noise
_NEIGHBOURS = 256  # with which a hash is compared, of those that share two bands with it
_MEMBERS = 32  # of the images with one hash, each of which is paired with each
_BATCH = 200  # files per task
_INSERTED = 100_000  # pairs at a time

_UNHASHED = """
CREATE TEMP TABLE unhashed AS SELECT number, path, offset, size FROM images
WHERE reason IS NULL AND number NOT IN (SELECT number FROM hashes) ORDER BY number
"""
_HASHES = """
SELECT number, hash, fine FROM hashes JOIN images USING (number)
WHERE hash NOTNULL AND reason IS NULL ORDER BY id
"""
_FLAT = """
SELECT count(*) FROM hashes JOIN images USING (number) WHERE hash IS NULL AND reason IS NULL
"""
# Copies byte for byte are listed elsewhere.
_ALIKE = """
SELECT one.id, one.class, one.split, other.id, other.class, other.split, distance FROM alike
JOIN images AS one ON one.number = first JOIN images AS other ON other.number = second
WHERE one.digest IS NULL OR one.digest IS NOT other.digest
ORDER BY distance, one.id, other.id
"""
_ROW = np.dtype([("number", np.int64), ("hash", np.int64), ("fine", "S32")])


def hash_image(data: bytes) -> tuple[int, bytes] | None:
    """Returns the hashes of 64 and of 256 bits of an image, None if it has no contrast.

    Raises RejectedImageError if it cannot be decoded.
    """
    # A JPEG file of 1000 pixels is decoded at 1/8: 0.3 ms for 348 x 348 pixels.
    gray = images.decode_gray(data, at_least=(17 * 8, 16 * 8))
    coarse, fine = (_cells(gray, (height + 1, height)) for height in (8, 16))
    if coarse.max() - coarse.min() < _CONTRAST:
        return None
    return int.from_bytes(_bits(coarse), "big"), _bits(fine)


def _cells(gray: Image.Image, size: tuple[int, int]) -> np.ndarray:
    return np.asarray(gray.resize(size, Image.Resampling.BILINEAR), np.int16)  # antialiased


def _bits(cells: np.ndarray) -> bytes:
    return np.packbits(cells[:, :-1] > cells[:, 1:]).tobytes()


def hash_places(task: list[list]) -> list[list]:
    """Hashes images where they lie; a task of `jobs.run`.

    Args:
        task: places [number, path, offset, size].

    Returns:
        For each [number, 64 bits as a signed integer, 256 bits in hexadecimal]; None for both
        where the image has no contrast or cannot be decoded.
    """
    results = []
    for number, *place in task:
        try:
            hashes = hash_image(read_image(*place))
        except RejectedImageError:
            hashes = None
        coarse, fine = hashes or (None, None)
        signed = None if coarse is None else coarse - (coarse >> 63 << 64)
        results.append([number, signed, fine and fine.hex()])
    return results


class ClosePairs:
    """Finds the pairs of hashes that differ in few bits, without comparing all.

    The bits are cut into `distance` + 2 bands, of which a pair shares two. For every two bands the
    hashes are sorted by them, and those that share them stand side by side.

    Args:
        hashes: uint64 (N,), sorted, all different.
        distance: the largest number of different bits.
        neighbours: with how many others in a crowd that shares two bands a hash is compared.

    Iterating yields int64 (P, 3): positions of the first and the second hash, distance.
    """

    def __init__(self, hashes: np.ndarray, distance: int, neighbours: int = _NEIGHBOURS):
        self.hashes = hashes
        self.distance = distance
        self.neighbours = neighbours
        self._is_crowded = np.zeros(len(hashes), bool)

    @property
    def crowded(self) -> int:
        """Hashes that were not compared with all of their crowd, so far."""
        return int(self._is_crowded.sum())

    def __iter__(self) -> Iterator[np.ndarray]:
        borders = np.linspace(0, 64, self.distance + 3).round().astype(int)
        bands = [
            np.uint64((1 << int(end)) - (1 << int(start)))
            for start, end in itertools.pairwise(borders)
        ]
        masks = [one | other for one, other in itertools.combinations(bands, 2)]
        for number, mask in enumerate(masks):
            yield from self._sharing(mask, masks[:number])

    def _sharing(self, mask: np.uint64, earlier: list[np.uint64]) -> Iterator[np.ndarray]:
        """Yields the pairs that agree under a mask, less those that agree under an earlier one."""
        keys = self.hashes & mask
        order = np.argsort(keys, kind="stable")
        keys = keys[order]
        places = np.arange(len(keys))
        for shift in range(1, self.neighbours + 2):
            places = places[: np.searchsorted(places, len(keys) - shift)]
            places = places[keys[places] == keys[places + shift]]
            if not places.size:
                return
            if shift <= self.neighbours:
                yield self._compare(order[places], order[places + shift], earlier)
        self._is_crowded[order[places]] = True

    def _compare(
        self, first: np.ndarray, second: np.ndarray, earlier: list[np.uint64]
    ) -> np.ndarray:
        differing = self.hashes[first] ^ self.hashes[second]
        distances = np.bitwise_count(differing)
        is_new = distances <= self.distance
        for mask in earlier:
            is_new[is_new] = (differing[is_new] & mask) != 0
        return np.stack([first[is_new], second[is_new], distances[is_new]], axis=1)


def save(
    catalogue: Catalogue,
    directory: str,
    distance: int,
    run: Callable[[Iterable[list]], Iterator[list]],
) -> dict[str, int]:
    """Writes `near_duplicates.csv`: pairs of images that look the same, the closest first.

    Memory: about 130 bytes per image.

    Args:
        catalogue: of a planned conversion.
        directory: where the file goes.
        distance: the largest number of different bits, of 64.
        run: takes batches of [number, path, offset, size], yields the result of `hash_places`.

    Raises ValueError for a distance out of range.

    Returns:
        The number of PAIRS, of those OTHER_CLASS and BOTH_SPLITS of `copies`; of images FLAT, that
        have no hash, and CROWDED, that were not compared with all others.
    """
    check_distance(distance)
    _hash_all(catalogue, run)
    rows = np.fromiter(catalogue.ask(_HASHES), _ROW)
    catalogue.change("DROP TABLE IF EXISTS temp.alike")
    catalogue.change("CREATE TEMP TABLE alike (first INTEGER, second INTEGER, distance INTEGER)")
    crowded = _find(catalogue, rows, distance)
    header = ("id", "label", "split", "other_id", "other_label", "other_split", "distance")
    path = f"{directory}/{NEAR_DUPLICATES_NAME}"
    counts = copies.write_pairs(path, header, catalogue.ask(_ALIKE), PAIRS)
    return counts | {FLAT: catalogue.value(_FLAT), CROWDED: crowded}


def check_distance(distance: int) -> None:
    """Raises ValueError for a distance out of range."""
    if not 0 <= distance <= LARGEST_DISTANCE:
        raise ValueError(
            f"expected near duplicates at a distance from 0 to {LARGEST_DISTANCE}. "
            f"Received: {distance}"
        )


def describe(counts: Mapping[str, int]) -> str:
    """Returns a line with what `save` has found."""
    kinds = (copies.OTHER_CLASS, copies.BOTH_SPLITS)
    more = ", ".join(f"{counts[kind]} {kind}" for kind in kinds if counts[kind])
    text = f"note: {counts[PAIRS]} pairs of images look the same{f' ({more})' if more else ''}"
    text += f": {NEAR_DUPLICATES_NAME} lists them"
    if counts[FLAT]:
        text += f"; {counts[FLAT]} images without contrast are not compared"
    if counts[CROWDED]:
        text += f"; {counts[CROWDED]} images are like so many that some pairs are not listed"
    return text


def _hash_all(catalogue: Catalogue, run: Callable[[Iterable[list]], Iterator[list]]) -> None:
    """Hashes the images that a stopped run has left."""
    catalogue.change(
        "CREATE TABLE IF NOT EXISTS hashes (number INTEGER PRIMARY KEY, hash INTEGER, fine BLOB)"
    )
    catalogue.change("DROP TABLE IF EXISTS temp.unhashed")
    catalogue.change(_UNHASHED)
    for results in run(catalogue.batches("SELECT * FROM unhashed", _BATCH)):
        catalogue.change_many(
            "INSERT INTO hashes VALUES (?, ?, ?)",
            [(number, coarse, fine and bytes.fromhex(fine)) for number, coarse, fine in results],
        )


def _find(catalogue: Catalogue, rows: np.ndarray, distance: int) -> int:
    """Stores the pairs of rows that look the same; returns how many images were CROWDED."""
    words = rows.view(np.uint64).reshape(-1, _ROW.itemsize // 8)  # (N, 6)
    coarse, fine = words[:, 1], words[:, 2:]
    order = np.argsort(coarse, kind="stable")  # and those with one hash by id, as the rows are
    hashes, starts, sizes = np.unique(coarse[order], return_index=True, return_counts=True)
    close = ClosePairs(hashes, distance)
    pairs = itertools.chain(_equal(starts, sizes), _unequal(starts, sizes, close))
    while batch := list(itertools.islice(pairs, _INSERTED)):
        members, distances = np.split(np.array(batch), [2], axis=1)  # (P, 2), (P, 1)
        members = np.sort(order[members], axis=1)
        differing = np.bitwise_count(fine[members[:, 0]] ^ fine[members[:, 1]]).sum(axis=1)
        found = np.concatenate([rows["number"][members], distances], axis=1)
        catalogue.change_many(
            "INSERT INTO alike VALUES (?, ?, ?)", found[differing <= _FINE_DISTANCE].tolist()
        )
    return close.crowded + int(sizes[sizes > _MEMBERS].sum())


def _equal(starts: np.ndarray, sizes: np.ndarray) -> Iterator[tuple[int, int, int]]:
    """Yields pairs of images with one hash; in a crowd the first with each of the others."""
    several = sizes > 1
    for start, size in zip(starts[several].tolist(), sizes[several].tolist(), strict=True):
        near = start + min(size, _MEMBERS)
        for first, second in itertools.combinations(range(start, near), 2):
            yield first, second, 0
        for second in range(near, start + size):
            yield start, second, 0


def _unequal(
    starts: np.ndarray, sizes: np.ndarray, close: ClosePairs
) -> Iterator[tuple[int, int, int]]:
    """Yields pairs of images with two hashes."""
    for found in close:
        one, other, distances = found.T
        firsts, seconds = (
            zip(starts[group].tolist(), np.minimum(sizes[group], _MEMBERS).tolist(), strict=True)
            for group in (one, other)
        )
        for first, second, distance in zip(firsts, seconds, distances.tolist(), strict=True):
            ranges = (range(start, start + size) for start, size in (first, second))
            for pair in itertools.product(*ranges):
                yield *pair, distance
