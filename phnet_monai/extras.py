"""Libraries that only some commands need: one error where one is missing, and it says what to install."""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any


class MissingExtraError(ImportError):
    """An optional library is not installed, or cannot be loaded; the message names the extra to install."""


def extra_module(name: str, extra: str, *, purpose: str, otherwise: str = "") -> Any:
    """The module `name` of an optional library.

    Args:
        name: of the module, `onnxruntime`.
        extra: of this package that brings it, `onnx`.
        purpose: what needs it, for the message: "reading DICOM".
        otherwise: what can be done instead, for the message: ", or ...".

    Raises:
        MissingExtraError: it is not installed, or its import fails.
    """
    without_telemetry()
    try:
        return importlib.import_module(name)
    except ImportError as error:
        absent = isinstance(error, ModuleNotFoundError) and error.name == name
        fault = "which is not installed" if absent else f"which cannot be loaded ({error})"
        raise MissingExtraError(
            f"{purpose} needs {name}, {fault}. Run: pip install 'phnet-monai[{extra}]'{otherwise}", name=name
        ) from error


def without_telemetry() -> None:
    """Nothing leaves the machine unasked (SECURITY.md): ONNX Runtime, OpenVINO and MLflow tell their makers of their
    use unless they are told not to before they are imported."""
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # OpenVINO does without it
