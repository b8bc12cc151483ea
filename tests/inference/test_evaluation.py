"""The page of `phnet evaluate --report`."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from phnet_monai.engines import LesionEvaluator
from phnet_monai.inference import Predictor
from phnet_monai.inference.evaluation import report_evaluation
from phnet_monai.metrics.report import write_scores


@pytest.fixture
def scored(tmp_path: Path, network: Any) -> tuple[Path, Path, dict[str, Any]]:
    """Datalist, folder of scores and summary: one image found, one missed, one without lesion but found."""
    bright = np.full((60, 80), 20, dtype=np.uint8)
    bright[10:30, 10:40] = 230
    masks = {
        "found": bright > 128,
        "missed": np.roll(bright > 128, 35, axis=1),
        "false": np.zeros((60, 80), dtype=bool),
    }
    entries, items = [], []
    for name, mask in masks.items():
        Image.fromarray(bright).save(tmp_path / f"{name}.png")
        Image.fromarray(mask).save(tmp_path / f"{name}_mask.png")
        entries.append(
            {"image": f"{name}.png", "label": f"{name}_mask.png", "case_id": name, "group_id": name, "class": "x"}
        )
        items.append({"image": bright, "label": mask, "case_id": name, "class": "x"})
    content = {"labeled": [], "unlabeled": [], "validation": [], "test": entries, "meta": {"version": 1}}
    (tmp_path / "datalist.json").write_text(json.dumps(content))
    evaluator = LesionEvaluator("cpu", [items], network, size=96, distances=True)
    evaluator.run()
    return tmp_path / "datalist.json", tmp_path / "scores", write_scores(evaluator.scores, tmp_path / "scores")


def test_page(scored: tuple[Path, Path, dict[str, Any]], predictor: Predictor) -> None:
    datalist, folder, summary = scored
    path = report_evaluation(predictor, datalist, folder, summary, part="test")
    text = path.read_text(encoding="utf-8")
    assert path == folder / "report.html"
    places = [text.index(f">{name}<") for name in ("missed", "found")]
    assert places == sorted(places)  # worst first
    assert not re.search(r"(src|href)\s*=\s*[\"']https?:", text)
    assert "Evaluation, test part" in text


def test_scores_of_another_datalist_are_refused(
    scored: tuple[Path, Path, dict[str, Any]], predictor: Predictor
) -> None:
    datalist, folder, summary = scored
    table = folder / "per_image.csv"
    table.write_text("\n".join(line for line in table.read_text().splitlines() if not line.startswith("missed")))
    with pytest.raises(ValueError, match="no row for 'missed'"):
        report_evaluation(predictor, datalist, folder, summary, part="test")
    assert not (folder / "report.html").exists()
