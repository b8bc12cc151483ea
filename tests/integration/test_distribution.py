"""The wheel and the bundle's zip work in an environment that has nothing else of this project."""

from __future__ import annotations

import importlib
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parents[2]
WRITTEN_BY_SETUP = Path(sysconfig.get_path("purelib")) / "_phnet_dependencies.pth"


@pytest.fixture(scope="module")
def scripts() -> Iterator[dict[str, Any]]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "scripts"))
        yield {name: importlib.import_module(name) for name in ("package_bundle", "check_distribution")}


@pytest.mark.slow
@pytest.mark.skipif(not WRITTEN_BY_SETUP.is_file(), reason="needs an environment of `make env`")
def test_wheel_and_zip_alone_write_the_same_masks(
    scripts: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("build", reason="needs phnet-monai[dev]")
    words = [sys.executable, "-m", "build", "--no-isolation", "--wheel", "--outdir", str(tmp_path), str(ROOT)]
    subprocess.run(words, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    packer = scripts["package_bundle"]
    packer.stage(ROOT / "bundle", tmp_path / packer.NAME)  # the rules have their own tests
    with (tmp_path / "bundle.zip").open("wb") as stream:
        packer.write_zip(tmp_path / packer.NAME, stream)
    assert scripts["check_distribution"].main([str(wheel), str(tmp_path / "bundle.zip")]) == 0
    assert "write the same 4 masks" in capsys.readouterr().out


@pytest.mark.parametrize("fault", ["missing", "other pixels", "other size", "empty"])
def test_masks_that_differ_are_noticed(fault: str, scripts: dict[str, Any], tmp_path: Path) -> None:
    module = scripts["check_distribution"]
    image, mask = tmp_path / "scan 0.png", np.zeros((20, 30), dtype=np.uint8)
    if fault != "empty":
        mask[5:9, 5:9] = 255
    other = {"other pixels": np.roll(mask, 1, axis=0), "other size": mask[:, :-1]}.get(fault, mask)
    (tmp_path / "command" / "masks").mkdir(parents=True)
    Image.fromarray(mask).save(tmp_path / "scan 0_mask.png")
    if fault != "missing":
        Image.fromarray(other).save(tmp_path / "command" / "masks" / "scan 0.png")
    message = {"missing": "was not written", "empty": "all masks are empty"}.get(fault, "differ in")
    with pytest.raises(module.CheckError, match=message):
        module.compare([image], tmp_path, tmp_path / "command")
