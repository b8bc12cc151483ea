"""Settings and fixtures of all tests."""

from __future__ import annotations

import runpy
import sys
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

REFERENCE = Path(__file__).parent / "reference"

# small networks: more threads than one cost more than they bring, and results do not depend on the machine's cores
torch.set_num_threads(1)

with suppress(ImportError):  # comes with TensorBoard
    import absl.logging

    # its handler closes the stream that it was made with, once logging is configured anew (as the bundle does): made in
    # a test it would be pytest's own, and all tests after it would fail
    absl.logging.get_absl_handler().python_handler.stream = sys.__stderr__


@pytest.fixture(scope="session")
def reference() -> SimpleNamespace:
    """The functions of `tests/reference/phnet_reference.py`: slow transcriptions of the paper's equations."""
    return SimpleNamespace(**runpy.run_path(str(REFERENCE / "phnet_reference.py")))


@pytest.fixture(scope="session")
def tiny() -> SimpleNamespace:
    """The functions of `tests/reference/tiny_training.py`: a whole training that takes a second."""
    return SimpleNamespace(**runpy.run_path(str(REFERENCE / "tiny_training.py")))
