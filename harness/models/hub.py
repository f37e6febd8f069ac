"""Models of the Hugging Face Hub by id: their files at one commit, or a one-line error. No torch.

Messages begin with the `place` in the experiment that names the model, such as "backbone" for `backbone.path`.
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from harness.core.errors import UserError
from harness.core.paths import existing_folder

ID = re.compile(r"[\w.-]+(/[\w.-]+)?")
LONGEST_ID = 96  # characters
SHA256 = re.compile(r"[0-9a-f]{64}")
NOTES = ".cache/huggingface/download"  # where `hf download --local-dir` keeps what it knows of the files


def local_folder(place: str, path: str, ids: re.Pattern[str] = ID, setting: str = "path") -> Path | None:
    """Returns the folder that a path names, which takes precedence over the Hub; None if it can only be an id.

    Raises `UserError` if it is neither; `ids` is the pattern of ids.
    """
    folder = existing_folder(path)
    if folder is None and (not ids.fullmatch(path) or len(path) > LONGEST_ID):
        raise UserError(
            f"{place}.{setting} {path[:200]!r}: no such folder; give one that save_pretrained wrote, or a Hub id "
            "such as google/ddpm-cifar10-32 or facebook/dinov2-base"
        )
    return folder


def snapshot(
    place: str, name: str, revision: str | None, patterns: Sequence[str], setting: str = "path"
) -> Path:
    """Returns a folder with a model's files that match the patterns, downloaded unless cached.

    Raises `UserError` if they cannot be obtained.
    """
    from huggingface_hub import snapshot_download

    with _explained(place, name, revision, setting):
        return Path(snapshot_download(name, revision=revision, allow_patterns=list(patterns)))


def files(place: str, name: str, revision: str | None, needed: str, first_of: Sequence[str]) -> Path:
    """Returns a folder, named by the commit, with the file `needed` and the first of `first_of` that exists.

    Raises `UserError` if they cannot be obtained.
    """
    from huggingface_hub import hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    with _explained(place, name, revision):
        folder = Path(hf_hub_download(name, needed, revision=revision)).parent
        for other in first_of:
            try:
                hf_hub_download(name, other, revision=folder.name)
                break
            except LocalEntryNotFoundError:  # offline: absent only if the cache says so
                if try_to_load_from_cache(name, other, revision=folder.name) is None:
                    raise
            except EntryNotFoundError:
                continue
        return folder


def repository(path: Path) -> str | None:
    """Returns the id of the model to which a file or folder in the Hub's cache belongs; None elsewhere."""
    for folder in path.parents:
        if folder.name == "snapshots" and folder.parent.name.startswith("models--"):
            return folder.parent.name.removeprefix("models--").replace("--", "/")
    return None


def known_sha256(path: Path) -> str | None:
    """Returns the SHA-256 of a file that the Hub's client downloaded and nobody has changed since; None for others.

    The client names large files by it: in its cache by the blob that the file links to, in a folder of `hf download
    --local-dir` by the note that it leaves there.
    """
    try:
        if path.is_symlink():
            blob = path.resolve()
            downloaded, name = path.lstat().st_ctime, blob.name if blob.parent.name == "blobs" else ""
        else:
            blob, root = path, next(one for one in path.parents if (one / NOTES).is_dir())
            note = root / NOTES / f"{path.relative_to(root)}.metadata"
            _, name, time = note.read_text().split()
            downloaded = float(time)
        changed = blob.stat().st_ctime
    except (OSError, StopIteration, ValueError):
        return None
    return name if SHA256.fullmatch(name) and changed <= downloaded else None


@contextmanager
def _explained(place: str, name: str, revision: str | None, setting: str = "path") -> Iterator[None]:
    """Turns the client's errors into a `UserError` of one line that says what to do."""
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    given = f"{place}.{setting} {name!r}"
    try:
        yield
    except GatedRepoError:
        raise UserError(
            f"{given}: access is restricted; accept the terms on the model's page, then run `hf auth login`"
        ) from None
    except RevisionNotFoundError:
        raise UserError(f"{place}.revision {revision!r}: {name} has no such commit, tag or branch") from None
    except (RepositoryNotFoundError, HFValidationError):
        raise UserError(
            f"{given}: neither a local folder nor a model on the Hub; private models need `hf auth login`"
        ) from None
    except Exception as error:  # no network, a proxy, a full disk: the client has a different error for each
        if isinstance(error, EntryNotFoundError) and not isinstance(error, LocalEntryNotFoundError):
            reason = str(error).splitlines()[0]
            raise UserError(f"{given}: exists on the Hub, but a file is missing: {reason}") from None
        raise UserError(
            f"{given}: no such folder, and the Hub cannot be reached ({type(error).__name__}); go online "
            f"once, or download it elsewhere (`hf download {name} --local-dir FOLDER`) and give the folder"
        ) from None
