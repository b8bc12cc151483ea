"""Records and cards for the tests of the report pages, read by them through `runpy`."""

from __future__ import annotations

from typing import Any

import numpy as np

from phnet_monai.inference.thumbnail import frame_picture, mask_contours

HOSTILE = "scans/\"><script>alert(1)</script> ' & 100% #1?.png"


def picture(seed: int, *, lesion: bool = True, size: tuple[int, int] = (120, 160)) -> tuple[np.ndarray, np.ndarray]:
    """A smooth grey image and a mask with one round lesion, or an empty one."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(20, 200, (6, 8))
    image = np.kron(coarse, np.ones((size[0] // 6, size[1] // 8))).astype(np.uint8)
    rows, columns = np.mgrid[: size[0], : size[1]]
    centre, radius = rng.uniform(0.35, 0.65, 2) * size, rng.uniform(8, 22)
    mask = np.hypot(rows - centre[0], columns - centre[1]) < radius if lesion else np.zeros(size, dtype=bool)
    return image, mask


def lesion(area: int, *, number: int = 1, confidence: float = 0.9, mm: float | None = None) -> dict[str, Any]:
    """Measurements of a lesion, with the fields of `measure.Lesion`."""
    return {
        "number": number,
        "area_px": area,
        "area_mm2": None if mm is None else area * mm * mm,
        "long_axis_px": 20.0,
        "short_axis_px": 12.0,
        "long_axis_mm": None if mm is None else 20 * mm,
        "short_axis_mm": None if mm is None else 12 * mm,
        "bbox_x": 1,
        "bbox_y": 2,
        "bbox_width": 20,
        "bbox_height": 12,
        "centroid_x": 11.0,
        "centroid_y": 8.0,
        "mean_confidence": confidence,
        "boundary_hardness": 0.4,
    }


def frame(
    seed: int, *, number: int = 1, uncertainty: float = 0.5, found: bool = True, mm: float | None = None
) -> dict[str, Any]:
    """A frame record."""
    image, mask = picture(seed, lesion=found)
    grid = np.random.default_rng(seed).random((16, 16), dtype=np.float32)
    area = int(mask.sum())
    return {
        "frame": number,
        "height": image.shape[0],
        "width": image.shape[1],
        "spacing_mm": None if mm is None else [mm, mm],
        "uncertainty": uncertainty,
        "lesion_pixels": area,
        "lesions": [lesion(area, mm=mm, confidence=0.8 + 0.01 * seed)] if found else [],
        **frame_picture(image, mask, grid),
    }


def record(name: str, *frames: dict[str, Any], outputs: tuple[str, ...] = ()) -> dict[str, Any]:
    """A record of a finished file."""
    return {
        "version": 1,
        "image": name,
        "status": "done",
        "kind": "picture",
        "kinds": ["masks"],
        "source": {"bytes": 1, "modified_ns": 1},
        "outputs": dict.fromkeys(outputs, 100),
        "frames": list(frames),
    }


def failed(name: str, reason: str = "the file is cut off") -> dict[str, Any]:
    return {"image": name, "status": "failed", "reason": reason}


def records(count: int) -> list[dict[str, Any]]:
    """`img_000.png` ...: every third without lesion; uncertainties in no order, all different."""
    order = np.random.default_rng(0).permutation(count)
    return [
        record(
            f"set/img_{i:03d}.png",
            frame(i % 20, uncertainty=float((order[i] + 1) / (count + 1)), found=i % 3 != 2),
            outputs=(f"masks/set/img_{i:03d}.png",),
        )
        for i in range(count)
    ]


def card(
    name: str,
    seed: int,
    *,
    dice: float | None,
    found: bool = True,
    truth: bool = True,
    group: str | None = None,
    **more: Any,
) -> dict[str, Any]:
    """A scored frame."""
    _, mask = picture(seed + 1, lesion=truth)
    return {
        **frame(seed, found=found),
        "image": name,
        "class": group,
        "dice": dice,
        "iou": None if dice is None else dice / (2 - dice),
        "missed": dice == 0,
        "truth_contours": mask_contours(mask),
        "truth_pixels": int(mask.sum()),
        **more,
    }


def cards() -> list[dict[str, Any]]:
    """Six cards: Dice 0.9, 0.4, missed; without lesion a clean one and two false alarms."""
    return [
        card("good.png", 1, dice=0.9, group="benign"),
        card("clean.png", 2, dice=None, found=False, truth=False, group="normal"),
        card("missed.png", 3, dice=0.0, found=False, group="malignant"),
        card("alarm small.png", 4, dice=None, truth=False, group="normal", lesion_pixels=10),
        card("alarm large.png", 5, dice=None, truth=False, group="normal", lesion_pixels=5000),
        card("poor.png", 6, dice=0.4, group="malignant", false_lesions=2),
    ]


def summary() -> dict[str, Any]:
    """As `SegmentationScores.summary` gives it for `cards`, with NaN where there is nothing to tell."""
    nan = float("nan")
    core = {"images": 3, "pooled_dice": 0.61, "dice_mean": 0.433, "iou_mean": 0.35, "missed": 1}
    normal = {"images": 3, "pooled_dice": nan, "dice_mean": nan, "iou_mean": nan, "missed": 0}
    return core | {
        "images": 6,
        "images_without_lesion": 3,
        "pooled_dice_ci": (0.42, 0.75),
        "dice_std": 0.451,
        "dice_ci": (0.1, 0.85),
        "false_positives_per_image": 0.6667,
        "false_positive_rate_without_lesion": 0.6667,
        "hd95_median": nan,
        "distance_unit": "px",
        "by_class": {"benign": core, "normal": normal},
        "by_size": {"small": core},
    }
