"""What `phnet rank` chooses from, what is outlined already, and which output folders are refused."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from phnet_monai.data.datalist import FILE_NAME, load_datalist
from phnet_monai.data.decode import IMAGE_SUFFIXES
from phnet_monai.data.folder import find_sources
from phnet_monai.data.leaks import same_files
from phnet_monai.files import check_out, real_path
from phnet_monai.inference.files import check_paths, find_scans

TABLE_FILE, SETTINGS_FILE = "ranking.csv", "ranking.json"


@dataclass(frozen=True)
class Pool:
    """Pictures by the names that results show.

    Attributes:
        candidates: unlabeled pictures; the name is the path below the input.
        outlined: pictures that somebody has outlined; the name is the whole path.
        passed_over: how many files of the input are outlined, or in a validation or test part.
        unread: how many files of the input are no pictures (NIfTI, DICOM), which annotation tools do not open.
        masks: how many files of the input are masks of pictures by their names.
        unreadable: (name, reason) of subfolders that may not be looked into.
    """

    candidates: dict[str, Path]
    outlined: dict[str, Path] = field(default_factory=dict)
    passed_over: int = 0
    unread: int = 0
    masks: int = 0
    unreadable: list[tuple[str, str]] = field(default_factory=list)


def find_pool(source: str | Path, out: str | Path, labeled: str | Path | None = None) -> Pool:
    """The pictures of `source` (a picture, a folder with its subfolders, or a pattern) without those of `labeled`.

    Of a folder with `images/` beside `masks/` or annotations only the former counts. Copies count as what they are
    copies of: what was exported for outlining is not asked for again.

    Args:
        source, out: see `files.check_paths`.
        labeled: a datalist, of which all images with an outline, shown to the training or not, count as outlined and
            the validation and test parts are left out of the choice; or a folder of pictures, which all count as
            outlined.

    Raises:
        FileNotFoundError, NotADirectoryError, ValueError: the paths do not fit, or `labeled` holds no picture.
    """
    source, _ = check_paths(source, out)
    found = find_scans(_pictures_of(source))
    pictures = [scan for scan in found.scans if scan.suffix.lower() in IMAGE_SUFFIXES]
    outlined, taken = ([], set()) if labeled is None else _labeled(Path(labeled))
    taken |= _copies([found.folder / scan for scan in pictures], sorted(taken))
    candidates = {
        scan.as_posix(): found.folder / scan for scan in pictures if real_path(found.folder / scan) not in taken
    }
    return Pool(
        candidates,
        {str(path): path for path in outlined},
        passed_over=len(pictures) - len(candidates),
        unread=len(found.scans) - len(pictures),
        masks=len(found.masks),
        unreadable=[(place.as_posix(), reason) for place, reason in found.unreadable.items()],
    )


def _labeled(labeled: Path) -> tuple[list[Path], set[Path]]:
    """Outlined pictures, and the real paths of all that must not be asked for."""
    if labeled.is_dir() and not (labeled / FILE_NAME).is_file():
        found = find_scans(_pictures_of(labeled))
        for place, reason in found.unreadable.items():  # its images would be asked for again
            raise PermissionError(f"{labeled / place}: {reason}")
        outlined = [found.folder / scan for scan in found.scans if scan.suffix.lower() in IMAGE_SUFFIXES]
        if not outlined:
            raise FileNotFoundError(
                f"{labeled} holds no picture and no {FILE_NAME}; give outlined images or a datalist"
            )
        return outlined, {real_path(path) for path in (*outlined, *(found.folder / mask for mask in found.masks))}
    if not labeled.exists():
        raise FileNotFoundError(f"{labeled}: no such datalist or folder of outlined images")
    parts = load_datalist(labeled)
    hidden = [entry for entry in parts["unlabeled"] if entry.get("hidden_label")]
    outlined = [Path(entry["image"]) for entry in [*parts["labeled"], *hidden]]
    held_out = [Path(entry["image"]) for part in ("validation", "test") for entry in parts[part]]
    return outlined, {real_path(path) for path in [*outlined, *held_out]}


def _pictures_of(source: Path) -> Path:
    """The subfolder `images/` where that holds the pictures, else `source` itself."""
    return find_sources(source)[0] if source.is_dir() else source


def _copies(pictures: Sequence[Path], taken: Sequence[Path]) -> set[Path]:
    """Real paths of the pictures whose content equals that of one of `taken`."""
    readable = [path for path in pictures if os.access(path, os.R_OK)]
    pairs = same_files([*taken, *readable])
    return {real_path(readable[other - len(taken)]) for first, other in pairs if first < len(taken) <= other}


def check_rank_out(out: str | Path, *, export: str | None, overwrite: bool) -> Path:
    """`out` as a path, once it is clear that nothing of value would be replaced.

    Raises:
        NotADirectoryError: it, or a folder above it, is a file.
        FileExistsError: it holds a ranking and `overwrite` is false, or outlines exported earlier.
    """
    out = check_out(out)
    if (out / TABLE_FILE).exists() and not overwrite:
        raise FileExistsError(f"{out} holds an earlier ranking. Choose another folder, or replace it with --overwrite.")
    if export is not None and (out / export).exists():
        raise FileExistsError(
            f"{out / export} exists and may hold outlines that somebody has corrected; it is never replaced. Move it "
            "away, or choose another output folder."
        )
    return out
