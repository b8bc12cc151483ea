"""What a scan is called in results, reports and messages."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from phnet_monai.files import sha256_of
from phnet_monai.inference.files import Sources, result_keys
from phnet_monai.inference.records import Job

HASH_LENGTH = 16


def plan_jobs(sources: Sources, kinds: Sequence[str], *, anonymize: bool = False) -> list[Job]:
    """One job per scan, in the order of the scans.

    Args:
        anonymize: names are the first 16 digits of the SHA-256 of the file's content, without folders. Only who has the
            file can tell which one it is (`sha256sum FILE`); a hash of its name could be found by trying names. Further
            copies of the same content get `-2`, `-3`, ...
    """
    if anonymize:
        names = hashed_names([sources.folder / scan for scan in sources.scans])
        return [Job(sources.folder / s, n, Path(n), tuple(kinds)) for s, n in zip(sources.scans, names, strict=True)]
    keys = result_keys(sources.scans)
    return [Job(sources.folder / scan, scan.as_posix(), keys[scan], tuple(kinds)) for scan in sources.scans]


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


def reason_of(error: BaseException, job: Job) -> str:
    """Why a scan failed, on one line, with the scan's shown name in place of its path and file name."""
    text = " ".join(str(error).split()) or type(error).__name__
    for real in (str(job.path), str(job.path.resolve()), job.path.name):
        text = text.replace(real, job.name if real != job.path.name else Path(job.name).name)
    return text
