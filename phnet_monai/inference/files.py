"""Which scans an input means, what their results are called, and which paths are refused."""

from __future__ import annotations

import glob
import hashlib
import os
import stat
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from phnet_monai.data.mask_names import without_masks
from phnet_monai.data.scan import SCAN_ENDINGS, is_scan
from phnet_monai.files import check_out, real_path

LONGEST_NAME = 240
"""Bytes of a result's name without its ending."""

RESULT_ENDINGS = (".png", ".nii.gz", ".dcm", ".jpg", ".json")
"""What a result's name may end in: masks of each kind of scan, pictures of it, and its record."""

OTHER_PICTURES = (".webp", ".gif", ".jp2", ".heic", ".avif", ".mp4", ".avi", ".mov", ".mkv", ".wmv")
"""Endings of pictures and films that are not read: somebody may miss them."""

RESULT_FOLDERS = ("masks", "overlays", "hardness", "probabilities", "frames", "records")


@dataclass(frozen=True)
class Sources:
    """The scans that an input means.

    Attributes:
        folder: where they lie; results repeat the folders below it.
        scans: relative to `folder`, sorted.
        unreadable: folders that may not be looked into, relative to `folder`, with the reason.
        results: folders of an earlier run's results, which are passed over, relative to `folder`.
        masks: what is passed over since it is a mask by its name (`mask_names.without_masks`), relative to `folder`.
        others: pictures and films of kinds that are not read, by their ending, where folders were searched.
    """

    folder: Path
    scans: list[Path]
    unreadable: dict[Path, str] = field(default_factory=dict)
    results: list[Path] = field(default_factory=list)
    masks: list[Path] = field(default_factory=list)
    others: Counter[str] = field(default_factory=Counter)


def check_paths(source: str | Path, out: str | Path) -> tuple[Path, Path]:
    """`source` and `out` as paths, once it is clear that results can be written without touching the images.

    A `source` that is not there but holds `*`, `?` or `[` is a pattern, checked by the folder that it begins with.

    Raises:
        FileNotFoundError: `source` is not there.
        ValueError: `out`, or what one of its result folders links to, lies in `source` (the next run would take the
            masks for images), `source` lies in one of the result folders of `out` (the images would be overwritten),
            or `source` is a file that is no image.
        NotADirectoryError: `out`, or a folder above it, is a file.
    """
    check_out(out)
    source, out = Path(source), Path(out)
    searched = source if source.exists() else _fixed_part(source)
    if searched is None or not searched.exists():
        raise FileNotFoundError(f"{source}: no such file or folder; give an image, a folder of images or a pattern")
    if source.is_file() and not is_scan(source):
        endings = ", ".join(SCAN_ENDINGS)
        raise ValueError(f"{source} is no image by its name; expected one ending in {endings}")
    real_source = real_path(searched)
    for folder in (out, *(out / name for name in RESULT_FOLDERS if (out / name).is_symlink())):
        inside = searched.is_dir() and real_path(folder).is_relative_to(real_source)
        if inside and (searched == source or _may_match(source, folder)):
            raise ValueError(
                f"the output folder {folder} lies in the input folder {searched}: the next run would take the masks "
                "for images. Choose a folder outside of it."
            )
    if any(real_source.is_relative_to(real_path(out / name)) for name in RESULT_FOLDERS):
        raise ValueError(f"the input {source} lies among the results of {out}; choose another output folder")
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
    matched = [real_path(found) for found in glob.glob(str(pattern))]
    return any(found.is_dir() and real_path(out).is_relative_to(found) for found in matched)


def find_scans(source: str | Path) -> Sources:
    """The scans that `source` means: one file, a folder with its subfolders, or a pattern (`scans/**/*.dcm`).

    Endings decide (any case); files with none or another one are DICOM if they begin as such. Links to folders are not
    followed; names that begin with a dot are passed over (file managers and archive tools leave such files beside
    images), and so are results of an earlier run that lie among the images, and masks of images among them. Folders
    that a pattern matches are searched like a folder; those on its way that may not be looked into are noted.

    Raises:
        OSError: the folder `source` itself may not be looked into; one below it is noted in `Sources.unreadable`.
    """
    source = Path(source)
    if source.is_file():
        return Sources(source.parent, [Path(source.name)])
    if source.is_dir():
        others: Counter[str] = Counter()
        return _sources(source, *_search(source, others), others)
    folder = _fixed_part(source) or source.parent
    found: set[Path] = set()
    results: set[Path] = set()
    others = Counter[str]()
    unreadable = _closed_on_the_way(source, folder)
    for match in glob.iglob(str(source), recursive=True):
        path = Path(match)
        between = _between(folder, path)
        if any(above.is_symlink() for above in between):
            continue
        if passed := [above for above in between if _holds_results(above)]:
            results.add(passed[0].relative_to(folder))
            continue
        if path.is_dir():
            if reason := _refusal(path):
                unreadable[path.relative_to(folder)] = reason
                continue
            scans, closed, passed = _search(path, others)
            found.update(path / scan for scan in scans)
            results.update((path / place).relative_to(folder) for place in passed)
            unreadable |= {(path / place).relative_to(folder): reason for place, reason in closed.items()}
        elif _readable(path) and is_scan(path):
            found.add(path)
    return _sources(folder, sorted(path.relative_to(folder) for path in found), unreadable, sorted(results), others)


