"""Stand-ins for the jobs behind the commands, so that the command line is tested without training anything."""

from __future__ import annotations

import sys
import types
from collections.abc import Callable
from typing import Any

import pytest


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, tuple[Any, ...], dict[str, Any]]]:
    """Replaces train_run, evaluate_run and run_demo; returns the list of (name, args, kwargs) of their calls."""
    made: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []

    results: dict[str, dict[str, Any]] = {
        "train_run": {"score": "pooled_dice", **{name: {"score": 0.5, "epoch": 1} for name in ("best", "last")}},
        "evaluate_run": {},
        "run_demo": {},
    }

    def recorder(name: str) -> Callable[..., dict[str, Any]]:
        def call(*args: Any, **kwargs: Any) -> dict[str, Any]:
            made.append((name, args, kwargs))
            return results[name]

        return call

    run = types.ModuleType("phnet_monai.engines.run")
    run.train_run, run.evaluate_run = recorder("train_run"), recorder("evaluate_run")  # type: ignore[attr-defined]
    demo = types.ModuleType("phnet_monai.demo")
    demo.run_demo = recorder("run_demo")  # type: ignore[attr-defined]
    demo.format_demo = str  # type: ignore[attr-defined]
    monkeypatch.setattr("phnet_monai.metrics.format_summary", str)
    monkeypatch.setitem(sys.modules, "phnet_monai.engines.run", run)
    monkeypatch.setitem(sys.modules, "phnet_monai.demo", demo)
    return made
