"""Users' own checkpoints: a folder of files as the originals, and the network that they belong to. No torch.

`read_user_checkpoints` reads and checks all files while the sweep is planned; `user_stages` describes the stages that
read them again on the same machine. Stages name the files' content by checksums. `harness.weights.checkpoint_files`
opens the files.
"""

import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from harness.core.apart import apart
from harness.core.errors import UserError
from harness.core.fingerprint import checksum, fingerprint
from harness.core.paths import existing_file, existing_folder
from harness.core.stages import Code, Stage
from harness.models.classifiers.networks import Outline
from harness.weights.config import CheckpointsConfig
from harness.weights.layout import Layout

USER_NETWORK = Code("user network", 1, "harness.weights.checkpoint_files:make_network")
USER_TRAJECTORY = Code("user trajectory", 1, "harness.weights.checkpoint_files:make_trajectory")
ENDINGS = (".safetensors", ".pt", ".pth", ".bin")


class File(NamedTuple):
    """A file as it was when the sweep was planned."""

    path: str
    checksum: str


class UserCheckpoints(NamedTuple):
    """A user's checkpoints, all of them checked: the base network's file, and the trajectory's, oldest first."""

    base: File
    files: tuple[File, ...]
    steps: tuple[int, ...]  # of the files


def read_user_checkpoints(
    config: CheckpointsConfig, outline: Outline, layout: Layout, least: int
) -> UserCheckpoints:
    """Reads and checks the checkpoints in the folder `config.path`.

    The files in the natural order of their names are the trajectory; `config.base`, or else the last of them, is the
    base network. A base that lies in the folder is not a checkpoint. Each file holds the varied parameters of
    `layout`, or all parameters, and those that do not vary must equal the base network's; running statistics outside
    the layout may differ, and those of the base network are used. Raises `UserError` naming the first file that
    breaks these rules, and for fewer than `least` checkpoints.
    """
    files = _list_files(config, least)
    base = _file(config.base) if config.base is not None else files[-1]
    states = [[str(file), file.stat().st_size, file.stat().st_mtime_ns] for file in (base, *files)]
    key = fingerprint([states, outline, layout.to_json(), config.base is not None])
    if key not in _checked:
        names = [str(file) for file in files]
        apart("harness.weights.checkpoint_files:check", names, str(base), outline, layout.to_json())
        _checked[key] = UserCheckpoints(
            File(str(base), checksum(base)),
            tuple(File(str(file), checksum(file)) for file in files),
            tuple(steps_of([file.stem for file in files])),
        )
    return _checked[key]


_checked: dict[str, UserCheckpoints] = {}  # a plan asks for the same files for every seed and variation


def user_stages(found: UserCheckpoints, settings: Mapping[str, Any], layout: Layout) -> tuple[Stage, Stage]:
    """Returns the stage with the base network, of these `settings`, and that with the trajectory."""
    network = Stage(
        kind="network",
        code=USER_NETWORK,
        config={"network": dict(settings), "checksum": found.base.checksum},
        options={"path": found.base.path},
        local=True,
    )
    trajectory = Stage(
        kind="trajectory",
        code=USER_TRAJECTORY,
        config={
            "checksums": [file.checksum for file in found.files],
            "steps": list(found.steps),
            "layout": layout.to_json(),
        },
        needs={"network": network},
        options={"paths": [file.path for file in found.files]},
        local=True,
    )
    return network, trajectory


def steps_of(names: Sequence[str]) -> list[int]:
    """Returns the first number in each name that grows from name to name; else 0, 1, 2, ..."""
    for column in zip(*(re.findall(r"\d+", name) for name in names), strict=False):
        steps = [int(number) for number in column]
        if all(before < after for before, after in pairwise(steps)) and steps[-1] < 2**63:
            return steps
    return list(range(len(names)))


def _list_files(config: CheckpointsConfig, least: int) -> list[Path]:
    """Returns the files of the folder but for the base, 2 before 10."""
    folder = existing_folder(config.path or "")
    if folder is None:
        raise UserError(
            f"weights.checkpoints.path {_short(config.path)!r}: no such folder; give one with checkpoints"
        )
    base = _file(config.base) if config.base is not None else None
    found = [file for file in _listed(folder) if file.suffix.lower() in ENDINGS and file.is_file()]
    files = sorted((file for file in found if base is None or not file.samefile(base)), key=_natural)
    if not files:
        raise UserError(
            f"weights.checkpoints.path {config.path!r}: has no checkpoints, *{', *'.join(ENDINGS)}"
        )
    if len(files) < least:
        raise UserError(
            f"weights.checkpoints.path {config.path!r}: has {len(files)} checkpoints, but weights.k and "
            f"weights.checkpoints.held_out ask for {least}; add checkpoints, or ask for fewer"
        )
    return files


def _listed(folder: Path) -> list[Path]:
    """Returns what a folder holds, but for hidden files, as machines and editors leave them."""
    try:
        return [file for file in folder.iterdir() if not file.name.startswith(".")]
    except OSError as error:
        raise UserError(
            f"weights.checkpoints.path {_short(str(folder))!r}: cannot be read: {error.strerror}"
        ) from None


def _natural(file: Path) -> list[Any]:
    parts = re.split(r"(\d+)", file.name)
    return [int(part) if number % 2 else part for number, part in enumerate(parts)]


def _short(text: str | None) -> str:
    return (text or "")[:200]


def _file(text: str) -> Path:
    path = existing_file(text)
    if path is None:
        raise UserError(
            f"weights.checkpoints.base {_short(text)!r}: no such file; give one with all parameters"
        )
    return path