def _sources(
    folder: Path, found: list[Path], unreadable: dict[Path, str], results: list[Path], others: Counter[str]
) -> Sources:
    scans, masks = without_masks(found, [stem(scan.name) for scan in found])
    return Sources(folder, scans, unreadable, results, masks, others)


def _closed_on_the_way(pattern: Path, folder: Path) -> dict[Path, str]:
    """Folders that a beginning of the pattern matches and that may not be looked into; `glob` passes over them."""
    closed = {}
    parts = pattern.relative_to(folder).parts
    for count in range(1, len(parts)):
        for match in glob.iglob(f"{folder.joinpath(*parts[:count])}{os.sep}", recursive=True):  # folders alone
            path = Path(match)
            if not path.is_symlink() and (reason := _refusal(path)):
                closed[path.relative_to(folder)] = reason
    return closed


def _refusal(folder: Path) -> str | None:
    """Why a folder cannot be read; None where it can."""
    try:
        os.scandir(folder).close()
    except OSError as error:
        return _told(error)
    return None


def _told(error: OSError) -> str:
    return f"the folder cannot be read ({error.strerror})"


def _holds_results(folder: Path) -> bool:
    """Whether the folder is one of the result folders of an earlier run."""
    above = folder.parent
    return folder.name in RESULT_FOLDERS and (above / "run.json").is_file() and (above / "records").is_dir()


def _between(folder: Path, path: Path) -> list[Path]:
    """The folders on the way from `folder` down to `path`, which itself counts if it is a folder."""
    parts = path.relative_to(folder).parts
    ways = [folder.joinpath(*parts[:count]) for count in range(1, len(parts) + 1)]
    return ways if path.is_dir() else ways[:-1]


def _readable(path: Path) -> bool:
    """False for pipes, sockets and devices, at which a reader would wait; what is broken shall be listed as such."""
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except OSError:
        return True


def _search(folder: Path, others: Counter[str]) -> tuple[list[Path], dict[Path, str], list[Path]]:
    """Scans in `folder` and its subfolders, subfolders that may not be looked into, and those of earlier results, all
    relative to it; counts pictures of other kinds in `others`."""
    found: list[Path] = []
    results: list[Path] = []
    unreadable: dict[Path, str] = {}

    def note(error: OSError) -> None:  # os.walk would pass over it
        place = Path(error.filename)
        if place == folder:
            raise error
        unreadable[place.relative_to(folder)] = _told(error)

    for place, subfolders, names in os.walk(folder, onerror=note):
        here = Path(place)
        # `phnet infer IMAGE .` leaves its results beside the image
        passed = {n for n in subfolders if _holds_results(here / n)}
        results += [(here / n).relative_to(folder) for n in sorted(passed)]
        subfolders[:] = sorted(n for n in subfolders if not n.startswith(".") and n not in passed)
        shown = [n for n in names if not n.startswith(".")]
        scans = (here / n for n in shown if _readable(here / n) and is_scan(here / n))
        found += [scan.relative_to(folder) for scan in scans]
        others.update(ending for n in shown if (ending := Path(n).suffix.lower()) in OTHER_PICTURES)
    return sorted(found), unreadable, results


def result_keys(scans: Sequence[Path]) -> dict[Path, Path]:
    """Scan -> what its results are called, without ending, both relative: `a/x.jpg` -> `a/x`, `b.nii.gz` -> `b`.

    Where two scans of one folder would share a name (`x.jpg`, `x.png`; upper and lower case count as the
    same, as on some disks), each keeps its ending: `x.jpg`, `x.png`. So does one whose result would be called like a
    folder of scans.
    """
    keys = {scan: scan.with_name(_short(stem(scan.name))) for scan in scans}
    folders = {str(folder).casefold() for scan in scans for folder in scan.parents}
    while True:
        counts = Counter(str(key).casefold() for key in keys.values())
        full = {scan: scan.with_name(_short(scan.name)) for scan in scans}
        clashing = [
            scan
            for scan, key in keys.items()
            if key != full[scan] and (counts[str(key).casefold()] > 1 or _is_in_the_way(key, folders))
        ]
        if not clashing:
            return keys
        keys.update({scan: full[scan] for scan in clashing})


def _is_in_the_way(key: Path, folders: set[str]) -> bool:
    """Whether a result of this name would lie where a folder of results has to be (`x.jpg` beside `x.png/y.jpg`)."""
    return any(f"{key}{ending}".casefold() in folders for ending in RESULT_ENDINGS)


def _short(name: str) -> str:
    """The name, or where no ending would fit behind it (disks allow 255 bytes) its beginning and a digest of it."""
    if len(os.fsencode(name)) <= LONGEST_NAME:
        return name
    mark = hashlib.sha256(os.fsencode(name)).hexdigest()[:12]
    return f"{os.fsencode(name)[: LONGEST_NAME - 14].decode('utf-8', 'ignore')}~{mark}"


def stem(name: str) -> str:
    """Name of a scan without the ending that makes it one: `v1.2.bmp` -> `v1.2`, `x.nii.gz` -> `x`."""
    for suffix in sorted(SCAN_ENDINGS, key=len, reverse=True):
        if name.lower().endswith(suffix) and len(name) > len(suffix):
            return name[: -len(suffix)]
    return name
