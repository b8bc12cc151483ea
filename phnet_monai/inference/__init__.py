"""Inference: images in, lesion probabilities, masks and overlays out.

The names below are loaded when they are first used, so that wrong paths can be refused before torch is
imported.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from phnet_monai.inference.exports import export_model
    from phnet_monai.inference.folder import infer_folder
    from phnet_monai.inference.frames import FrameSettings
    from phnet_monai.inference.measure import Lesion, measure_lesions
    from phnet_monai.inference.models import load_model
    from phnet_monai.inference.overlay import draw_hardness, draw_overlay
    from phnet_monai.inference.postprocess import Postprocess
    from phnet_monai.inference.predictor import Predictor
    from phnet_monai.inference.summary import FolderResult

_HOMES = {
    "FolderResult": "summary",
    "FrameSettings": "frames",
    "Lesion": "measure",
    "Postprocess": "postprocess",
    "Predictor": "predictor",
    "draw_hardness": "overlay",
    "draw_overlay": "overlay",
    "export_model": "exports",
    "infer_folder": "folder",
    "load_model": "models",
    "measure_lesions": "measure",
}

__all__ = [
    "FolderResult",
    "FrameSettings",
    "Lesion",
    "Postprocess",
    "Predictor",
    "draw_hardness",
    "draw_overlay",
    "export_model",
    "infer_folder",
    "load_model",
    "measure_lesions",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
