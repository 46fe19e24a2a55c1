"""Where a workdir keeps what train.py writes and export/ reads."""

import os


def stage_directory(workdir: str, member: str, stage: int) -> str:
    """Returns the folder of one stage of one member: log, checkpoints, record and model."""
    return os.path.join(workdir, member, f"stage-{stage}")


def model_path(workdir: str, member: str, stage: int) -> str:
    """Returns the path of a stage's finished model; it exists when the stage is finished."""
    return os.path.join(stage_directory(workdir, member, stage), "model.keras")
