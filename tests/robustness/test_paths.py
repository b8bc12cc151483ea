"""Odd names, links, folders that may not be read or written, and outputs in the wrong place."""

from __future__ import annotations

import csv
import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

NAMES = [
    "with space.png",
    " leading.png",
    "-dash.png",
    "--model.png",
    "=1+1.png",
    "a,b.png",
    "1e3.png",
    "None.png",
    "per%cent#hash.png",
    "quote'\"`.png",
    "back\\slash.png",
    "star*[0]?.png",
    "$(touch x).png",
    "<script>alert(1)<",
    "new\nline.png",
    "tab\there.png",
    "Übung 超音波 🩺.png",
    "e\u0301 decomposed.png",
    "rtl \u202egnp.exe.png",
    "v1.2.3.png",
    "..png",
    "x" * 250 + ".png",
    b"latin-\xe9.png".decode("utf-8", "surrogateescape"),
]


@pytest.fixture
def odd(tmp_path: Path, speckle: Callable[..., np.ndarray]) -> Path:
    """A folder with a picture of each name (where the disk takes it); the one of the script lies in a folder."""
    folder = tmp_path / "in"
    folder.mkdir()
    for number, name in enumerate(NAMES):
        path = folder / name if name.endswith(".png") else folder / name / "x.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(speckle(seed=number)).save(path, format="PNG")
    return folder


def test_every_name_has_its_mask_and_its_row(
    odd: Path, infer: Any, tmp_path: Path, run_file: Any, mask_of: Any
) -> None:
    outcome = infer(odd, tmp_path / "out", "--threshold", "0.3")
    assert outcome.code == 0, outcome.err
    files = run_file(tmp_path / "out")["files"]
    assert len(files) == len(NAMES) - 1  # `..png` begins with a dot: passed over, as documented
    masks = {entry["mask"] for entry in files}
    assert len(masks) == len(files)
    for mask in masks:
        assert mask_of(tmp_path / "out" / mask).shape == (40, 56)
    html = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "<script>alert(1)<" not in html
    with (tmp_path / "out" / "lesions.csv").open(encoding="utf-8-sig", newline="") as table:
        rows = {row["image"] for row in csv.DictReader(table)}
    assert not [name for name in rows if name.startswith(("=", "+", "-", "@"))]
    listed = {row["image"] for row in json.loads((tmp_path / "out" / "lesions.json").read_text(encoding="utf-8"))}
    assert listed <= {entry["image"] for entry in files}
    assert len(rows) == len(listed) > len(files) / 2
    again = infer(odd, tmp_path / "out", "--threshold", "0.3")
    assert f"0 segmented (0 without lesion), {len(files)} finished earlier, 0 failed" in again.out


def test_names_cannot_steer_the_terminal(infer: Any, phnet: Any, pictures: Path, tmp_path: Path) -> None:
    name = "\x1b[2Jcleared\x07\x9b1m\u202egnp\x7f.png"
    shown = r"\x1b[2Jcleared\x07\x9b1m\u202egnp\x7f.png"
    (pictures / name).write_bytes(b"no picture")
    listed = infer(pictures, tmp_path / "out", "--dry-run")
    assert f"to do: {shown} -> " in listed.out
    done = infer(pictures, tmp_path / "out")
    assert f"failed: {shown}: " in done.err
    assert json.loads((tmp_path / "out" / "run.json").read_text())["files"][0]["image"] == name
    ranked = phnet("rank", pictures, tmp_path / "ranked", "--device", "cpu", "--quiet")
    refused = infer(pictures / name, tmp_path / "one", "--model", pictures / name)
    outcomes = [listed, done, ranked, refused, phnet("audit", pictures), phnet("prepare", "folder", pictures, tmp_path)]
    for outcome in outcomes:
        assert shown in outcome.out + outcome.err
        assert not set(outcome.out + outcome.err) & set(name) - set(shown)


def test_prepare_takes_every_name_and_training_reads_it(odd: Path, phnet: Any, tmp_path: Path) -> None:
    from phnet_monai.data import load_datalist

    (odd / "..png").unlink()
    (tmp_path / "set").mkdir()
    odd.rename(tmp_path / "set" / "images")
    for path in sorted((tmp_path / "set" / "images").rglob("*.png")):
        mask = tmp_path / "set" / "masks" / path.relative_to(tmp_path / "set" / "images")
        mask.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (56, 40), 255).save(mask, format="PNG")
    outcome = phnet("prepare", "folder", tmp_path / "set", tmp_path / "list", "--labeled", "4", "--quiet")
    assert outcome.code == 0, outcome.err
    parts = load_datalist(tmp_path / "list")
    assert sum(map(len, parts.values())) == len(NAMES) - 1
    for entry in (entry for part in parts.values() for entry in part):
        with Image.open(entry["image"]) as picture:
            picture.load()


