"""SHA-256 of shipped weights: `SHA256SUMS` beside them, in the form that `sha256sum -c` reads."""

from __future__ import annotations

import re
from pathlib import Path

from phnet_monai.files import atomic_writer, sha256_of
from phnet_monai.networks.description import CheckpointError

SUMS = "SHA256SUMS"
_LINE = re.compile(r"([0-9a-fA-F]{64}) [ *](.+)")


def read_digests(folder: str | Path) -> dict[str, str]:
    """File name -> SHA-256 as `folder`/SHA256SUMS tells; nothing where there is no such file.

    Raises:
        CheckpointError: a line is no digest with a name.
    """
    path = Path(folder) / SUMS
    if not path.is_file():
        return {}
    digests = {}
    for number, line in enumerate(path.read_text(encoding="utf-8-sig", errors="replace").splitlines(), start=1):
        if not line.strip():
            continue
        if not (match := _LINE.fullmatch(line)):
            raise CheckpointError(f"{path}, line {number}: found {line!r}, expected 64 hex digits, two spaces, a name")
        digests[match[2]] = match[1].lower()
    return digests


def check_digest(path: str | Path) -> None:
    """Refuse a file that is not the one that `SHA256SUMS` beside it names; files that stand in no such list pass.

    Raises:
        CheckpointError: the digests differ.
    """
    path = Path(path)
    expected = read_digests(path.parent).get(path.name)
    if expected is not None and (found := sha256_of(path)) != expected:
        raise CheckpointError(
            f"{path}: its SHA-256 is {found}, but {SUMS} beside it says {expected}: the file is damaged, or was "
            f"replaced. Get it again; if you replaced it yourself, take its line out of {path.parent / SUMS}."
        )


def record_digests(folder: str | Path, names: list[str]) -> None:
    """Write the digests of these files of `folder` into its `SHA256SUMS`; the other lines stay."""
    digests = read_digests(folder) | {name: sha256_of(Path(folder) / name) for name in names}
    with atomic_writer(Path(folder) / SUMS) as stream:
        stream.write("".join(f"{digest}  {name}\n" for name, digest in sorted(digests.items())).encode("utf-8"))
