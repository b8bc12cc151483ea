"""pydicom's own test files, and colour frames of all kinds, look as DCMTK's viewer shows them."""

from __future__ import annotations

import runpy
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from phnet_monai.data import DecodeError
from phnet_monai.data.decode import luminance
from phnet_monai.data.dicom import read_dicom

pydicom = pytest.importorskip("pydicom", reason="the extra dicom is not installed")
pytestmark = pytest.mark.skipif(
    shutil.which("dcmj2pnm") is None, reason="dcmj2pnm is not installed (Debian: dcmtk); it shows DICOM independently"
)

FOLDER = Path(pydicom.__file__).parent / "data" / "test_files"
FEWEST = 25
"""Of the files that come with pydicom (others it downloads) both can show at least so many."""

TOLERANCE = 2
"""Rounding, and the last bit of lossy decoders."""


def by_dcmtk(path: Path, out: Path) -> np.ndarray | None:
    """Grey values of the first frame, uint8 (H, W), by the file's first window; None where DCMTK has no decoder."""
    header = pydicom.dcmread(path, stop_before_pixels=True, force=True)
    window = ["+Wi", "1"] if "WindowCenter" in header else ["+Wl", "1"] if "VOILUTSequence" in header else []
    command = ["dcmj2pnm", "--no-overlays", "--write-raw-pnm", *window, path, out]
    subprocess.run(command, capture_output=True, check=False)
    if not out.is_file():
        return None
    with Image.open(out) as picture:
        values = np.asarray(picture)
    return values if values.ndim == 2 else luminance(values)


def test_pydicoms_files_look_as_in_dcmtk(tmp_path: Path) -> None:
    compared = {}
    for number, path in enumerate(sorted(FOLDER.rglob("*.dcm"))):
        try:
            mine = read_dicom(path)[0][0]
        except DecodeError:
            continue
        if (theirs := by_dcmtk(path, tmp_path / f"{number}.pnm")) is not None:
            assert mine.shape == theirs.shape, path
            compared[path.name] = int(np.abs(mine.astype(int) - theirs).max())
    assert len(compared) >= FEWEST
    assert {name: found for name, found in compared.items() if found > TOLERANCE} == {}


@pytest.mark.parametrize("photometric", ["RGB", "YBR_FULL_422"])
def test_jpeg_in_colour_looks_as_in_dcmtk(tmp_path: Path, photometric: str) -> None:
    """As a scanner writes it: RGB by names of its components, luma and chroma by JFIF."""
    files = SimpleNamespace(**runpy.run_path(str(Path(__file__).parents[1] / "reference" / "scan_files.py")))
    across, down = np.linspace(0, 255, 64)[None].repeat(48, 0), np.linspace(0, 200, 48)[:, None].repeat(64, 1)
    colours = np.stack([across, down, 255 - across], axis=-1).astype(np.uint8)
    path = files.make_dicom(tmp_path / "a.dcm", colours, photometric=photometric)
    files.as_jpeg(path, [colours], photometric, keep_rgb=photometric == "RGB")
    theirs = by_dcmtk(path, tmp_path / "a.pnm")
    assert theirs is not None
    assert np.abs(read_dicom(path)[0][0].astype(int) - theirs).max() <= TOLERANCE