@pytest.mark.parametrize("place", ["in/out", "in/sub/out", "in", "link/out"])
def test_infer_refuses_an_output_inside_its_input(place: str, infer: Any, pictures: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(pictures)
    before = sorted(tmp_path.rglob("*"))
    outcome = infer(pictures, tmp_path / place)
    assert outcome.code == 2
    assert "lies in the input folder" in outcome.line
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("place", ["out", ".", "sub/out"])
def test_prepare_refuses_to_draw_masks_among_its_images(place: str, phnet: Any, pictures: Path, tmp_path: Path) -> None:
    """The next run would take them for images."""
    shape = {"label": "lesion", "shape_type": "rectangle", "points": [[5, 5], [20, 25]]}
    for path in pictures.rglob("*.png"):
        entry = {"imagePath": path.name, "imageHeight": 40, "imageWidth": 56, "shapes": [shape]}
        path.with_suffix(".json").write_text(json.dumps(entry))
    before = sorted(pictures.rglob("*"))
    outcome = phnet("prepare", "folder", pictures, pictures / place, "--labeled", "1", "--quiet")
    assert outcome.code == 2
    assert "and be taken for images the next time. Choose another output folder." in outcome.line
    assert sorted(pictures.rglob("*")) == before


def test_prepare_may_write_beside_images_and_masks(phnet: Any, labeled_folder: Any) -> None:
    folder = labeled_folder(12)
    for _ in range(2):
        words = ("--labeled", "3", "--quiet", "--overwrite")
        outcome = phnet("prepare", "folder", folder, folder / "list", *words)
        assert outcome.code == 0, outcome.err
        assert "12 images" in outcome.out


def test_links_in_a_circle_end(
    infer: Any, phnet: Any, pictures: Path, model: Path, tmp_path: Path, run_file: Any
) -> None:
    (pictures / "sub" / "up").symlink_to(pictures)
    (pictures / "self").symlink_to("self")
    assert infer(pictures, tmp_path / "out", "--quiet").code == 0
    assert [entry["image"] for entry in run_file(tmp_path / "out")["files"]] == [
        "a.png",
        "b.png",
        "sub/c.png",
        "sub/d.png",
    ]
    (pictures / "self.png").symlink_to("self.png")  # a picture by its name: it fails, alone
    outcome = infer(pictures, tmp_path / "out", "--quiet")
    assert outcome.code == 3
    assert outcome.err.startswith("failed: self.png: Too many levels of symbolic links")
    (pictures / "self.png").unlink()
    ranked = phnet("rank", pictures, tmp_path / "rank", "--model", model, "--device", "cpu", "--count", "2", "--quiet")
    assert ranked.code == 0, ranked.err
    assert phnet("audit", pictures, tmp_path / "audit", "--quiet").code in (0, 3)
    divided = phnet("prepare", "folder", pictures, tmp_path / "list", "--quiet")
    assert "images" in divided.line  # none of four is outlined


@pytest.fixture
def closed(pictures: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The subfolder of `pictures` may not be looked into, by anyone (root may look into everything, so it is told)."""
    folder, scan = pictures / "sub", os.scandir

    def guarded(path: Any = ".") -> Any:
        if not isinstance(path, int) and os.fspath(path) == os.fspath(folder):
            raise PermissionError(13, "Permission denied", os.fspath(path))
        return scan(path)

    folder.chmod(0)
    if os.geteuid() == 0:
        monkeypatch.setattr(os, "scandir", guarded)
    yield folder
    folder.chmod(0o755)


def test_a_folder_that_may_not_be_read_is_told_of(closed: Path, infer: Any, tmp_path: Path, run_file: Any) -> None:
    outcome = infer(closed.parent, tmp_path / "out")
    assert outcome.code == 3
    assert "failed: sub: the folder cannot be read (Permission denied)\n" in outcome.err
    assert "2 segmented" in outcome.out
    assert "1 failed" in outcome.out
    content = run_file(tmp_path / "out")
    fates = {entry["image"]: entry["status"] for entry in content["files"]}
    assert fates == {"sub": "failed", "a.png": "done", "b.png": "done"}
    assert content["counts"] == {"done": 2, "skipped": 0, "failed": 1, "pending": 0}
    assert "the folder cannot be read" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    preview = infer(closed.parent, tmp_path / "out", "--dry-run")
    assert preview.out.splitlines()[0] == "failed: sub: the folder cannot be read (Permission denied)"
    outcome = infer(closed.parent, tmp_path / "names", "--anonymize")
    assert "failed: unreadable-folder-1: " in outcome.err
    assert "failed: sub" not in outcome.err


def test_nothing_but_a_folder_that_may_not_be_read(closed: Path, infer: Any, phnet: Any, tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        (closed.parent / name).unlink()
    for outcome in (infer(closed.parent, tmp_path / "out"), phnet("rank", closed.parent, tmp_path / "out")):
        assert outcome.code == 3
        assert "failed: sub: the folder cannot be read" in outcome.err
        assert not (tmp_path / "out").exists()


def test_the_input_itself_may_not_be_read(closed: Path, infer: Any, tmp_path: Path) -> None:
    outcome = infer(closed, tmp_path / "out")
    assert outcome.code == 2
    assert outcome.line == f"{closed}: Permission denied"


def test_rank_tells_of_a_folder_that_may_not_be_read(closed: Path, model: Path, phnet: Any, tmp_path: Path) -> None:
    words = ("--model", model, "--device", "cpu", "--count", "1")
    outcome = phnet("rank", closed.parent, tmp_path / "out", *words)
    assert outcome.code == 3
    assert "failed: sub: the folder cannot be read" in outcome.err
    assert "2 ranked, 1 chosen, 1 failed" in outcome.out


def test_prepare_refuses_a_folder_that_it_cannot_read_whole(closed: Path, phnet: Any, tmp_path: Path) -> None:
    """A datalist without those images would look complete."""
    outcome = phnet("prepare", "folder", closed.parent, tmp_path / "out", "--quiet")
    assert outcome.code == 2
    assert outcome.line == f"{closed}: Permission denied"
    assert not (tmp_path / "out").exists()


@pytest.fixture
def unwritable() -> Path:
    """A folder that nobody can make, not even root."""
    if not sys.platform.startswith("linux"):
        pytest.skip("needs Linux's /proc")
    return Path("/proc/phnet-out")


def test_an_output_that_cannot_be_made(
    unwritable: Path, infer: Any, phnet: Any, pictures: Path, labeled_folder: Any, model: Path, tmp_path: Path
) -> None:
    folder, divided = labeled_folder(12), tmp_path / "list"
    assert phnet("prepare", "folder", folder, divided, "--labeled", "3", "--quiet").code == 0
    for outcome in (
        infer(pictures, unwritable),
        phnet("prepare", "folder", folder, unwritable, "--labeled", "3", "--quiet"),
        phnet("export", model, unwritable / "x.safetensors"),
        phnet("rank", pictures, unwritable, "--model", model, "--device", "cpu", "--count", "1"),
        phnet("audit", pictures, unwritable),
        phnet("compare", folder, unwritable, "--methods", "sup_only", "--profiles", "smoke", "--labeled", "3"),
        phnet("train", divided, unwritable, "--profile", "smoke", "--device", "cpu"),
        phnet("evaluate", model, divided, unwritable, "--device", "cpu"),
    ):
        assert outcome.code == 2
        assert str(unwritable) in outcome.line


def test_an_output_that_is_a_link_to_nowhere(
    infer: Any, phnet: Any, pictures: Path, labeled_folder: Any, tmp_path: Path
) -> None:
    dataset = labeled_folder(12)
    (tmp_path / "circle").symlink_to("circle")
    (tmp_path / "nowhere").symlink_to("gone")
    for place in ("circle", "nowhere", "circle/below"):
        prepared = phnet("prepare", "folder", dataset, tmp_path / place, "--labeled", "3", "--quiet")
        for outcome in (infer(pictures, tmp_path / place), prepared):
            assert outcome.code == 2
            assert str(tmp_path / place.split("/")[0]) in outcome.line


def test_an_output_on_a_disk_that_is_read_only(infer: Any, pictures: Path, tmp_path: Path, monkeypatch: Any) -> None:
    import errno

    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(errno.EROFS, "Read-only file system", str(tmp_path / "out"))

    monkeypatch.setattr(Path, "mkdir", refuse)
    outcome = infer(pictures, tmp_path / "out")
    assert outcome.code == 5
    assert outcome.line.startswith(f"{tmp_path / 'out'}: Read-only file system; ")
