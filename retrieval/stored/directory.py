"""The files of an embeddings directory, and how all of them are replaced as one.

New files are written under temporary names, the manifest last, as `pending.json`. From then on the
new state counts: what a killed process has not renamed, the next one that opens the directory does.
"""

from __future__ import annotations

import contextlib
import json
import os

import files

FORMAT = "waymark-embeddings"
VERSION = 2  # 1 had float32 only, no loss and no checksums
VECTORS_NAME, IDS_NAME, MANIFEST_NAME = "embeddings.npy", "ids.txt", "manifest.json"
SCALES_NAME = "scales.npy"  # of int8 only
_PENDING_NAME = "pending.json"
_DATA_NAMES = (VECTORS_NAME, IDS_NAME, SCALES_NAME)


def partial(directory: str, name: str) -> str:
    """Returns the path under which a file is written."""
    return os.path.join(directory, name) + files.PARTIAL


def commit(directory: str, manifest: dict) -> None:
    """Replaces the files of a directory by the partial ones, which are complete and on the disk.

    Args:
        directory: of the embeddings.
        manifest: of the new files.
    """
    text = json.dumps(manifest, indent=2, ensure_ascii=False) + "\n"
    files.write_text(os.path.join(directory, _PENDING_NAME), text)
    files.remove(os.path.join(directory, MANIFEST_NAME))
    _rename(directory)
    if manifest["dtype"] != "int8":
        files.remove(os.path.join(directory, SCALES_NAME))


def complete(directory: str) -> None:
    """Ends a replacement that was interrupted after its files were complete."""
    finished = files.exists(os.path.join(directory, MANIFEST_NAME))
    if not finished and files.exists(os.path.join(directory, _PENDING_NAME)):
        _rename(directory)


def discard(directory: str) -> None:
    """Removes what is not complete."""
    files.remove(os.path.join(directory, _PENDING_NAME))
    for name in _DATA_NAMES:
        files.remove(partial(directory, name))


def _rename(directory: str) -> None:
    pairs = [(partial(directory, name), name) for name in _DATA_NAMES]
    # The manifest makes the directory complete.
    for source, name in [*pairs, (os.path.join(directory, _PENDING_NAME), MANIFEST_NAME)]:
        # Another process may be completing the same directory.
        with contextlib.suppress(FileNotFoundError):
            if files.exists(source):
                files.rename(source, os.path.join(directory, name))


def read_manifest(directory: str) -> dict:
    """Returns the manifest of a finished directory.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if it is not one of this format, or of a later version.
    """
    with contextlib.suppress(PermissionError):
        complete(directory)
    path = os.path.join(directory, MANIFEST_NAME)
    if not os.path.isfile(path):
        raise FileNotFoundError(
            f"expected a finished embeddings directory with {MANIFEST_NAME}. Received: {directory}"
        )
    try:
        manifest = json.loads(files.read(path))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"expected JSON in {path}. Received: {error}") from error
    expected = {"format": FORMAT, "normalized": True}
    is_known = isinstance(manifest, dict) and manifest.get("version") in range(1, VERSION + 1)
    if not is_known or any(manifest.get(key) != value for key, value in expected.items()):
        known = manifest if isinstance(manifest, dict) else {}
        received = {key: known.get(key) for key in ("format", "version", "normalized")}
        raise ValueError(
            f"expected {expected} and a version of at most {VERSION} in {path}. "
            f"Received: {received}"
        )
    for key in ("count", "dimension"):
        if not isinstance(manifest.get(key), int) or manifest[key] < (key == "dimension"):
            raise ValueError(f"expected a {key} in {path}. Received: {manifest.get(key)!r}")
    return manifest
