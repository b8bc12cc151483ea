"""`scripts/audit_sheets.py` on phantoms: what is on each sheet."""

from __future__ import annotations

import runpy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image, ImageDraw

from phnet_monai.data import make_phantom

SCRIPT = SimpleNamespace(**runpy.run_path(str(Path(__file__).parents[2] / "scripts" / "audit_sheets.py")))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Five scans; 4 is the darker copy of 3, and 0 has a caliper."""
    (tmp_path / "data").mkdir()
    scans = [make_phantom((150, 200), seed=seed)[0] for seed in range(4)]
    scans.append((scans[3] * 0.7).astype(np.uint8))
    for number, scan in enumerate(scans):
        picture = Image.fromarray(scan if number else scan // 2)
        if not number:
            ImageDraw.Draw(picture).rectangle((90, 70, 110, 72), fill=235)
        picture.save(tmp_path / "data" / f"{number}.png")
    return tmp_path / "data"


def test_sheets(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    SCRIPT.main([str(folder), str(tmp_path / "sheets"), "--count", "3"])
    counts = dict(line.rsplit(": ", 1) for line in capsys.readouterr().out.splitlines())
    names = {Path(path).stem: int(count) for path, count in counts.items()}
    assert names | {"below": 0} == {"above": 1, "below": 0, "sample": 1, "marks": 1, "weakest": 1, "unmarked": 3}
    for name in names:
        with Image.open(tmp_path / "sheets" / f"{name}.png") as sheet:
            assert sheet.width % SCRIPT.WIDTH == 0
            assert np.asarray(sheet).any() or name == "below"


def test_a_sheet_shows_the_pair_side_by_side(folder: Path, tmp_path: Path) -> None:
    SCRIPT.draw_sheet(folder, [(("1.png", "2.png"), "0.5", ())], tmp_path / "sheet.png")
    sheet = np.asarray(Image.open(tmp_path / "sheet.png").convert("L"))
    top = SCRIPT.CAPTION
    for place, name in enumerate(("1.png", "2.png")):
        shown = sheet[top : top + 150, place * SCRIPT.WIDTH : place * SCRIPT.WIDTH + 200]
        np.testing.assert_array_equal(shown, np.asarray(Image.open(folder / name)))


def test_counts_below_one_are_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(SystemExit):
        SCRIPT.main([str(folder), str(tmp_path), "--count", "0"])
