"""Libraries that only some commands need: one error where one is missing, and it says what to install."""

from __future__ import annotations

import importlib
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
    try:
        return importlib.import_module(name)
    except ImportError as error:
        absent = isinstance(error, ModuleNotFoundError) and error.name == name
        fault = "which is not installed" if absent else f"which cannot be loaded ({error})"
        raise MissingExtraError(
            f"{purpose} needs {name}, {fault}. Run: pip install 'phnet-monai[{extra}]'{otherwise}", name=name
        ) from error
