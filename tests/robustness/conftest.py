"""What all faults are tried on: a small model, and the command line as a user meets it."""

from __future__ import annotations

import io
import json
import os
import runpy
import struct
import zlib
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from phnet_monai.cli.main import main

REFERENCE = Path(__file__).parents[1] / "reference"


@dataclass(frozen=True)
class Outcome:
    """What a command left on the terminal, and its exit code."""

    code: int
    out: str
    err: str

    @property
    def line(self) -> str:
        """The one line of an error, without the `phnet: ` in front."""
        assert self.err.startswith("phnet: "), self.err
        assert self.err.count("\n") == 1, self.err
        return self.err.removeprefix("phnet: ").rstrip("\n")


def run(*words: Any) -> Outcome:
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = main([str(word) for word in words])
    return Outcome(code, out.getvalue(), err.getvalue())


@pytest.fixture(scope="session")
def phnet() -> Callable[..., Outcome]:
    """`phnet("infer", ...)`: the command in this process; its exit code and what it wrote."""
    return run


@pytest.fixture(scope="session")
def model_files() -> SimpleNamespace:
    """The functions of `tests/reference/model_files.py`: small models in every kind of file."""
    return SimpleNamespace(**runpy.run_path(str(REFERENCE / "model_files.py")))


@pytest.fixture(scope="session")
def scan_files() -> SimpleNamespace:
    """The functions of `tests/reference/scan_files.py`: small DICOM files."""
    pytest.importorskip("pydicom")
    return SimpleNamespace(**runpy.run_path(str(REFERENCE / "scan_files.py")))


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory, model_files: SimpleNamespace) -> Path:
    """A checkpoint whose masks are neither empty nor full."""
    return model_files.write_checkpoint(tmp_path_factory.mktemp("model") / "tiny.pt")


@pytest.fixture(scope="session")
def infer(model: Path) -> Callable[..., Outcome]:
    """`infer(IN, OUT, ...)`: `phnet infer` with that model on the CPU."""

    def call(source: Any, out: Any, *options: Any) -> Outcome:
        return run("infer", source, out, "--model", model, "--device", "cpu", *options)

    return call


@pytest.fixture(scope="session")
def speckle() -> Callable[..., np.ndarray]:
    """`speckle(height, width, seed)`: uint8 noise with a dark ellipse."""

    def make(height: int = 40, width: int = 56, seed: int = 0) -> np.ndarray:
        y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
        noise = np.random.default_rng(seed).normal(120, 30, (height, width))
        return (noise * np.where(x**2 + y**2 < 0.25, 0.4, 1)).clip(0, 255).astype(np.uint8)

    return make


@pytest.fixture
def pictures(tmp_path: Path, speckle: Callable[..., np.ndarray]) -> Path:
    """A folder of four pictures, two of them in a subfolder."""
    folder = tmp_path / "in"
    for number, name in enumerate(("a.png", "b.png", "sub/c.png", "sub/d.png")):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(speckle(seed=number)).save(path)
    return folder


@pytest.fixture
def labeled_folder(tmp_path: Path, speckle: Callable[..., np.ndarray]) -> Callable[..., Path]:
    """`labeled_folder(12, masked=...)`: `images/` and `masks/` as `phnet prepare folder` reads them.

    `masked` are the numbers of the images that have a mask (default: all), `empty` of those whose mask is black.
    """

    def make(count: int, *, masked: Sequence[int] | None = None, empty: Sequence[int] = ()) -> Path:
        folder = tmp_path / "dataset"
        for part in ("images", "masks"):
            (folder / part).mkdir(parents=True)
        for number in range(count):
            pixels = speckle(seed=100 + number)
            mask = np.zeros(pixels.shape, np.uint8)
            if number not in empty:
                mask[10:30, 15:40] = 255
            Image.fromarray(pixels).save(folder / "images" / f"case{number:02d}.png")
            if masked is None or number in masked:
                Image.fromarray(mask).save(folder / "masks" / f"case{number:02d}.png")
        return folder

    return make


@pytest.fixture(scope="session")
def png_bomb() -> bytes:
    """A PNG that states 50000 x 50000 pixels in a few hundred bytes."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", 50_000, 50_000, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000)))


@pytest.fixture(scope="session")
def run_file() -> Callable[[Path], dict[str, Any]]:
    """`run_file(OUT)`: content of run.json."""
    return lambda out: json.loads((out / "run.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="session")
def mask_of() -> Callable[[Path], np.ndarray]:
    """`mask_of(file)`: pixels of a PNG."""

    def read(path: Path) -> np.ndarray:
        with Image.open(path) as picture:
            return np.asarray(picture)

    return read


@pytest.fixture
def tree() -> Callable[[Path], dict[str, bytes]]:
    """`tree(folder)`: content of all files below it, by name."""

    def read(folder: Path) -> dict[str, bytes]:
        return {os.fspath(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}

    return read
