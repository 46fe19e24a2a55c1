"""What several tests share."""

import os
import pathlib

import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

ROOT = pathlib.Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def shared() -> pathlib.Path:
    """The folder of real photographs and reference values beside the checkout.

    A user's clone has none: the test is skipped. In CI its absence is a failure.
    """
    folder = ROOT.parent / "shared"
    if not folder.is_dir():
        if os.environ.get("CI") == "true":
            pytest.fail(f"CI needs the folder {folder}")
        pytest.skip("needs ../shared (real photographs and reference values), which a clone lacks")
    return folder
