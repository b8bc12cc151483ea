"""What must be known of a network beside its weights, as plain data: its arguments and its input.

A checkpoint of `phnet train` carries it as `info`: `network` (arguments of `PHNet`), `input` (`size`, `pad_value`),
`method`, ... Weights that carry none get it from a JSON of the same form beside them, or from the configs of their
bundle. Those are read as JSON: references such as "@size" are looked up, nothing is ever evaluated.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from phnet_monai.transforms.fit import PAD_VALUE

INFO_KEY = "phnet"
"""Under which exported files carry `info`, as JSON."""
MAX_REFERENCES = 1000
"""References that are followed in a bundle's config; a network has about twenty arguments."""
BUNDLE_MODELS = ("model.pt", "model.safetensors", "model.ts", "model.onnx")
"""Names of a bundle's model in its folder `models`, in the order in which they are looked for."""
MAX_SIDE = 8_192
"""Largest input in pixels: a file that states a million would ask for terabytes."""
NETWORK_TARGETS = ("phnet_monai.networks.PHNet", "phnet_monai.networks.phnet.PHNet")


class CheckpointError(ValueError):
    """A checkpoint cannot be used; the message names the file and the reason."""


def check_info(info: Any, path: str | Path, *, network: bool = True) -> dict[str, Any]:
    """`info`, once it is certain that it tells the input and, unless `network` is False, the network's arguments.

    Raises:
        CheckpointError: an entry is missing or of the wrong type.
    """
    entry = info.get("input") if isinstance(info, dict) else None
    if not isinstance(entry, dict) or (network and not isinstance(info.get("network"), dict)):
        raise CheckpointError(
            f"{path}: has no 'info' with the network's arguments and input; expected a file of `phnet train` or "
            "`phnet export`"
        )
    if expression := next(_expressions(info.get("network") or {}), None):
        raise CheckpointError(f"{path}: its network has the argument {expression!r}, which in a config would be code")
    size, grey = entry.get("size"), entry.get("pad_value")
    whole = isinstance(size, int) and not isinstance(size, bool) and 1 <= size <= MAX_SIDE
    if not whole or not isinstance(grey, (int, float)) or isinstance(grey, bool) or not 0 <= grey <= 1:
        raise CheckpointError(
            f"{path}: its input has size {size!r} and pad_value {grey!r}; expected a whole number of pixels "
            f"up to {MAX_SIDE} and a grey in [0, 1]"
        )
    return {**info, "input": {"size": size, "pad_value": float(grey)}}


def _expressions(value: Any) -> Iterator[str]:
    """Texts in plain data that MONAI's config parser would evaluate or follow."""
    if isinstance(value, str) and value.lstrip().startswith(("$", "@", "%")):
        yield value
    elif isinstance(value, (dict, list, tuple)):
        for part in [*value, *value.values()] if isinstance(value, dict) else value:
            yield from _expressions(part)


def info_text(info: dict[str, Any]) -> str:
    """`info` as an exported file carries it."""
    return json.dumps(info, ensure_ascii=True)


def parse_info(text: str | bytes, path: str | Path, *, network: bool = True) -> dict[str, Any]:
    """The `info` that the file `path` carries. Raises CheckpointError."""
    try:
        info = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: what it tells of its network is no JSON ({error})") from error
    return check_info(info, path, network=network)


def described(weights: str | Path) -> dict[str, Any]:
    """The `info` of weights that carry none: from `NAME.json` beside them, or from the configs of their bundle.

    Raises:
        CheckpointError: there is neither, or it cannot be read as plain data.
    """
    weights = Path(weights)
    beside = weights.with_suffix(".json")
    if beside.is_file():
        return check_info(_read_json(beside), beside)
    folder = weights.resolve().parent
    if folder.name == "models" and (folder.parent / "configs" / "inference.json").is_file():
        return bundle_info(folder.parent)
    raise CheckpointError(
        f"{weights}: has no 'info' with the network's arguments, and neither {beside.name} nor a bundle's "
        "../configs/inference.json tells them. Expected a file of `phnet train` or `phnet export`, or "
        f'{beside.name} with {{"network": {{...}}, "input": {{"size": 160, "pad_value": 0.33}}}}'
    )


