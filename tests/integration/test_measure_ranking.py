"""`scripts/measure_ranking.py` on phantoms by the `smoke` profile."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

from phnet_monai.data import load_datalist

SCRIPT = Path(__file__).parents[2] / "scripts" / "measure_ranking.py"
FEW = json.dumps({"max_epochs": 1, "pretrain_epochs": 1, "epoch_length": 2, "batch_size": 2})
ARMS = ["rank", "random"]


@pytest.fixture(scope="module")
def script() -> Any:
    spec = importlib.util.spec_from_file_location("measure_ranking", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def words(phantoms: Path, out: Path, *more: str) -> list[str]:
    settings = ["--profile", "smoke", "--start", "4", "--more", "3", "--seeds", "0", "--device", "cpu"]
    return [str(phantoms), "--out", str(out), *settings, "--overrides", FEW, "--start-overrides", FEW, *more]


@pytest.mark.slow
def test_arms_start_from_one_model_and_add_the_same_number(
    script: Any, phantoms: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    script.main(words(phantoms, out, "--arms", *ARMS))
    text = (out / "ranking.md").read_text(encoding="utf-8")
    assert capsys.readouterr().out.endswith(text + "\n")
    rows = [line.split(" | ") for line in text.splitlines() if line.startswith(("| 4", "| 7"))]
    assert [(row[0], row[1]) for row in rows] == [("| 4", "start"), *(("| 7", arm) for arm in ARMS)]
    base = load_datalist(out / "work" / "seed0" / "datalist.json")
    first = {entry["image"] for entry in base["labeled"]}
    chosen = {}
    for arm in ARMS:
        parts = load_datalist(out / "work" / "seed0" / arm / "datalist.json")
        labeled = {entry["image"] for entry in parts["labeled"]}
        assert first < labeled
        assert len(labeled) == 7
        assert all("label" in entry and "hidden_label" not in entry for entry in parts["labeled"])
        assert len(parts["unlabeled"]) == len(base["unlabeled"]) - 3
        assert (parts["test"], parts["validation"]) == (base["test"], base["validation"])
        chosen[arm] = labeled - first
        result = json.loads((out / "results" / f"{arm}__seed0.json").read_text(encoding="utf-8"))
        assert {Path(image).stem for image in chosen[arm]} == set(result["added"])
        assert 1 <= result["groups"] <= 3
        assert set(result["scores"]["test"]) == {"pooled_dice", "dice_mean"}
    assert len({frozenset(images) for images in chosen.values()}) > 1

    # the same command again does no work; one result lost is all that is done anew
    times = {path.name: path.stat().st_mtime_ns for path in (out / "results").iterdir()}
    (out / "results" / "random__seed0.json").unlink()
    script.main(words(phantoms, out, "--arms", *ARMS))
    assert "seed 0: rank" not in capsys.readouterr().out
    again = {path.name: path.stat().st_mtime_ns for path in (out / "results").iterdir()}
    assert {name for name in times if times[name] != again[name]} == {"random__seed0.json"}
    with pytest.raises(SystemExit, match="other settings"):
        script.main(words(phantoms, out, "--method", "phnet"))
