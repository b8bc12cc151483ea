"""Pictures of a comparison: masks as in the paper's Fig. 5 and probability maps as in its Fig. 7.

Images are chosen by class and lesion size alone, never by how well any method does on them.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from phnet_monai.comparison.plots import TEXT, drawing
from phnet_monai.data import load_part, read_image, read_mask
from phnet_monai.metrics import per_image_scores

QUANTILES = (0.1, 0.5, 0.9)
"""Which lesions are shown of each class, by area."""

# Okabe and Ito's vermillion, green and yellow: the paper's red, green and yellow for any colour vision
TRUTH_ONLY, PREDICTION_ONLY, BOTH = (213, 94, 0), (0, 158, 115), (240, 228, 66)
FILL = 0.6
THRESHOLD = 0.5
HEAT = "RdYlBu_r"  # blue: surely background, yellow: unsure, red: surely lesion; ColorBrewer, for any colour vision


@dataclass(frozen=True)
class Picture:
    """One image with its truth.

    Attributes:
        case_id: name; group: its class, or "" where unknown.
        image: uint8 (H, W); truth: bool (H, W).
    """

    case_id: str
    group: str
    image: NDArray[np.uint8]
    truth: NDArray[np.bool_]

    @property
    def area(self) -> float:
        """Lesion area as a fraction of the image."""
        return float(self.truth.mean())

    @property
    def caption(self) -> str:
        return f"{self.group + ', ' if self.group else ''}{100 * self.area:.1f} %\n{self.case_id}"


def choose_cases(areas: Mapping[str, float], groups: Mapping[str, str]) -> list[str]:
    """Of each group (class) the cases at the 10th, 50th and 90th percentile of lesion area; cases without lesion never.

    Args:
        areas: lesion area by case; groups: class by case.

    Returns:
        Case ids, group by group in alphabetical order, small to large. The same for the same data.
    """
    chosen = []
    for group in sorted({groups.get(case, "") for case in areas}):
        members = [case for case, area in areas.items() if area > 0 and groups.get(case, "") == group]
        members.sort(key=lambda case: (areas[case], case))
        places = [round(quantile * (len(members) - 1)) for quantile in QUANTILES] if members else []
        chosen += [members[place] for place in dict.fromkeys(places)]
    return chosen


def choose_pictures(datalist: str | Path, part: str = "test") -> list[Picture]:
    """The images of a part of a datalist that the figures show, see `choose_cases`."""
    entries = {entry["case_id"]: entry for entry in load_part(datalist, part) if "label" in entry}
    groups = {case: entry.get("class", "") for case, entry in entries.items()}
    areas = {case: float(read_mask(entry["label"]).mean()) for case, entry in entries.items()}
    return [
        Picture(case, groups[case], read_image(entries[case]["image"]), read_mask(entries[case]["label"]))
        for case in choose_cases(areas, groups)
    ]


def predict(
    pictures: Sequence[Picture], checkpoints: Mapping[str, str | Path], *, device: str = "auto"
) -> tuple[dict[str, list[NDArray[np.float32]]], dict[str, str]]:
    """Lesion probabilities (H, W) of every checkpoint's evaluated network on the pictures.

    Returns:
        Row -> probabilities, in the order of `checkpoints`; and row -> why there are none.
    """
    from phnet_monai.inference import Predictor

    found, failed = {}, {}
    for name, path in checkpoints.items():
        if not Path(path).is_file():
            failed[name] = "no checkpoint"
            continue
        try:
            predictor = Predictor.from_model(path, device)
            found[name] = predictor.predict([picture.image for picture in pictures])
        except ValueError as error:  # of another version, damaged, diverged: the other rows are still worth showing
            failed[name] = str(error)
    return found, failed


def agreement_overlay(image: NDArray[np.uint8], truth: NDArray[np.bool_], mask: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Truth and prediction on their image: red only truth, green only prediction, yellow both.

    Args:
        image: uint8 (H, W); truth, mask: bool (H, W).

    Returns:
        uint8 (H, W, 3); pixels in neither mask keep their grey.
    """
    canvas = np.repeat(image[:, :, None], 3, axis=2).astype(np.float32)
    for where, colour in ((truth & ~mask, TRUTH_ONLY), (mask & ~truth, PREDICTION_ONLY), (truth & mask, BOTH)):
        canvas[where] += FILL * (np.array(colour, dtype=np.float32) - canvas[where])
    return np.rint(canvas).astype(np.uint8)


