"""Slow transcriptions of the paper's equations, and a whole training that takes a second."""

from __future__ import annotations

import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest

REFERENCE = Path(__file__).parents[1] / "reference"


@pytest.fixture(scope="session")
def reference() -> SimpleNamespace:
    """The functions of `tests/reference/phnet_reference.py`."""
    return SimpleNamespace(**runpy.run_path(str(REFERENCE / "phnet_reference.py")))


@pytest.fixture(scope="session")
def tiny() -> SimpleNamespace:
    """The functions of `tests/reference/tiny_training.py`."""
    return SimpleNamespace(**runpy.run_path(str(REFERENCE / "tiny_training.py")))
