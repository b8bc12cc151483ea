"""Images that show the same scan, found by comparing the pictures: BUSI has no patient ids.

Two steps. Band-passed thumbnails of 32 x 32 tell which pairs are worth a closer look, a bounded number for each image
(`duplicate_candidates`). These are compared at 128 x 128: normalised cross-correlation with any shift up to an
eighth of the side, and as if one of the two were cropped. Band-passing and local contrast normalisation keep the tissue
structure, which is a fingerprint, and drop what different scans agree in: brightness, gain, dark depth, broad layers.
Calipers, labels and frames are small and change the correlation little.

The thresholds were set on BUSI (702 images, 246 051 pairs) by looking at all pairs near them; what was seen stands in
`docs/audit.md`. They give 129 groups of two to seven images, no chains of look-alikes. On BUS-BRA (389 images), where
patients are known, 17 of 18 groups lie within one patient; one joins two ovals that only look alike. That side of the
error is harmless: it keeps images together that could be apart.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from os import PathLike
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from PIL import Image
from tqdm import tqdm

from phnet_monai.data.borders import without_borders
from phnet_monai.data.decode import read_image
from phnet_monai.data.duplicate_candidates import SIDE, band_pass, likely_pairs, unit
from phnet_monai.data.union_find import components

SAME = 0.34
"""Close similarity from which two images count as one scan."""

SAME_OVERLAP = 0.60
"""The same for two crops compared at their own pixel size, a freer search that reaches 0.46 by chance."""

_MAX_SHIFT = SIDE // 8
_ZOOMS = (0.94, 0.88, 0.80)
_OVERLAP_SIDE = 192

How = Literal["frame", "crop", "part"]


class Fingerprint(NamedTuple):
    """What is kept of an image to find its near-duplicates, without one-coloured bars along its border, in which
    padded images agree: (H, W), and a uint8 thumbnail (128, 128)."""

    size: tuple[int, int]
    thumbnail: np.ndarray


class Likeness(NamedTuple):
    """How alike two images are.

    Attributes:
        one, other: their places in the list, one < other.
        similarity: highest correlation found, up to 1.
        threshold: from which similarity on they are one scan; it depends on `how`.
        how: whole against whole ("frame"), one of the two cropped ("crop"), or two crops of one scan at their own pixel
            size ("part").
    """

    one: int
    other: int
    similarity: float
    threshold: float
    how: How

    @property
    def same(self) -> bool:
        """Whether the two count as one scan."""
        return self.similarity >= self.threshold


def fingerprint(image: np.ndarray) -> Fingerprint:
    """Shrink a uint8 (H, W) image to what the search for near-duplicates needs, 16 kB."""
    image = np.ascontiguousarray(without_borders(image))
    return Fingerprint((image.shape[0], image.shape[1]), _shrink(image, SIDE, SIDE))


def near_duplicate_groups(
    images: Sequence[str | PathLike[str]],
    *,
    same: float = SAME,
    progress: bool = True,
) -> list[int]:
    """Group images that show the same scan.

    Args:
        images: files as `read_image` takes them.
        same: close similarity in (0, 1] from which two images are one scan; higher finds fewer.
        progress: show progress bars on standard error.

    Returns:
        one group number per image, from 0 in the order of first appearance; equal numbers mean that a chain of
        near-duplicates joins the images.

    Raises:
        DecodeError, FileNotFoundError: as `read_image`.
        ValueError: `same` is outside (0, 1].
    """
    pairs = near_duplicate_pairs(images, same=same, progress=progress)
    return components(len(images), [(pair.one, pair.other) for pair in pairs])


def near_duplicate_pairs(
    images: Sequence[str | PathLike[str]],
    *,
    same: float = SAME,
    margin: float = 0.0,
    fingerprints: Sequence[Fingerprint] | None = None,
    progress: bool = True,
) -> list[Likeness]:
    """Find the pairs of images that show the same scan.

    Each image is compared with a bounded number of others, so that the work on pixels grows with the number of images
    and not with its square; descriptors of 112 numbers are compared all with all. BUSI takes 15 seconds on one core.
    Memory is 30 kB an image plus a fixed amount.

    Args:
        images: files as `read_image` takes them.
        same: close similarity in (0, 1] from which two images are one scan.
        margin: also return pairs that miss their threshold by no more than this (`Likeness.same` is false).
        fingerprints: one an image, where they are known already; else the files are read.
        progress: show progress bars on standard error.

    Returns:
        pairs, sorted by their places. Of several equal images the first stands for all: the others are paired with it
        alone. An image without structure is like no other.

    Raises:
        DecodeError, FileNotFoundError: as `read_image`.
        ValueError: `same` is outside (0, 1].
    """
    if not 0 < same <= 1:
        raise ValueError(f"same is {same}, expected a similarity above 0 and up to 1.")
    if not images:
        return []
    paths = [Path(path) for path in images]
    if fingerprints is None:
        bar = tqdm(paths, desc="thumbnails", disable=None if progress else True, leave=False)
        fingerprints = [fingerprint(read_image(path)) for path in bar]
    first = _first_equals([mark.thumbnail for mark in fingerprints])
    chosen = sorted(set(first))
    found = [
        Likeness(place, index, 1.0, same, "frame")
        for index, place in enumerate(first)
        if place != index and fingerprints[index].thumbnail.std() > 0
    ]
    search = _CloseSearch(paths, fingerprints)
    likely = [(chosen[i], chosen[j]) for i, j in likely_pairs(np.stack([fingerprints[k].thumbnail for k in chosen]))]
    for one, other in tqdm(likely, desc="likely pairs", disable=None if progress else True, leave=False):
        pair = search.compare(one, other, same)
        if pair.similarity >= pair.threshold - margin:
            found.append(pair)
    return sorted(found)


def _first_equals(thumbnails: Iterable[np.ndarray]) -> list[int]:
    """For each thumbnail the place of the first that equals it: hundreds of copies must not crowd out other pairs."""
    places: dict[bytes, int] = {}
    return [places.setdefault(thumbnail.tobytes(), index) for index, thumbnail in enumerate(thumbnails)]


def _content(path: Path) -> np.ndarray:
    return np.ascontiguousarray(without_borders(read_image(path)))


def _shrink(image: np.ndarray, height: int, width: int) -> np.ndarray:
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BOX))


class _CloseSearch:
    """Compares two images closely; keeps what it computed for the last few hundred images."""

    def __init__(self, paths: Sequence[Path], marks: Sequence[Fingerprint]) -> None:
        self._paths, self._marks = paths, marks
        self._spectrum: Callable[[int, float], np.ndarray] = lru_cache(maxsize=2048)(self._compute_spectrum)

    def compare(self, one: int, other: int, same: float) -> Likeness:
        """The first way in which the two are one scan; where there is none, the one that comes closest."""
        whole = Likeness(one, other, self._similarity(one, 1.0, other, 1.0), same, "frame")
        if whole.same:
            return whole
        closest = whole
        for zoom, other_zoom in [(zoom, 1.0) for zoom in _ZOOMS] + [(1.0, zoom) for zoom in _ZOOMS]:
            crop = Likeness(one, other, self._similarity(one, zoom, other, other_zoom), same, "crop")
            if crop.same:
                return crop
            closest = max(closest, crop, key=_excess)
        if self._shapes_differ(one, other):
            part = Likeness(one, other, self._overlap(one, other), max(same, SAME_OVERLAP), "part")
            closest = max(closest, part, key=_excess)
        return closest

    def _compute_spectrum(self, index: int, zoom: float) -> np.ndarray:
        margin = SIDE * (1 - zoom) / 2
        picture = Image.fromarray(self._marks[index].thumbnail)
        box = (margin, margin, SIDE - margin, SIDE - margin)
        part = np.asarray(picture.resize((SIDE, SIDE), Image.Resampling.BICUBIC, box=box))
        return np.fft.rfft2(unit(band_pass(part, 1.0, 6.0)[None])[0])

    def _similarity(self, one: int, zoom: float, other: int, other_zoom: float) -> float:
        """Highest normalised cross-correlation of two thumbnails, each enlarged about its centre by 1 / zoom."""
        product = self._spectrum(one, zoom) * self._spectrum(other, other_zoom).conj()
        near = np.r_[0 : _MAX_SHIFT + 1, -_MAX_SHIFT:0]
        return float(np.fft.irfft2(product)[np.ix_(near, near)].max())

    def _shapes_differ(self, one: int, other: int) -> bool:
        """Whether thumbnails of the two are distorted differently, so that they cannot match even if pixels do."""
        (height, width), (other_height, other_width) = self._marks[one].size, self._marks[other].size
        ratio = (width * other_height) / (height * other_width)
        return not 0.95 < ratio < 1.05

    def _overlap(self, one: int, other: int) -> float:
        """Highest correlation over all placements of two crops at one pixel size that share half of the larger one."""
        scale = _OVERLAP_SIDE / max(*self._marks[one].size, *self._marks[other].size)
        a, b = (
            band_pass(
                _shrink(_content(self._paths[k]), *(max(1, round(s * scale)) for s in self._marks[k].size)), 1.0, 6.0
            )
            for k in (one, other)
        )
        shape = (a.shape[0] + b.shape[0], a.shape[1] + b.shape[1])

        def correlate(x: np.ndarray, y: np.ndarray) -> np.ndarray:
            return np.fft.irfft2(np.fft.rfft2(x, shape) * np.fft.rfft2(y, shape).conj(), shape)

        inside_a, inside_b = np.ones_like(a), np.ones_like(b)
        allowed = correlate(inside_a, inside_b) >= 0.5 * max(a.size, b.size)
        if not allowed.any():
            return 0.0
        energy = correlate(a**2, inside_b)[allowed] * correlate(inside_a, b**2)[allowed]
        return float((correlate(a, b)[allowed] / np.sqrt(np.maximum(energy, 1.0))).max())


def _excess(pair: Likeness) -> float:
    return pair.similarity - pair.threshold
