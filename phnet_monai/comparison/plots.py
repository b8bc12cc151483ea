"""Plots of a comparison. Data in, PNG out; nothing here reads a comparison's folder.

Colours are those of Okabe and Ito, told apart with any colour vision; no plot tells by colour alone.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from phnet_monai.comparison.results import Result, Results
from phnet_monai.comparison.statistics import interval_text, points
from phnet_monai.comparison.tables import POOLED_DICE, p_text, score, size_text
from phnet_monai.extras import extra_module
from phnet_monai.files import atomic_writer

BLUE, GREEN, VERMILLION, BLACK, ORANGE = "#0072B2", "#009E73", "#D55E00", "#000000", "#E69F00"
REFERENCE_COLOUR = BLUE
COLOURS = (VERMILLION, GREEN, BLACK, ORANGE)
QUIET, GRID, TEXT = "#B8B8B8", "#E4E4E4", "#333333"
MOST_IN_ONE_PANEL = 4  # the ranges of more rows cannot be told apart
_DASHES: tuple[Any, ...] = ("-", (0, (6, 2)), (0, (2, 1.5)), (0, (6, 2, 1.5, 2)))
_STYLE = {
    "font.family": "sans-serif",
    "font.size": 9.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#888888",
    "axes.labelcolor": TEXT,
    "axes.titlesize": 10.5,
    "axes.titlelocation": "left",
    "axes.axisbelow": True,
    "xtick.color": TEXT,
    "ytick.color": TEXT,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "savefig.dpi": 130,
    "figure.facecolor": "white",
}


class Curve(NamedTuple):
    """A figure over the steps of the runs of one row, in percent: mean, lowest and highest run, and how many runs."""

    steps: NDArray[np.int64]
    mean: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    runs: int


def pyplot() -> Any:
    """`matplotlib.pyplot` without a window. Raises MissingExtraError where the extra is not installed."""
    extra_module("matplotlib", "plot", purpose="drawing plots").use("Agg")
    import matplotlib.pyplot as plt

    return plt


@contextmanager
def drawing(path: Path, rows: int, columns: int, size: tuple[float, float], **options: Any) -> Iterator[Any]:
    """Axes (rows, columns) of a figure of `size` inches that is written to `path` at the end of the block."""
    plt = pyplot()
    with plt.rc_context(_STYLE):
        figure, axes = plt.subplots(rows, columns, figsize=size, layout="constrained", squeeze=False, **options)
        try:
            yield axes
            # no date inside: the same results give the same file
            with atomic_writer(path) as stream:
                figure.savefig(stream, format="png", metadata={"Software": None})
        finally:
            plt.close(figure)


def curves(results: Results, profile: str, labeled: str, part: str, key: str = "pooled_dice") -> dict[str, Curve]:
    """Row -> curve of a score in the rows of its `history.jsonl`: part `validation`, or `unlabeled` (pseudo-labels).

    Only steps that all runs of the row have reached count.
    """
    found = {}
    for name, finished in results.of(profile, labeled).items():
        runs = [_points(result, part, key) for result in finished]
        runs = [run for run in runs if run]
        steps = sorted(set.intersection(*(set(run) for run in runs))) if runs else []
        if steps:
            values = 100 * np.array([[run[step] for step in steps] for run in runs])
            low, mean, high = values.min(axis=0), values.mean(axis=0), values.max(axis=0)
            found[name] = Curve(np.array(steps), mean, low, high, len(runs))
    return found


def _points(result: Result, part: str, key: str) -> dict[int, float]:
    rows = ((row["iteration"], (row.get(part) or {}).get(key)) for row in result.history)
    return {int(step): float(value) for step, value in rows if value is not None}


def plot_curves(
    found: Mapping[str, Curve], path: Path, *, labels: Mapping[str, str], reference: str, title: str, ylabel: str
) -> None:
    """Curves with their range over runs: in one panel up to four rows, else a small panel for each row.

    Each small panel shows its row against the reference, and all others in grey.
    """
    if len(found) <= MOST_IN_ONE_PANEL:
        with drawing(path, 1, 1, (8.2, 4.6)) as axes:
            _all_curves(axes[0, 0], found, labels, reference)
            axes[0, 0].set(xlabel="training steps", ylabel=ylabel, title=title)
        return
    names = sorted((name for name in found if name != reference), key=lambda name: -found[name].mean[-1])
    columns = min(4, math.ceil(math.sqrt(len(names))))
    rows = math.ceil(len(names) / columns)
    with drawing(path, rows, columns, (3.0 * columns, 2.3 * rows + 0.5), sharex=True, sharey=True) as axes:
        key = f"solid: the row named, band: range of its runs; dashed: {labels.get(reference, '')}; grey: the others"
        axes[0, 0].figure.suptitle(f"{title}\n{key}", x=0.01, ha="left", fontsize=10.5)
        for name, axis in zip(names, axes.flat, strict=False):
            _one_against_reference(axis, found, name, reference, labels)
        for axis in axes.flat[len(names) :]:
            axis.set_visible(False)
        for axis in axes[:, 0]:
            axis.set_ylabel(ylabel, fontsize=8.5)
        for axis in axes.flat[max(0, len(names) - columns) : len(names)]:  # the lowest panel of each column
            axis.set_xlabel("training steps", fontsize=8.5)
            axis.tick_params(labelbottom=True)


def _style_of(names: Sequence[str], reference: str) -> dict[str, dict[str, Any]]:
    others = [name for name in names if name != reference]
    styles = {
        name: {"color": colour, "linestyle": dashes, "linewidth": 1.8}
        for name, colour, dashes in zip(others, COLOURS, _DASHES, strict=False)
    }
    return styles | {reference: {"color": REFERENCE_COLOUR, "linestyle": "-", "linewidth": 2.8}}


def _all_curves(axis: Any, found: Mapping[str, Curve], labels: Mapping[str, str], reference: str) -> None:
    styles = _style_of(list(found), reference)
    for name, curve in sorted(found.items(), key=lambda item: item[0] == reference):
        axis.fill_between(curve.steps, curve.low, curve.high, color=styles[name]["color"], alpha=0.12, linewidth=0)
        axis.plot(curve.steps, curve.mean, **styles[name], marker="o", markersize=3.5)
    axis.grid(True, axis="y")
    axis.margins(x=0.02)
    low, high = axis.get_ylim()
    ends = spaced([curve.mean[-1] for curve in found.values()], gap=(high - low) / 18)
    last = max(curve.steps[-1] for curve in found.values())
    for (name, curve), place in zip(found.items(), ends, strict=True):
        axis.annotate(
            f"{labels[name]} {curve.mean[-1]:.1f}",
            (curve.steps[-1], curve.mean[-1]),
            xytext=(axis.get_xlim()[1] + 0.02 * last, place),
            textcoords="data",
            color=styles[name]["color"],
            fontweight="bold" if name == reference else "normal",
            va="center",
            annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": QUIET, "linewidth": 0.7, "shrinkA": 1, "shrinkB": 3},
        )


def _one_against_reference(
    axis: Any, found: Mapping[str, Curve], name: str, reference: str, labels: Mapping[str, str]
) -> None:
    for other, curve in found.items():
        if other not in (name, reference):
            axis.plot(curve.steps, curve.mean, color=QUIET, linewidth=0.7)
    own = found[name]
    axis.set_title(textwrap.fill(f"{labels[name]} {own.mean[-1]:.1f}", 32), color=VERMILLION, fontsize=9.5)
    if reference in found:
        best = found[reference]
        axis.plot(best.steps, best.mean, color=REFERENCE_COLOUR, linewidth=1.6, linestyle=(0, (4, 1.5)))
        axis.annotate(
            textwrap.fill(f"{labels[reference]} {best.mean[-1]:.1f}", 40),
            (1, 0.02),
            xycoords="axes fraction",
            ha="right",
            va="bottom",
            fontsize=7.5,
            color=REFERENCE_COLOUR,
        )
    axis.fill_between(own.steps, own.low, own.high, color=VERMILLION, alpha=0.15, linewidth=0)
    axis.plot(own.steps, own.mean, color=VERMILLION, linewidth=2.0)
    axis.grid(True, axis="y")


def spaced(values: Sequence[float], *, gap: float) -> list[float]:
    """The values, moved as little as needed so that no two are closer than `gap`; their order stays."""
    order = np.argsort(values, kind="stable")
    clusters: list[list[float]] = []  # mean of the wanted places, number of members
    for index in order:
        clusters.append([float(values[index]), 1.0])
        while len(clusters) > 1 and clusters[-1][0] - clusters[-2][0] < gap * (clusters[-1][1] + clusters[-2][1]) / 2:
            (upper, n), (lower, m) = clusters.pop(), clusters.pop()
            clusters.append([(upper * n + lower * m) / (n + m), n + m])
    places = [centre + gap * (k - (count - 1) / 2) for centre, count in clusters for k in range(int(count))]
    result = [0.0] * len(values)
    for index, place in zip(order, places, strict=True):
        result[index] = place
    return result


def plot_methods(
    results: Results, profile: str, labeled: str, path: Path, *, part: str, checkpoint: str, title: str
) -> None:
    """Pooled Dice of every row: each run a ring, their mean a dot; best row on top."""
    rows = results.of(profile, labeled)
    spreads = {name: score(finished, POOLED_DICE, part, checkpoint) for name, finished in rows.items()}
    names = sorted((name for name, entry in spreads.items() if entry.runs), key=lambda name: spreads[name].mean)
    labels, reference = results.labels_with_runs(profile, labeled), results.reference
    with drawing(path, 1, 1, (7.6, 1.3 + 0.33 * len(names))) as axes:
        axis = axes[0, 0]
        for place, name in enumerate(names):
            colour = REFERENCE_COLOUR if name == reference else TEXT
            values = [100 * s["pooled_dice"] for r in rows[name] if (s := r.summary(part, checkpoint))]
            axis.plot([min(values), max(values)], [place, place], color=QUIET, linewidth=1.5, zorder=1)
            axis.plot(values, [place] * len(values), "o", markerfacecolor="white", markeredgecolor=colour, markersize=5)
            axis.plot(spreads[name].mean, place, "o", color=colour, markersize=8)
            axis.annotate(
                f"{spreads[name].mean:.1f}",
                (1.01, place),
                xycoords=("axes fraction", "data"),
                va="center",
                color=colour,
                fontweight="bold" if name == reference else "normal",
            )
        _name_rows(axis, names, labels, reference)
        axis.set(xlabel=f"pooled Dice on the {part} part, % (rings: single runs, dots: mean)", title=title)


def _name_rows(axis: Any, names: Sequence[str], labels: Mapping[str, str], reference: str) -> None:
    axis.set_yticks(range(len(names)), [labels[name] for name in names])
    axis.set_ylim(-0.7, len(names) - 0.3)
    axis.tick_params(axis="y", length=0)
    axis.grid(True, axis="x")
    for tick, name in zip(axis.get_yticklabels(), names, strict=False):  # none where panels share the axis
        if name == reference:
            tick.set_fontweight("bold")
            tick.set_color(REFERENCE_COLOUR)


def plot_differences(records: Sequence[Mapping[str, Any]], path: Path, *, reference: str, title: str) -> None:
    """Reference minus every other row, Dice per image with its interval; filled where Holm's p is below 0.05.

    That of group means, where groups are known: images of one scan are not independent.
    """
    ordered = sorted(records, key=lambda record: record["difference"])
    with drawing(path, 1, 1, (8.2, 1.4 + 0.33 * len(ordered))) as axes:
        axis = axes[0, 0]
        axis.axvline(0, color=TEXT, linewidth=1)
        for place, record in enumerate(ordered):
            low, mean, high = (100 * record[key] for key in ("difference_low", "difference", "difference_high"))
            p = record["p_groups_holm"] if math.isfinite(record["p_groups_holm"]) else record["p_holm"]
            sure = p < 0.05
            axis.plot([low, high], [place, place], color=BLUE, linewidth=2.2, solid_capstyle="butt")
            axis.plot(mean, place, "o", markersize=7, color=BLUE, markerfacecolor=BLUE if sure else "white")
            span = interval_text(record["difference_low"], record["difference_high"])
            axis.annotate(
                f"{points(record['difference'])} ({span})   p {p_text(p)}",
                (1.02, place),
                xycoords=("axes fraction", "data"),
                va="center",
                fontsize=8.5,
            )
        _name_rows(axis, [str(record["label"]) for record in ordered], {r["label"]: r["label"] for r in ordered}, "")
        axis.set(
            xlabel=f"{reference} minus the other: Dice per image in points, 95 % interval; p by Holm",
            title=title,
        )


def plot_sizes(records: Sequence[Mapping[str, Any]], path: Path, *, reference: str, title: str) -> None:
    """Dice per image in each quarter of the lesions by area: a panel a quarter, rows in the order of their mean."""
    quarters = sorted({record["quarter"] for record in records})
    found = {(record["row"], record["quarter"]): record for record in records}
    labels = {record["row"]: record["label"] for record in records}
    names = sorted(labels, key=lambda name: np.mean([r["dice"] for r in records if r["row"] == name]))
    size = (3.0 + 2.1 * len(quarters), 1.6 + 0.3 * len(names))
    with drawing(path, 1, len(quarters), size, sharex=True, sharey=True) as axes:
        axes[0, 0].figure.suptitle(title, x=0.01, ha="left", fontsize=11)
        for axis, quarter in zip(axes[0], quarters, strict=True):
            shown = [(place, found[name, quarter]) for place, name in enumerate(names) if (name, quarter) in found]
            for place, record in shown:
                colour = REFERENCE_COLOUR if record["row"] == reference else TEXT
                ends = [100 * record["dice_low"], 100 * record["dice_high"]]
                axis.plot(ends, [place, place], color=colour, linewidth=1.4, alpha=0.45)
                axis.plot(100 * record["dice"], place, "o", color=colour, markersize=6)
            if (reference, quarter) in found:
                axis.axvline(
                    100 * found[reference, quarter]["dice"], color=REFERENCE_COLOUR, linewidth=0.9, linestyle=":"
                )
            _name_rows(axis, names, labels, reference)
            first = shown[0][1]
            axis.set_title(f"{size_text(first['area_low'], first['area_high'])}\nn = {first['images']}", fontsize=9)
        axes[0, 0].figure.supxlabel(
            "Dice per image, %, with 95 % interval; lesion area as a share of the image", fontsize=9
        )