def plot_masks(
    pictures: Sequence[Picture],
    predictions: Mapping[str, Sequence[NDArray[np.float32]]],
    path: Path,
    *,
    labels: Mapping[str, str],
    title: str,
) -> None:
    """Grid as in Fig. 5: a line for each picture, a column for each row of the comparison, with its Dice."""
    with _grid(path, pictures, ["image", *(labels[name] for name in predictions)], title) as axes:
        for line, picture in enumerate(pictures):
            _show(axes[line, 0], picture.image)
            for axis, found in zip(axes[line, 1:], predictions.values(), strict=True):
                mask = found[line] > THRESHOLD
                _show(axis, agreement_overlay(picture.image, picture.truth, mask))
                dice = per_image_scores(mask, picture.truth, distances=False)["dice"]
                _corner(axis, f"{100 * dice:.0f}")
        _colour_key(axes)


def plot_probabilities(
    pictures: Sequence[Picture],
    predictions: Mapping[str, Sequence[NDArray[np.float32]]],
    path: Path,
    *,
    labels: Mapping[str, str],
    title: str,
) -> None:
    """Heat maps as in Fig. 7: the lesion's probability, with the outline of the truth in black."""
    with _grid(path, pictures, ["image", *(labels[name] for name in predictions)], title) as axes:
        for line, picture in enumerate(pictures):
            _show(axes[line, 0], picture.image)
            for axis, found in zip(axes[line, 1:], predictions.values(), strict=True):
                shown = axis.imshow(found[line], cmap=HEAT, vmin=0, vmax=1, interpolation="bilinear")
                axis.contour(picture.truth, levels=[0.5], colors="black", linewidths=0.9)
        bar = axes[0, 0].figure.colorbar(shown, ax=axes, shrink=0.6, aspect=30, pad=0.01)
        bar.set_label("probability of lesion", fontsize=9)
        bar.outline.set_visible(False)


@contextmanager
def _grid(path: Path, pictures: Sequence[Picture], columns: Sequence[str], title: str) -> Iterator[Any]:
    """Axes (pictures, columns) without frames, with the columns' names above and the pictures' captions beside."""
    size = (1.55 * len(columns) + 1.4, 1.35 * len(pictures) + 1.0)
    with drawing(path, len(pictures), len(columns), size) as axes:
        axes[0, 0].figure.suptitle(title, x=0.01, ha="left", fontsize=11)
        for axis in axes.flat:
            axis.set(xticks=[], yticks=[])
            for spine in axis.spines.values():
                spine.set_visible(False)
        for axis, name in zip(axes[0], columns, strict=True):
            axis.set_title(textwrap.fill(name, 22), fontsize=8.5, loc="center", color=TEXT)
        for axis, picture in zip(axes[:, 0], pictures, strict=True):
            axis.set_ylabel(picture.caption, rotation=0, ha="right", va="center", fontsize=8, labelpad=6)
        yield axes


def _show(axis: Any, pixels: NDArray[np.uint8]) -> None:
    axis.imshow(pixels, cmap="gray", vmin=0, vmax=255)


def _corner(axis: Any, text: str) -> None:
    box = {"facecolor": "black", "alpha": 0.65, "pad": 1.5, "edgecolor": "none"}
    axis.text(0.03, 0.05, text, transform=axis.transAxes, color="white", fontsize=8, bbox=box)


def _colour_key(axes: Any) -> None:
    from matplotlib.patches import Patch

    entries = ((TRUTH_ONLY, "truth only (missed)"), (PREDICTION_ONLY, "prediction only"), (BOTH, "both"))
    handles = [Patch(color=f"#{r:02x}{g:02x}{b:02x}", label=text) for (r, g, b), text in entries]
    axes[0, 0].figure.legend(
        handles=handles, loc="outside lower right", ncols=3, frameon=False, fontsize=9, title="number: Dice, %"
    )
