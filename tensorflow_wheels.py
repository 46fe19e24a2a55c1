"""Looks at the installed TensorFlow before it is imported, where a wrong one says nothing useful.

The wheels tensorflow, tensorflow-cpu and tensorflow-tpu install into one folder and overwrite each
other's files; tensorflow-tpu beside a libtpu without its entry points aborts the process; and off
the cloud it asks Google's metadata server for minutes, unless it is told not to.
"""

import http.client
import importlib.metadata
import importlib.util
import os
import re
import sys
from collections.abc import Mapping

WHEELS = ("tensorflow", "tensorflow-cpu", "tensorflow-tpu")
# The versions of libtpu that tensorflow-tpu 2.20 imports with; 0.0.32 and later abort.
OLDEST_LIBTPU, NEWEST_LIBTPU = (0, 0, 14), (0, 0, 31)
# Where a TPU VM's image has it.
SYSTEM_LIBRARIES = ("/lib/libtpu.so", "/usr/lib/libtpu.so", "/usr/local/lib/libtpu.so")
_METADATA_ADDRESS = "169.254.169.254"


def environment() -> dict[str, str]:
    """Returns what has to be in `os.environ` before TensorFlow is imported.

    Raises:
        SystemExit: with code 2, after a sentence on stderr, if the import would fail or abort.
    """
    versions = installed()
    if problem := find_problem(versions):
        print(f"error: {problem}", file=sys.stderr)
        raise SystemExit(2)
    wanted = {"TF_CPP_MIN_LOG_LEVEL": "1"}  # warnings, but no notes
    asks = "tensorflow-tpu" in versions and "TPU_SKIP_MDS_QUERY" not in os.environ
    if asks and not is_on_google_cloud():
        wanted["TPU_SKIP_MDS_QUERY"] = "1"
    return {name: value for name, value in wanted.items() if name not in os.environ}


def installed() -> dict[str, str]:
    """Returns the versions of those of the three TensorFlow wheels and libtpu that are there."""
    versions = {}
    for name in (*WHEELS, "libtpu"):
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def find_problem(versions: Mapping[str, str]) -> str | None:
    """Returns what is wrong with a set of wheels and what to do about it, or None.

    Args:
        versions: of `installed`.
    """
    wheels = [f"{name} {versions[name]}" for name in WHEELS if name in versions]
    if len(wheels) > 1:
        names = " ".join(name for name in WHEELS if name in versions)
        return (
            f"{' and '.join(wheels)} are installed into one folder and overwrite each other: "
            f"pip uninstall -y {names}, then pip install -e '.[tpu]' (or .[gpu], .[cpu])"
        )
    if not wheels and importlib.util.find_spec("tensorflow") is None:
        return "TensorFlow is not installed: pip install -e '.[cpu]' (or .[gpu], .[tpu])"
    if versions.get("tensorflow-tpu", "").startswith("2.20."):
        return _libtpu_problem(versions.get("libtpu"))
    return None


def _libtpu_problem(version: str | None) -> str | None:
    advice = "pip install -e '.[tpu]' installs one that fits"
    if version is None:
        paths = [os.environ.get("TPU_LIBRARY_PATH"), *SYSTEM_LIBRARIES]
        if any(path and os.path.exists(path) for path in paths):
            return None  # the machine's own, whose version is not written anywhere
        return f"tensorflow-tpu is installed without libtpu, which drives the chip: {advice}"
    number = tuple(int(digits) for digits in re.findall(r"\d+", version)[:3])
    if OLDEST_LIBTPU <= number <= NEWEST_LIBTPU:
        return None
    oldest, newest = (".".join(map(str, n)) for n in (OLDEST_LIBTPU, NEWEST_LIBTPU))
    return (
        f"tensorflow-tpu 2.20 aborts beside libtpu {version}; expected libtpu {oldest} to "
        f"{newest}: {advice}"
    )


def is_on_google_cloud(timeout: float = 1.0) -> bool:
    """Whether Google Cloud's metadata server answers this machine.

    Args:
        timeout: seconds to wait. No name is looked up, so that nothing else can hang.
    """
    return metadata("", timeout) is not None


def metadata(name: str, timeout: float = 1.0) -> str | None:
    """Returns what Google Cloud's metadata server says of this machine, or None.

    Args:
        name: such as "instance/attributes/accelerator-type"; an empty text if it has no value.
        timeout: see `is_on_google_cloud`.
    """
    address = os.environ.get("GCE_METADATA_HOST") or os.environ.get("GCE_METADATA_IP")
    connection = http.client.HTTPConnection(address or _METADATA_ADDRESS, timeout=timeout)
    try:
        path = f"/computeMetadata/v1/{name}" if name else "/"
        connection.request("GET", path, headers={"Metadata-Flavor": "Google"})
        response = connection.getresponse()
        if response.headers.get("Metadata-Flavor") != "Google":
            return None
        return response.read().decode() if response.status == 200 else ""
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()
