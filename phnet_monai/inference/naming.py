"""What a scan is called in results, reports and messages."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from phnet_monai.files import digest, sha256_of
from phnet_monai.inference.files import Sources, result_keys
from phnet_monai.inference.records import Job

HASH_LENGTH = 16
_HASHED = re.compile(rf"[0-9a-f]{{{HASH_LENGTH}}}(-\d+)?|unreadable-\d+")


def plan_jobs(sources: Sources, kinds: Sequence[str], *, settings: str = "", anonymize: bool = False) -> list[Job]:
    """One job per scan, in the order of the scans.

    Args:
        settings: digest of model and settings (`files.digest`).
        anonymize: names are the first 16 digits of the SHA-256 of the file's content, without folders. Only who has the
            file can tell which one it is (`sha256sum FILE`); a hash of its name could be found by trying names. Further
            copies of the same content get `-2`, `-3`, ...
    """
    paths = [sources.folder / scan for scan in sources.scans]
    if anonymize:
        names = hashed_names(paths)
        return [Job(p, n, Path(n), tuple(kinds), settings) for p, n in zip(paths, names, strict=True)]
    keys = result_keys(sources.scans)
    return [
        Job(path, scan.as_posix(), keys[scan], tuple(kinds), settings, _origin(path))
        for path, scan in zip(paths, sources.scans, strict=True)
    ]


def _origin(path: Path) -> str:
    """Digest of where a file lies. A link to a file is a scan of its own, though not one to the folder it lies in."""
    return digest(os.path.join(os.path.realpath(path.parent), path.name))


def is_hashed(key: str) -> bool:
    """Whether a result's name is one that `hashed_names` gives: it tells of no file's name."""
    return _HASHED.fullmatch(key) is not None


def hashed_names(paths: Sequence[Path]) -> list[str]:
    """Names made of the files' content, see `plan_jobs`; one that cannot be read is named by its place in the list."""
    seen: Counter[str] = Counter()
    names = []
    for place, path in enumerate(paths, 1):
        try:
            name = sha256_of(path)[:HASH_LENGTH]
        except OSError:
            name = f"unreadable-{place}"
        seen[name] += 1
        names.append(name if seen[name] == 1 else f"{name}-{seen[name]}")
    return names


def failure_line(name: str, reason: str) -> str:
    """`name: reason`, the name once."""
    return f"{name}: {reason.removeprefix(f'{name}: ')}"


def reason_of(error: BaseException, job: Job) -> str:
    """Why a scan failed, on one line, with the scan's shown name in place of its path and file name.

    Where the real name would still show (a library may quote it in its own way), only the kind of error is told.
    """
    if isinstance(error, OSError) and error.strerror:
        return f"{Path(job.name).name}: {error.strerror}"
    text = str(error)
    shown = Path(job.name).name
    for real, instead in [
        (str(job.path), job.name),
        (os.path.realpath(job.path), job.name),
        (repr(str(job.path))[1:-1], job.name),
        (job.path.name, shown),
        (repr(job.path.name)[1:-1], shown),
    ]:
        text = text.replace(real, instead)
    text = " ".join(text.split()) or type(error).__name__
    hidden = job.path.name != shown
    words = [" ".join(job.path.stem.split()), *(part for part in job.path.parent.parts[-2:] if len(part) > 2)]
    if hidden and any(word and word in text for word in words):
        return f"{shown}: {type(error).__name__}"
    return text
