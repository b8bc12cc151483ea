"""Whether the checkpoint that a training shall start from is of the network that the configuration describes."""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from phnet_monai.engines.config_check import ConfigError
from phnet_monai.networks import PHNet
from phnet_monai.networks.description import NETWORK_TARGETS
from phnet_monai.shipped import bundle_folder

PARTS = ("encoder", "decoder")
"""What a network is called by; its other arguments are compared by the shapes of its weights."""


def check_init(init: str | Path, checkpoint: Mapping[str, Any], network_def: Any) -> None:
    """Refuse a start from another network before anything is downloaded, built or written.

    Args:
        checkpoint: as `read_checkpoint` gives it; one that does not tell its network is left to `load_weights`.
        network_def: of the composed configuration; networks other than `PHNet` are left to `load_weights`, too.

    Raises:
        ConfigError: the message names the profile that fits, where a shipped one does.
    """
    info = checkpoint.get("info")
    known = info.get("network") if isinstance(info, Mapping) else None
    if not isinstance(known, Mapping) or not isinstance(network_def, Mapping):
        return
    if network_def.get("_target_") not in NETWORK_TARGETS:
        return
    usual = {part: inspect.signature(PHNet).parameters[part].default for part in PARTS}
    wanted = {part: network_def.get(part, usual[part]) for part in PARTS}
    # references and expressions are compared by the shapes of the weights, too
    plain = [part for part in PARTS if not str(wanted[part]).startswith(("@", "$", "%"))]
    differing = [part for part in plain if part in known and known[part] != wanted[part]]
    if not differing:
        return
    found, expected = (" and ".join(f"{part} {of[part]}" for part in differing) for of in (known, wanted))
    fitting = _fitting_profile(known)
    advice = f"Train with --profile {fitting}" if fitting else "Train with the profile and network of that checkpoint"
    raise ConfigError(
        f"{init}: is a network with {found}, this training's has {expected}. {advice}, or without --init."
    )


def _fitting_profile(known: Mapping[str, Any]) -> str | None:
    """A shipped profile with this network."""
    configs = bundle_folder() / "configs"
    usual = {name: parameter.default for name, parameter in inspect.signature(PHNet).parameters.items()}
    base = usual | json.loads((configs / "train.json").read_text(encoding="utf-8"))["network_def"]
    for path in sorted((configs / "profiles").glob("*.json")):
        overlay = json.loads(path.read_text(encoding="utf-8"))
        network = base | {key.partition("#")[2]: overlay[key] for key in overlay if key.startswith("network_def#")}
        compared = [key for key in known if key not in ("weights", "embedding_size")]
        if all(_listed(network.get(key)) == _listed(known[key]) for key in compared):
            return path.stem
    return None


def _listed(value: Any) -> Any:
    """Tuples of defaults as lists, which is what JSON and checkpoints hold."""
    return list(value) if isinstance(value, tuple) else value