def bundle_model(folder: str | Path) -> Path:
    """The model file of a bundle's folder.

    Raises:
        FileNotFoundError: it has none; the message names what is looked for.
    """
    for name in BUNDLE_MODELS:
        if (Path(folder) / "models" / name).is_file():
            return Path(folder) / "models" / name
    trained = Path(folder) / "last.pt"
    hint = f"; a training's checkpoint is {trained}" if trained.is_file() else ""
    raise FileNotFoundError(
        f"{folder}: no such checkpoint file, and no bundle: models/ has none of {BUNDLE_MODELS}{hint}"
    )


def bundle_info(folder: str | Path) -> dict[str, Any]:
    """The `info` of a bundle's network, from `configs/inference.json`, and its `name` and `version`.

    Raises:
        CheckpointError: the file is missing or no JSON, or what is needed of it is no plain data.
    """
    configs = Path(folder) / "configs"
    info = config_info(_read_json(configs / "inference.json"), configs / "inference.json")
    del info["fits_itself"]  # rebuilt from its weights, it takes fitted images as any other
    if (configs / "metadata.json").is_file():
        metadata = _read_json(configs / "metadata.json")
        info["bundle"] = {name: str(metadata[name]) for name in ("name", "version") if name in metadata}
    return info


def config_info(config: dict[str, Any], path: str | Path) -> dict[str, Any]:
    """The `info` of the network of an inference config: its `network_def`, and its input size.

    The network of a bundle may fit images itself (`fit_size`). Its size is the input's then, and `fits_itself` True.

    Raises:
        CheckpointError: `network_def` is no PHNet, an entry is missing, or a needed value is an expression.
    """
    try:
        arguments = _plain("@network_def", config, path)
    except RecursionError as error:
        raise CheckpointError(f"{path}: its network_def is nested deeper than any network's is") from error
    target = arguments.pop("_target_", None) if isinstance(arguments, dict) else None
    if target not in NETWORK_TARGETS:
        raise CheckpointError(f"{path}: network_def has the _target_ {target!r}, expected {NETWORK_TARGETS[0]}")
    arguments.pop("_desc_", None)
    fit_size, grey = arguments.pop("fit_size", None), arguments.pop("pad_value", PAD_VALUE)
    fits_itself = fit_size is not None
    if not fits_itself:
        fit_size, grey = _plain("@size", config, path), _plain("@pad_value", config, path)
    info = {"network": arguments, "input": {"size": fit_size, "pad_value": grey}, "fits_itself": fits_itself}
    return check_info(info, path)


def _plain(
    value: Any, config: Any, path: str | Path, trail: tuple[str, ...] = (), seen: Iterator[int] | None = None
) -> Any:
    """`value` with its references replaced by what they name; `trail`: those that led here; `seen` counts all."""
    seen = itertools.count(1) if seen is None else seen
    if isinstance(value, dict):
        return {key: _plain(entry, config, path, trail, seen) for key, entry in value.items()}
    if isinstance(value, list):
        return [_plain(entry, config, path, trail, seen) for entry in value]
    if not isinstance(value, str) or value[:1] not in ("$", "%", "@"):
        return value
    if value[0] != "@":
        raise CheckpointError(
            f"{path}: {' -> '.join(trail)} is the expression {value!r}, which is not evaluated here; write the plain "
            "value"
        )
    if next(seen) > MAX_REFERENCES:  # references that double at every step would never come to an end
        raise CheckpointError(f"{path}: its network_def refers to more than {MAX_REFERENCES} entries")
    if value in trail:
        raise CheckpointError(f"{path}: {' -> '.join((*trail, value))} goes in a circle")
    found = config
    for step in value[1:].replace("::", "#").split("#"):
        index = int(step) if isinstance(found, list) and step.isdecimal() else step
        try:
            found = found[index]
        except (LookupError, TypeError) as error:
            raise CheckpointError(f"{path}: has no entry {value[1:]!r}, which the network needs") from error
    return _plain(found, config, path, (*trail, value), seen)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: cannot be read as JSON ({error})") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: holds a {type(content).__name__}, expected an object with names")
    return content
