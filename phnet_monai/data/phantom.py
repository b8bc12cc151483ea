"""Made-up breast-ultrasound images with known lesions, for tests and demonstrations without data.

The physics that make ultrasound hard to segment are in: fully developed speckle (the magnitude of a complex Gaussian
scatterer field seen through an anisotropic point spread function, Rayleigh distributed), log compression, attenuation
with depth, posterior shadow and enhancement, layers and septa that look like borders, lesions of low contrast whose
edge fades in places. Echo strengths are in dB relative to glandular tissue.
"""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image
from scipy import ndimage

from phnet_monai.seeds import check_seed

MIN_SIDE = 32
MIN_AREA, MAX_AREA = 0.01, 0.40
"""Share of the image that a lesion may cover."""


def make_phantom(
    size: tuple[int, int] = (256, 320), *, seed: int | Sequence[int], lesion: bool = True
) -> tuple[np.ndarray, np.ndarray]:
    """Make one image and its mask.

    Args:
        size: (H, W) in pixels, each at least 32.
        seed: seed of `numpy.random.default_rng`; equal seeds and sizes give equal images.
        lesion: whether there is a lesion; it then covers 1 % to 40 % of the image.

    Returns:
        image uint8 (H, W), mask bool (H, W); the mask is empty without a lesion.

    Raises:
        ValueError: the size is too small.
    """
    height, width = size
    if min(height, width) < MIN_SIDE:
        raise ValueError(f"size is {size}, expected (height, width) of at least {MIN_SIDE} pixels each.")
    rng = np.random.default_rng(seed)
    tissue = _tissue(size, rng)
    mask = np.zeros(size, bool)
    if lesion:
        shape = _lesion_shape(size, rng)
        mask = shape.mask
        tissue = _put_lesion(tissue, shape, rng)
    tissue = tissue + _shadow_bands(size, rng) - _depth_loss(size, rng)
    grain = height / 256
    envelope = speckle(10 ** (tissue / 20), rng, axial=0.9 * grain, lateral=rng.uniform(1.3, 2.0) * grain)
    return _log_compress(envelope, rng), mask


def write_phantoms(
    out: str | PathLike[str],
    count: int,
    *,
    seed: int = 0,
    size_range: tuple[int, int] = (200, 360),
    without_lesion: int = 0,
) -> Path:
    """Write phantoms as a folder that `prepare_folder` reads: `images/phantom_0001.png`, `masks/phantom_0001.png`.

    Args:
        out: folder, made where missing.
        count: number of images.
        seed: image n depends on the seed and n alone, so that a longer series begins with the shorter one.
        size_range: smallest and largest side in pixels; height and width are drawn apart.
        without_lesion: how many of the images, the last ones, have no lesion and an empty mask.

    Returns:
        the folder `out`.

    Raises:
        ValueError: impossible numbers.
        FileExistsError: `out` has images or masks already.
    """
    check_seed(seed)
    low, high = size_range
    if count < 1 or not 0 <= without_lesion <= count:
        raise ValueError(
            f"count is {count} and without_lesion {without_lesion}; expected 0 <= without_lesion <= count >= 1."
        )
    if not MIN_SIDE <= low <= high:
        raise ValueError(f"size_range is {size_range}, expected {MIN_SIDE} <= smallest <= largest.")
    out = Path(out)
    folders = [out / "images", out / "masks"]
    for folder in folders:
        if folder.is_dir() and any(folder.iterdir()):
            raise FileExistsError(f"{folder} is not empty. Choose another folder.")
        folder.mkdir(parents=True, exist_ok=True)
    for number in range(1, count + 1):
        height, width = np.random.default_rng([seed, number, 0]).integers(low, high, size=2, endpoint=True)
        pair = make_phantom((int(height), int(width)), seed=[seed, number], lesion=number <= count - without_lesion)
        for folder, picture in zip(folders, pair, strict=True):
            values = picture if picture.dtype == np.uint8 else picture.astype(np.uint8) * 255
            Image.fromarray(values).save(folder / f"phantom_{number:04d}.png")
    return out


