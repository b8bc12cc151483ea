"""Experiment tracking of `phnet train --tracking`: MONAI's own settings, with a run that has a name of its own."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser, ConfigWorkflow
from monai.bundle.utils import DEFAULT_EXP_MGMT_SETTINGS

from phnet_monai.extras import extra_module
from phnet_monai.files import digest


class TrackingError(ValueError):
    """There is no such tracker."""


def check_tracking(name: str) -> None:
    """Raise TrackingError unless MONAI knows the tracker `name`, MissingExtraError unless its library is installed."""
    if name not in DEFAULT_EXP_MGMT_SETTINGS:
        raise TrackingError(f"tracking is {name!r}, expected one of {', '.join(DEFAULT_EXP_MGMT_SETTINGS)}")
    extra_module(name, name, purpose=f"tracking by {name}")


def track(parser: ConfigParser, name: str, out: str | Path, parameters: Mapping[str, Any]) -> None:
    """Add the tracker to trainer and validator as `monai.bundle run --tracking` does.

    The store is `out`/mlruns.db unless `MLFLOW_TRACKING_URI` names another; the artifact is `out`/config.json. A run
    that was stopped is gone on with by a resumed training: its name stands for the folder.

    Args:
        parameters: plain values that are kept with the run, such as the method's name.
    """
    out = Path(out).resolve()
    settings: dict[str, Any] = copy.deepcopy(DEFAULT_EXP_MGMT_SETTINGS[name])
    configs = settings["configs"]
    configs["experiment_name"] = "phnet"
    configs["run_name"] = f"{out.name}-{digest(str(out))[:6]}"  # several trainings may share one store
    configs["trainer"]["experiment_param"] = dict(parameters)
    configs["save_execute_config"] = False  # config.json has it already
    ConfigWorkflow.patch_bundle_tracking(parser, settings)
    parser["save_execute_config"] = str(out / "config.json")
