"""Which scans an input means, what their results are called, and which paths are refused."""

from __future__ import annotations

import glob
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from phnet_monai.data.scan import SCAN_ENDINGS, is_scan

RESULT_FOLDERS = ("masks", "overlays", "hardness", "probabilities", "frames", "records")


@dataclass(frozen=True)
class Sources:
    """The scans that an input means.

    Attributes:
        folder: where they lie; results repeat the folders below it.
        scans: relative to `folder`, sorted.
    """

    folder: Path
    scans: list[Path]


def check_paths(source: str | Path, out: str | Path) -> tuple[Path, Path]:
    """`source` and `out` as paths, once it is clear that results can be written without touching the images.

    A `source` that is not there but holds `*`, `?` or `[` is a pattern, checked by the folder that it begins with.

    Raises:
        FileNotFoundError: `source` is not there.
        ValueError: `out` lies in `source` (the next run would take the masks for images), `source` lies in
            one of the result folders of `out` (the images would be overwritten), or `source` is a file that
            is no image.
        NotADirectoryError: `out`, or a folder above it, is a file.
    """
    source, out = Path(source), Path(out)
    searched = source if source.exists() else _fixed_part(source)
    if searched is None or not searched.exists():
        raise FileNotFoundError(f"{source}: no such file or folder; give an image, a folder of images or a pattern")
    if source.is_file() and not is_scan(source):
        endings = ", ".join(SCAN_ENDINGS)
        raise ValueError(f"{source} is no image by its name; expected one ending in {endings}")
    real_source, real_out = searched.resolve(), out.resolve()
    if searched.is_dir() and real_out.is_relative_to(real_source) and (searched == source or _may_match(source, out)):
        raise ValueError(
            f"the output folder {out} lies in the input folder {searched}: the next run would take the masks for "
            "images. Choose a folder outside of it."
        )
    if any(real_source.is_relative_to(real_out / name) for name in RESULT_FOLDERS):
        raise ValueError(f"the input {source} lies among the results of {out}; choose another output folder")
    check_out(out)
    return source, out


def _fixed_part(pattern: Path) -> Path | None:
    """The folder that a pattern begins with; None where it is no pattern."""
    parts = pattern.parts
    magic = [index for index, part in enumerate(parts) if glob.has_magic(part)]
    return Path(*parts[: magic[0]]) if magic else None


def _may_match(pattern: Path, out: Path) -> bool:
    """Whether the pattern could find results in `out`: it searches all folders, or names a folder above `out`."""
    if "**" in pattern.parts:
        return True
    matched = [Path(found).resolve() for found in glob.glob(str(pattern))]
    return any(found.is_dir() and out.resolve().is_relative_to(found) for found in matched)


def check_out(out: str | Path) -> Path:
    """`out` as a path. Raises NotADirectoryError if it, or a folder above it, is a file."""
    out = Path(out)
    for folder in (out, *out.parents):
        if folder.exists() and not folder.is_dir():
            raise NotADirectoryError(f"{folder} is a file, expected a folder for the results")
    return out


def find_scans(source: str | Path) -> Sources:
    """The scans that `source` means: one file, a folder with its subfolders, or a pattern (`scans/**/*.dcm`).

    Endings decide (any case); files without one are DICOM if they begin as such. Links to folders are not followed;
    names that begin with a dot are passed over (file managers and archive tools leave such files beside images).
    Folders that a pattern matches are searched like a folder.
    """
    source = Path(source)
    if source.is_file():
        return Sources(source.parent, [Path(source.name)])
    if source.is_dir():
        return Sources(source, _search(source))
    folder = _fixed_part(source) or source.parent
    found: set[Path] = set()
    for match in glob.iglob(str(source), recursive=True):
        path = Path(match)
        if path.is_dir() and not path.is_symlink():
            found.update(path / scan for scan in _search(path))
        elif path.is_file() and is_scan(path):
            found.add(path)
    return Sources(folder, sorted(path.relative_to(folder) for path in found))


def _search(folder: Path) -> list[Path]:
    found: list[Path] = []
    for place, subfolders, names in os.walk(folder, onerror=_raise):
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        here = Path(place)
        scans = (here / n for n in names if not n.startswith(".") and is_scan(here / n))
        found += [scan.relative_to(folder) for scan in scans]
    return sorted(found)


def _raise(error: OSError) -> None:
    raise error  # os.walk would pass over a folder that it may not read


def result_keys(scans: Sequence[Path]) -> dict[Path, Path]:
    """Scan -> what its results are called, without ending, both relative: `a/x.jpg` -> `a/x`, `b.nii.gz` -> `b`.

    Where two scans of one folder would share a name (`x.jpg`, `x.png`; upper and lower case count as the
    same, as on some disks), each keeps its ending: `x.jpg`, `x.png`.
    """
    keys = {scan: scan.with_name(stem(scan.name)) for scan in scans}
    while True:
        counts = Counter(str(key).casefold() for key in keys.values())
        clashing = [scan for scan, key in keys.items() if counts[str(key).casefold()] > 1 and key != scan]
        if not clashing:
            return keys
        keys.update({scan: scan for scan in clashing})


def stem(name: str) -> str:
    """Name of a scan without the ending that makes it one: `v1.2.bmp` -> `v1.2`, `x.nii.gz` -> `x`."""
    for suffix in sorted(SCAN_ENDINGS, key=len, reverse=True):
        if name.lower().endswith(suffix) and len(name) > len(suffix):
            return name[: -len(suffix)]
    return name
