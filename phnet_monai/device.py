"""Torch devices by name, and the cores of the CPU."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def pick_device(name: str | torch.device = "auto") -> torch.device:
    """The torch device called `name`; "auto" is the first CUDA GPU, or else the CPU.

    Raises:
        ValueError: torch knows no such device, or the machine lacks it.
    """
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device).cpu()  # `meta` has no values to give back
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"device {str(name)!r} cannot be used ({reason}); use auto, cpu or cuda") from error
    return device


def core_count() -> int:
    """Cores that this process may use, on a shared server perhaps not all."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
