"""A finished comparison made of known figures, without any training."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from phnet_monai.comparison.matrix import Cell, Matrix, Row

LESION = 1000.0  # pixels of every lesion's target; an image has 10,000 to 100,000
Dice = Callable[[Cell, int], float]


def image_row(number: int, dice: float, area: float = LESION) -> dict[str, Any]:
    """A row of `per_image.csv`: as many false as missed pixels, so that Dice is exactly what is asked for."""
    wrong = area * (1 - dice)
    return {
        "case_id": f"case {number:02d}",
        "class": "benign" if number % 3 else "malignant",
        "dice": dice,
        "tp": area - wrong,
        "fp": wrong,
        "fn": wrong,
        "lesion_area_fraction": 0.01 * (number + 1),
    }


def summary_of(rows: list[dict[str, Any]]) -> dict[str, Any]:
    tp, wrong = (sum(row[key] for row in rows) for key in ("tp", "fp"))
    dice = tp / (tp + wrong)
    return {
        "images": len(rows),
        "pooled_dice": dice,
        "pooled_iou": dice / (2 - dice),
        "dice_mean": sum(row["dice"] for row in rows) / len(rows),
        "hd95_mean": 100 * (1 - dice),
        "missed_rate": None,
        "distance_unit": "px",
    }


def write_cell(folder: Path, cell: Cell, dice: Dice, images: list[int], **changes: Any) -> None:
    """The result files of one cell; `dice(cell, number)` is the Dice of each test image."""
    rows = [image_row(number, dice(cell, number)) for number in images]
    scores = {part: {which: summary_of(rows) for which in ("last", "best")} for part in ("test", "validation")}
    history = [
        {
            "epoch": epoch,
            "iteration": 100 * epoch,
            "train": {},
            "validation": {"pooled_dice": scores["validation"]["last"]["pooled_dice"] - 0.01 * (3 - epoch)},
            "unlabeled": {"pooled_dice": 0.5 + 0.01 * epoch + 0.001 * cell.seed},
        }
        for epoch in (1, 2, 3)
    ]
    content: dict[str, Any] = {
        "row": cell.row.name,
        "profile": cell.profile,
        "labeled": cell.labeled,
        "seed": cell.seed,
        "fold": cell.fold,
        "method": cell.row.method,
        "recipe": cell.row.recipe,
        "config": list(cell.row.config),
        "overrides": dict(cell.row.overrides),
        "counts": {"labeled": 5, "unlabeled": 15, "validation": 6, "test": len(rows)},
        "steps": 300,
        "seconds": 30.0,
        "scores": scores,
        "history": history,
        "version": "0.1.0",
        "machine": {"cores": 2, "gpu": None},
    }
    results = folder / "results"
    results.mkdir(parents=True, exist_ok=True)
    (results / f"{cell.name}.json").write_text(json.dumps(content | changes), encoding="utf-8")
    for part in ("test", "validation"):
        with open(results / f"{cell.name}__{part}.csv", "w", newline="", encoding="utf-8") as stream:
            writer = csv.DictWriter(stream, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)


def known_dice(cell: Cell, number: int) -> float:
    """Between 0.4 and 0.9; PH-Net's differences to the others have both signs."""
    base = 0.4 + 0.02 * number + 0.01 * cell.seed
    bonus = {"phnet": 0.03 * ((number * 7) % 5 - 1), "sup_only": 0.0}
    return base + bonus.get(cell.row.name, 0.005 * (number % 4))


@pytest.fixture
def make_comparison(tmp_path: Path) -> Callable[..., Path]:
    """`make_comparison(rows=..., dice=..., missing=..., images=..., **matrix)` -> folder of a comparison."""

    def make(
        rows: tuple[str, ...] = ("sup_only", "cutmix", "phnet"),
        dice: Dice = known_dice,
        missing: tuple[str, ...] = (),
        images: Callable[[Cell], list[int]] = lambda cell: list(range(20)),
        paper: Mapping[str, Mapping[str, Any]] | None = None,
        changes: Mapping[str, Mapping[str, Any]] | None = None,
        **values: Any,
    ) -> Path:
        labels = {"sup_only": "SupOnly", "cutmix": "CutMix", "phnet": "PH-Net"}
        made = tuple(
            Row(
                name,
                labels.get(name, name),
                "sup_only" if name == "sup_only" else "phnet",
                paper=(paper or {}).get(name, {}),
            )
            for name in rows
        )
        matrix = Matrix(made, **{"dataset": "Made up", "title": "A comparison", **values})
        folder = tmp_path / "comparison"
        folder.mkdir()
        (folder / "compare.json").write_text(json.dumps(matrix.as_data()), encoding="utf-8")
        for cell in matrix.cells():
            if cell.name not in missing:
                write_cell(folder, cell, dice, images(cell), **(changes or {}).get(cell.name, {}))
        return folder

    return make
