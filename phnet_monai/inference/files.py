"""Which images a folder holds, where their results go, and which paths are refused."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from phnet_monai.data.decode import IMAGE_SUFFIXES

RESULT_FOLDERS = ("masks", "overlays", "probabilities")


def check_paths(source: str | Path, out: str | Path) -> tuple[Path, Path]:
    """`source` and `out` as paths, once it is clear that results can be written without touching the images.

    Raises:
        FileNotFoundError: `source` is not there.
        ValueError: `out` lies in `source` (the next run would take the masks for images), `source` lies in
            one of the result folders of `out` (the images would be overwritten), or `source` is a file that
            is no image.
        NotADirectoryError: `out`, or a folder above it, is a file.
    """
    source, out = Path(source), Path(out)
    if not source.exists():
        raise FileNotFoundError(f"{source}: no such file or folder; give an image or a folder of images")
    if source.is_file() and source.suffix.lower() not in IMAGE_SUFFIXES:
        endings = ", ".join(IMAGE_SUFFIXES)
        raise ValueError(f"{source} is no image by its name; expected one ending in {endings}")
    real_source, real_out = source.resolve(), out.resolve()
    if source.is_dir() and real_out.is_relative_to(real_source):
        raise ValueError(
            f"the output folder {out} lies in the input folder {source}: the next run would take the masks for "
            "images. Choose a folder outside of it."
        )
    if any(real_source.is_relative_to(real_out / name) for name in RESULT_FOLDERS):
        raise ValueError(f"the input {source} lies among the results of {out}; choose another output folder")
    check_out(out)
    return source, out


def check_out(out: str | Path) -> Path:
    """`out` as a path. Raises NotADirectoryError if it, or a folder above it, is a file."""
    out = Path(out)
    for folder in (out, *out.parents):
        if folder.exists() and not folder.is_dir():
            raise NotADirectoryError(f"{folder} is a file, expected a folder for the results")
    return out


def find_images(source: Path) -> list[Path]:
    """Images of `source`, relative to it, sorted; a single file gives its name.

    Endings decide (`IMAGE_SUFFIXES`, any case). Subfolders are searched; links to folders are not followed;
    names that begin with a dot are passed over (file managers and archive tools leave such files beside
    images).
    """
    if source.is_file():
        return [Path(source.name)]
    found: list[Path] = []
    for folder, subfolders, names in os.walk(source, onerror=_raise):
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        here = Path(folder).relative_to(source)
        images = (n for n in names if not n.startswith(".") and Path(n).suffix.lower() in IMAGE_SUFFIXES)
        found += [here / name for name in images]
    return sorted(found)


def _raise(error: OSError) -> None:
    raise error  # os.walk would pass over a folder that it may not read


def result_names(images: Sequence[Path]) -> dict[Path, Path]:
    """Image -> name of its results, both relative: `a/x.jpg` -> `a/x.png`.

    Where two images of one folder would share a name (`x.jpg`, `x.png`; upper and lower case count as the
    same, as on some disks), each keeps its ending inside the name: `x.jpg.png`, `x.png.png`.
    """
    names = {image: image.with_suffix(".png") for image in images}
    while True:
        counts = Counter(str(name).casefold() for name in names.values())
        full = {image: image.with_name(image.name + ".png") for image in images}
        clashing = [i for i, name in names.items() if counts[str(name).casefold()] > 1 and name != full[i]]
        if not clashing:
            return names
        names.update({image: full[image] for image in clashing})