def speckle(amplitude: np.ndarray, rng: np.random.Generator, *, axial: float, lateral: float) -> np.ndarray:
    """Envelope of the echo of many random scatterers a resolution cell.

    Args:
        amplitude: (H, W) scatterer strength, linear.
        rng: source of the scatterers.
        axial: standard deviation of the pulse along the depth (rows), in pixels.
        lateral: standard deviation of the beam across (columns), in pixels.

    Returns:
        float array (H, W). Where the amplitude is constant it is Rayleigh distributed with mean square
        amplitude**2, that is with a mean of 1.91 standard deviations (away from the border of the image).
    """
    field = rng.standard_normal(amplitude.shape) + 1j * rng.standard_normal(amplitude.shape)
    spread = (axial, lateral)
    real, imaginary = (ndimage.gaussian_filter(part * amplitude, spread) for part in (field.real, field.imag))
    # the filter's gain on white noise is the sum of its squared weights; measured on a point, not on theory for large
    # sigmas, because pulses may be narrower than a pixel
    reach = [2 * int(4 * sigma + 0.5) + 1 for sigma in spread]
    point = np.zeros(reach)
    point[reach[0] // 2, reach[1] // 2] = 1
    gain = np.sqrt(2 * (ndimage.gaussian_filter(point, spread) ** 2).sum())
    return np.hypot(real, imaginary) / gain


def _smooth_noise(size: tuple[int, int], rng: np.random.Generator, rows: float, columns: float) -> np.ndarray:
    """Gaussian random field (H, W), mean 0 and standard deviation about 1, with these correlation lengths in pixels."""
    field = ndimage.gaussian_filter(rng.standard_normal(size), (rows, columns), mode="wrap")
    return field / max(float(field.std()), 1e-9)


def _wave(width: int, rng: np.random.Generator, swing: float) -> np.ndarray:
    """Smooth random curve (W,) of about `swing` amplitude."""
    x = np.linspace(0, 2 * np.pi, width)
    order = np.arange(1, 6)[:, None]
    phase = rng.uniform(0, 2 * np.pi, (5, 1))
    return swing * (rng.standard_normal((5, 1)) / order * np.sin(order * x / 2 + phase)).sum(0)


def _tissue(size: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Echo strength in dB (H, W) of skin, fat, gland and muscle with wavy borders, septa and fibres."""
    height, width = size
    depth = np.arange(height)[:, None] / height
    skin = rng.uniform(0.03, 0.07) + _wave(width, rng, 0.004)
    fat = skin + rng.uniform(0.08, 0.28) + _wave(width, rng, 0.03)
    gland = np.maximum(fat + rng.uniform(0.22, 0.50) + _wave(width, rng, 0.04), fat + 0.05)
    fibre = _smooth_noise(size, rng, height * 0.006, width * 0.08)
    clouds = _smooth_noise(size, rng, height * 0.03, width * 0.06)
    lobules = _smooth_noise(size, rng, height * 0.035, width * 0.09)
    # where a random field crosses zero it draws closed curves: septa between fat lobules
    septa = np.exp(-((lobules / 0.16) ** 2))
    ducts = _smooth_noise(size, rng, height * 0.02, width * 0.05)
    # collagen: short bright streaks, dense in some places and absent in others
    streaks = np.exp(-((fibre / 0.25) ** 2)) * np.clip(clouds + rng.uniform(-0.5, 1.0), 0, 2)
    layers = (
        (depth >= 0, 2.0 + 1.0 * clouds),
        (depth >= skin, rng.uniform(-13, -8) + 1.5 * clouds + rng.uniform(6, 11) * septa + 3 * streaks),
        (depth >= fat, 2.0 * clouds + 1.5 * fibre + rng.uniform(2, 5) * streaks - rng.uniform(0, 7) * (ducts > 1.1)),
        (depth >= gland, rng.uniform(-12, -6) + 1.0 * clouds + 3.0 * fibre + 4 * streaks),
    )
    strength = np.zeros(size)
    for below, value in layers:
        strength = np.where(below, value, strength)
    # fasciae reflect like mirrors: thin bright lines along the borders
    for border, gain in ((skin, 4.0), (fat, rng.uniform(0, 5)), (gland, rng.uniform(3, 9))):
        strength += gain * np.exp(-(((depth - border) / 0.008) ** 2))
    return ndimage.gaussian_filter(strength, height * 0.005)


class _LesionShape(NamedTuple):
    mask: np.ndarray
    """bool (H, W)."""
    inward: np.ndarray
    """(H, W) distance to the border in pixels, positive inside."""
    angle: np.ndarray
    """(H, W) direction from the centre in radians."""


def _lesion_shape(size: tuple[int, int], rng: np.random.Generator) -> _LesionShape:
    """Star-shaped region: an oval whose radius is modulated by a low-order Fourier series."""
    height, width = size
    area = float(np.exp(rng.uniform(np.log(MIN_AREA * 1.05), np.log(MAX_AREA * 0.98))))
    # large lesions stay near the middle, or half of them would be cut off
    free = 1 - np.sqrt(area)
    centre_y = height * (0.45 + 0.30 * free * rng.uniform(-1, 1))
    centre_x = width * (0.50 + 0.42 * free * rng.uniform(-1, 1))
    stretch = float(np.exp(rng.uniform(np.log(0.45), np.log(1.25))))  # height over width
    tilt = rng.normal(0, 0.3)
    y, x = np.mgrid[:height, :width].astype(float)
    y, x = y + 0.5 - centre_y, x + 0.5 - centre_x
    along, across = x * np.cos(tilt) + y * np.sin(tilt), (y * np.cos(tilt) - x * np.sin(tilt)) / stretch
    angle = np.arctan2(across, along)
    # the quantile gives the wanted area whatever the shape, also where the image border cuts it
    relative = np.hypot(along, across) / _radius(angle, rng)
    limit = float(np.quantile(relative, area))
    distance = np.hypot(x, y)
    border = distance * limit / np.maximum(relative, 1e-6)
    return _LesionShape(relative <= limit, border - distance, angle)


def _radius(angle: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Relative radius by direction: smooth oval, lobulated or spiculated."""
    kind = rng.choice(3, p=(0.4, 0.35, 0.25))
    orders = (np.arange(2, 5), np.arange(2, 8), np.arange(2, 16))[kind]
    swing = (0.05, 0.12, 0.16)[kind]
    weights = rng.standard_normal(len(orders)) / orders ** (1.0, 0.8, 0.6)[kind]
    phases = rng.uniform(0, 2 * np.pi, len(orders))
    # a Fourier series by sampling: 720 directions, then looked up
    directions = np.linspace(-np.pi, np.pi, 721)
    series = (weights[:, None] * np.cos(orders[:, None] * directions + phases[:, None])).sum(0)
    series *= swing / max(float(series.std()), 1e-9)
    return np.interp(angle, directions, np.maximum(1 + series, 0.35))


def _put_lesion(tissue: np.ndarray, shape: _LesionShape, rng: np.random.Generator) -> np.ndarray:
    """Tissue strength in dB with the lesion, its fading border, its halo and what it does to the echo behind it."""
    size = (tissue.shape[0], tissue.shape[1])
    short = min(size)
    cyst = rng.random() < 0.2
    contrast = rng.uniform(18, 28) if cyst else rng.uniform(6, 15)
    texture = rng.uniform(0.5, 2.5) * _smooth_noise(size, rng, short * 0.02, short * 0.025)
    inside = float(tissue[shape.mask].mean()) - contrast + (0 if cyst else texture)
    # the border is sharp in some directions and fades in others
    fade = np.clip(
        np.cos(shape.angle * rng.integers(1, 3) + rng.uniform(0, 2 * np.pi)) + rng.uniform(-0.8, 0.2), 0, None
    )
    softness = short * (0.004 + rng.uniform(0.0, 0.05) * fade)
    weight = 0.5 * (1 + np.tanh(shape.inward / softness))
    mixed = weight * inside + (1 - weight) * tissue
    halo = rng.uniform(0, 5) * (rng.random() < 0.4)
    mixed += halo * np.exp(-(((shape.inward + 0.02 * short) / (0.02 * short)) ** 2))
    behind = np.cumsum(weight, axis=0) / size[0] * (1 - weight)
    behind = ndimage.gaussian_filter(behind, (short * 0.015, short * 0.02))
    # shadow below dense lesions, enhancement below fluid; in dB per image height of lesion passed
    effect = rng.uniform(10, 30) if cyst else rng.choice((-1, 0, 1), p=(0.45, 0.35, 0.2)) * rng.uniform(10, 45)
    return mixed + np.clip(effect * behind, -20, 9)


def _shadow_bands(size: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Dark bands below poor contact or ligaments, in dB (1 or H, W): shadows that belong to no lesion."""
    height, width = size
    x = np.arange(width) / width
    depth = np.arange(height)[:, None] / height
    bands = np.zeros(size)
    for _ in range(rng.poisson(0.8)):
        start, middle, wide = rng.uniform(0.1, 0.5), rng.uniform(0, 1), rng.uniform(0.02, 0.08)
        profile = np.exp(-(((x - middle - rng.normal(0, 0.1) * depth) / wide) ** 2))
        bands -= rng.uniform(3, 10) * profile / (1 + np.exp(-(depth - start) / 0.03))
    return bands


def _depth_loss(size: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Attenuation in dB (H, 1) that the machine's depth gain left over; it grows towards the bottom."""
    depth = np.arange(size[0])[:, None] / size[0]
    return rng.uniform(0, 10) * depth + rng.uniform(0, 16) * np.maximum(depth - rng.uniform(0.4, 0.8), 0) ** 1.2 * 3


def _log_compress(envelope: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Envelope to 8-bit grey: dB over a dynamic range of 45 to 60, mean grey as in real images."""
    level = 20 * np.log10(np.maximum(envelope, 1e-4))
    span = rng.uniform(45, 60)
    grey = (level - level.mean()) / span + np.clip(rng.normal(0.35, 0.06), 0.22, 0.50)
    # machines smooth the picture a little after compression, and add some noise where there is no echo
    grey = ndimage.gaussian_filter(grey, 0.7) + rng.normal(0, 0.008, grey.shape)
    return (np.clip(grey, 0, 1) * 255 + 0.5).astype(np.uint8)
