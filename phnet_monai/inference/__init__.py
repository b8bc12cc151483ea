"""Inference: images in, lesion probabilities, masks and overlays out.

The names below are loaded when they are first used, so that wrong paths can be refused before torch is
imported.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from phnet_monai.inference.folder import FolderResult, infer_folder
    from phnet_monai.inference.overlay import draw_overlay
    from phnet_monai.inference.predictor import Predictor

_HOMES = {
    "FolderResult": "phnet_monai.inference.folder",
    "Predictor": "phnet_monai.inference.predictor",
    "draw_overlay": "phnet_monai.inference.overlay",
    "infer_folder": "phnet_monai.inference.folder",
}

__all__ = ["FolderResult", "Predictor", "draw_overlay", "infer_folder"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
