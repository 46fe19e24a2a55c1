"""Where a notebook runs, Colab, Kaggle or a machine of one's own, and what is missing there.

Nothing here loads TensorFlow: the kernel may have begun with another version of it, and a TPU
belongs to one process at a time.
"""

import glob
import importlib.metadata
import os
import pathlib
import sys
import tomllib
from collections.abc import Mapping, Sequence

from packaging.requirements import Requirement

import tensorflow_wheels
from tools import cells

OWN = "a machine of your own"
DRIVE = "/content/drive"
KEPT_ON_DRIVE = f"{DRIVE}/MyDrive/waymark"
# What only a machine with a TPU has: its chips, or a variable that names it.
TPU_CHIPS = ("/dev/accel*", "/dev/vfio/[0-9]*")
TPU_VARIABLES = ("TPU_NAME", "COLAB_TPU_ADDR", "KUBE_GOOGLE_CLOUD_TPU_ENDPOINTS")
GPU_SIGN = "/dev/nvidia0"


def place(environment: Mapping[str, str] = os.environ) -> str:
    """Returns "Colab", "Kaggle" or `OWN`."""
    if "COLAB_RELEASE_TAG" in environment:
        return "Colab"
    return "Kaggle" if "KAGGLE_KERNEL_RUN_TYPE" in environment else OWN


def accelerator() -> str:
    """Returns "tpu", "gpu" or "cpu", by the signs that such a machine has; also the extra's name.

    Whether TensorFlow reaches it is another question: see `find_device`.
    """
    named = any(os.environ.get(name) for name in TPU_VARIABLES)
    if named or any(glob.glob(pattern) for pattern in TPU_CHIPS):
        return "tpu"
    return "gpu" if os.path.exists(GPU_SIGN) else "cpu"


def prepare() -> None:
    """Says where the notebook runs, installs what is missing, and says what there is."""
    kind = accelerator()
    print(f"{place()}, with the signs of a {kind.upper()} machine", flush=True)
    install(cells.ROOT, kind)
    versions = [f"Python {sys.version.split()[0]}"]
    versions += [f"{name} {importlib.metadata.version(name)}" for name in ("keras", "numpy")]
    versions += [f"{name} {version}" for name, version in tensorflow_wheels.installed().items()]
    print(", ".join(versions), flush=True)


def install(project: str | os.PathLike[str], kind: str) -> None:
    """Installs the project's dependencies into this Python, where some are missing.

    Another TensorFlow gives way on Colab and Kaggle, whose machines are thrown away after use.

    Args:
        project: folder with pyproject.toml; without one pip has installed all of it before.
        kind: of `accelerator`.

    Raises:
        CommandError: pip did not succeed and has said why, or a TensorFlow that does not fit is on
            a machine of one's own.
    """
    path = pathlib.Path(project, "pyproject.toml")
    if not path.is_file():
        return
    table = tomllib.loads(path.read_text(encoding="utf-8"))["project"]
    extra = table["optional-dependencies"][kind]
    is_own = place() == OWN
    wheels = tensorflow_wheels.installed()
    unwanted, needed = changes(table["dependencies"], extra, wheels, keep_wheel=is_own)
    if unwanted and is_own:
        raise cells.CommandError(
            f"expected {extra[0]}. Received: {', '.join(unwanted)}; they share a folder. Take an "
            f"environment of its own, or pip uninstall -y {' '.join(unwanted)} first"
        )
    if unwanted:  # wheels of one folder: each would overwrite the other's files
        cells.python("-m", "pip", "uninstall", "--yes", *unwanted)
    if needed:
        print(f"installing {len(needed)} packages and what they need ...", flush=True)
        cells.python("-m", "pip", "install", "--quiet", *needed)
        importlib.invalidate_caches()


def changes(
    dependencies: Sequence[str],
    extra: Sequence[str],
    wheels: Mapping[str, str],
    *,
    keep_wheel: bool = False,
) -> tuple[list[str], list[str]]:
    """Returns the TensorFlow wheels to uninstall and the requirements to give to pip.

    A TensorFlow of the right version stays, whichever wheel it is from, since each drives a CPU;
    a TPU needs its own wheel.

    Args:
        dependencies: the project's, without TensorFlow.
        extra: requirements for the accelerator, TensorFlow's wheel first.
        wheels: of `tensorflow_wheels.installed`.
        keep_wheel: whether a TensorFlow of the right version stays even where there may be a TPU.
    """
    wheel = Requirement(extra[0])
    found = [name for name in tensorflow_wheels.WHEELS if name in wheels]
    fits = len(found) == 1 and wheels[found[0]] in wheel.specifier
    fits = fits and (keep_wheel or wheel.name != "tensorflow-tpu" or found == [wheel.name])
    fits = fits and tensorflow_wheels.find_problem(wheels) is None
    if fits and all(map(_is_met, dependencies)):
        return [], []
    if fits:
        # Named to pip, so that it changes no version of it.
        return [], [*dependencies, f"{found[0]}=={wheels[found[0]]}"]
    unwanted = found if len(found) > 1 else [name for name in found if name != wheel.name]
    return unwanted, [*dependencies, *extra]


def _is_met(text: str) -> bool:
    requirement = Requirement(text)
    try:
        return importlib.metadata.version(requirement.name) in requirement.specifier
    except importlib.metadata.PackageNotFoundError:
        return False


def find_device() -> list[str]:
    """Says on what the training will run; returns train.py's options for it.

    Where there are signs of a TPU it is tried in a process of its own; if TensorFlow does not reach
    it, that is said, and the training goes on with the GPU or the CPU.
    """
    if accelerator() == "tpu":
        try:
            cells.run("tools/devices.py", "--tpu")
        except cells.CommandError:
            print("TensorFlow does not reach the TPU; going on without it", flush=True)
        else:
            return ["--tpu"]
    cells.run("tools/devices.py")
    return []


def folders(workdir: str | None, recipe: str) -> tuple[str, str]:
    """Returns the folder that is kept and the one that is made anew within minutes.

    Checkpoints, logs and finished models are kept; photographs, shards and embeddings are made
    anew. Both are one folder, unless the first is on Drive or in a bucket: many small files are
    slow there.

    Args:
        workdir: what to keep; None is the folder waymark/RECIPE of the Drive on Colab, if it may be
            mounted, and runs/RECIPE of this machine elsewhere.
        recipe: name of the recipe.
    """
    local = os.path.join("runs", recipe)
    if workdir is None:
        is_mounted = place() == "Colab" and _try_to_mount()
        workdir = f"{KEPT_ON_DRIVE}/{recipe}" if is_mounted else local
    else:
        open_access(workdir)
    is_slow = "://" in workdir or workdir.startswith(f"{DRIVE}/")
    return workdir, local if is_slow else workdir


def open_access(path: str) -> None:
    """On Colab: mounts the Drive for a path on it, or signs in for one in a bucket."""
    if place() != "Colab":
        return
    if path.startswith(f"{DRIVE}/"):
        from google.colab import drive

        drive.mount(DRIVE)
    elif path.startswith("gs://"):
        from google.colab import auth

        auth.authenticate_user()


def _try_to_mount() -> bool:
    try:
        open_access(KEPT_ON_DRIVE)
    except Exception as error:  # what Colab raises when the user says no is not documented
        print(f"no Drive ({error}): a disconnect will cost the training", flush=True)
        return False
    return True
