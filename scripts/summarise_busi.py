"""Table and learning curves of the cells that `measure_busi.py` wrote.

    python scripts/summarise_busi.py docs/results/busi_1-8

Prints a Markdown table (mean and standard deviation over seeds) and writes `learning_curves.png` beside the cells
(needs matplotlib: pip install 'phnet-monai[plot]').
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from pathlib import Path

import numpy as np

from phnet_monai.metrics import bootstrap_interval, read_per_image, wilcoxon_holm

PARTS = ("validation", "test")
FIGURES = {"pooled_dice": "pooled Dice", "dice_mean": "Dice per image"}


def read_cells(folder: Path) -> dict[str, list[dict]]:
    """Cells by name without the seed, ordered by seed."""
    cells: dict[str, list[dict]] = defaultdict(list)
    for path in sorted(folder.glob("*_seed*.json")):
        cells[path.stem.rsplit("_seed", 1)[0]].append(json.loads(path.read_text(encoding="utf-8")))
    if not cells:
        raise SystemExit(f"{folder}: no *_seed*.json; run scripts/measure_busi.py first")
    return {name: sorted(group, key=lambda cell: cell["seed"]) for name, group in cells.items()}


def rows_of(cells: dict[str, list[dict]]) -> dict[str, list[dict]]:
    """One row per evaluated network: the student and the teacher of a cell are rows of their own."""
    rows: dict[str, list[dict]] = {}
    for name, group in cells.items():
        for which in group[0]["scores"]:
            label = {"teacher": name, "student": f"{name} (student)"}[which]
            rows[label] = [{"seed": cell["seed"], **cell["scores"][which]} for cell in group]
    return rows


def spread(values: list[float]) -> str:
    figures = 100 * np.asarray(values)
    return f"{figures.mean():.1f} ± {figures.std(ddof=1):.1f}" if len(figures) > 1 else f"{figures[0]:.1f}"


def table(rows: dict[str, list[dict]], checkpoint: str) -> str:
    parts = [part for part in PARTS if all(part in cell for group in rows.values() for cell in group)]
    heads = [f"{part}, {text}" for part in parts for text in FIGURES.values()]
    lines = [f"| `{checkpoint}.pt` | seeds | " + " | ".join(heads) + " |", "| --- " * (len(heads) + 2) + "|"]
    for name, group in rows.items():
        figures = [spread([cell[part][checkpoint][key] for cell in group]) for part in parts for key in FIGURES]
        lines.append(f"| {name} | {len(group)} | " + " | ".join(figures) + " |")
    return "\n".join(lines)


def per_seed(rows: dict[str, list[dict]], checkpoint: str, part: str) -> str:
    lines = [f"| {part}, pooled Dice, `{checkpoint}.pt` | seed 0 | 1 | 2 |", "| --- | --- | --- | --- |"]
    for name, group in rows.items():
        if part in group[0]:
            lines.append(
                f"| {name} | " + " | ".join(f"{100 * c[part][checkpoint]['pooled_dice']:.1f}" for c in group) + " |"
            )
    return "\n".join(lines)


def dice_over_seeds(folder: Path, name: str) -> dict[str, float]:
    """Test Dice per image of the teacher (last.pt), averaged over seeds."""
    values: dict[str, list[float]] = defaultdict(list)
    for path in sorted(folder.glob(f"{name}_seed*_test_teacher.csv")):
        for row in read_per_image(path):
            values[row["case_id"]].append(row["dice"])
    return {case: float(np.mean(dice)) for case, dice in values.items()}


def paired_test(folder: Path, reference: str, other: str) -> str:
    """Paired comparison of per-image test Dice, averaged over seeds."""
    first, second = dice_over_seeds(folder, reference), dice_over_seeds(folder, other)
    if not first or set(first) != set(second):
        return f"{reference} against {other}: no test scores of the same images yet"
    cases = sorted(first)
    ours, theirs = np.array([first[case] for case in cases]), np.array([second[case] for case in cases])
    low, high = bootstrap_interval(ours - theirs)
    result = wilcoxon_holm(ours, {other: theirs})[other]
    return (
        f"{reference} - {other}, test Dice per image over {len(cases)} images: "
        f"mean {100 * (ours - theirs).mean():+.1f} [{100 * low:.1f}, {100 * high:.1f}] points, "
        f"Wilcoxon p = {result['p']:.3f}, rank-biserial {result['effect_size']:+.2f}"
    )


def plot(cells: dict[str, list[dict]], path: Path) -> None:
    """Validation Dice of the teacher and pseudo-label statistics over the steps after the warm start."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(14, 4), layout="constrained")
    for colour, (name, group) in zip(plt.rcParams["axes.prop_cycle"].by_key()["color"], cells.items(), strict=False):
        for axis, key in zip(axes, ("pooled_dice", "dice_mean"), strict=False):
            curves = [[100 * row["validation"][key] for row in cell["history"]] for cell in group]
            steps = [row["iteration"] for row in group[0]["history"]]
            for curve in curves:
                axis.plot(steps, curve, color=colour, alpha=0.3, linewidth=1)
            axis.plot(steps, np.mean(curves, axis=0), color=colour, linewidth=2, label=name)
            axis.set(xlabel="steps after the warm start", ylabel=f"validation {FIGURES[key]} (%)")
            axis.legend()
    for key in ("confident_pixels", "pseudo_label_agreement", "hardness"):
        groups = [cell for group in cells.values() for cell in group if key in cell["history"][-1]["train"]]
        if groups:
            curves = [[row["train"][key] for row in cell["history"]] for cell in groups]
            axes[2].plot([row["iteration"] for row in groups[0]["history"]], np.mean(curves, axis=0), label=key)
    axes[2].set(xlabel="steps after the warm start", ylabel="share, mean over seeds (PH-Net)")
    axes[2].legend()
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    args = parser.parse_args()
    cells = read_cells(args.folder)
    rows = rows_of(cells)
    for checkpoint in ("last", "best"):
        print(table(rows, checkpoint), end="\n\n")
    for part in PARTS:
        print(per_seed(rows, "last", part), end="\n\n")
    print(paired_test(args.folder, "phnet", "sup_only_ema"), end="\n\n")
    plot(cells, args.folder / "learning_curves.png")
    print(f"written: {args.folder / 'learning_curves.png'}")


if __name__ == "__main__":
    main()
