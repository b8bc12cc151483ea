"""What a bundle must be so that the model zoo, MONAI Label and MONAI Deploy take it; used by `package_bundle.py`.

Every rule raises `RuleError` with the file, what was found, what is expected. MONAI's own checks are called where it
has them (`verify_metadata`, `verify_net_in_out`, `check_properties`, `ckpt_export`, `load`).
"""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from collections.abc import Callable
from importlib.metadata import requires
from pathlib import Path
from typing import Any

import monai.bundle
import torch
from monai.bundle import ConfigParser, ConfigWorkflow
from packaging.requirements import Requirement
from packaging.version import InvalidVersion, Version
from torch import nn

from phnet_monai import __version__
from phnet_monai.data import make_phantom, prepare_folder, write_phantoms
from phnet_monai.networks import CheckpointError, read_checkpoint
from phnet_monai.networks.digests import SUMS, check_digest, read_digests

REQUIRED = (
    "LICENSE",
    "configs/metadata.json",
    "configs/inference.json",
    "configs/evaluate.json",
    "configs/train.json",
    "configs/logging.conf",
    "docs/README.md",
    "docs/data_license.txt",
    "models/model.pt",
    f"models/{SUMS}",
)
INFERENCE_IDS = ("bundle_root", "device", "network_def", "inferer", "output_dir", "run")
TRAIN_IDS = (
    "bundle_root",
    "device",
    "dataset_dir",
    "output_dir",
    "val_interval",
    *("train#trainer", "train#trainer#max_epochs", "train#dataset", "train#dataset#data", "train#handlers"),
    *("validate#evaluator", "validate#handlers", "validate#dataset", "validate#dataset#data"),
    "run",
)
TOLERANCE = 1e-4
"""Largest difference of a probability between TorchScript and the network."""


class RuleError(ValueError):
    """The bundle cannot be distributed as it is; the message says what to change."""


def check_bundle(bundle: Path, *, changelog: Path, schema: Path | None = None) -> list[str]:
    """All rules in order, the cheap ones first.

    Args:
        bundle: its folder, complete.
        changelog: CHANGELOG.md of the project.
        schema: the metadata schema as a file; None: MONAI downloads the one that metadata.json names.

    Returns:
        What was checked, a line each.

    Raises:
        RuleError: the first rule that fails.
    """
    rules: dict[str, Callable[[], None]] = {
        "files, licence, documents": lambda: check_files(bundle),
        "version and changelog": lambda: check_version(bundle, changelog),
        "required packages": lambda: check_packages(bundle),
        "SHA-256 of the models": lambda: check_digests(bundle),
        "ids of the configs": lambda: check_ids(bundle),
        "schema of metadata.json": lambda: check_schema(bundle, schema),
        "input and output of the network": lambda: check_network(bundle),
        "properties of MONAI's workflows": lambda: check_workflows(bundle),
        "weights by monai.bundle.load": lambda: check_load(bundle),
        "TorchScript export": lambda: check_torchscript(bundle),
    }
    for rule in rules.values():
        rule()
    return list(rules)


def check_files(bundle: Path) -> None:
    missing = [name for name in REQUIRED if not (bundle / name).is_file()]
    if missing:
        raise RuleError(f"{bundle}: {', '.join(missing)} missing; a bundle has {', '.join(REQUIRED)}")
    empty = [name for name in REQUIRED if (bundle / name).stat().st_size == 0]
    if empty:
        raise RuleError(f"{bundle}: {', '.join(empty)} empty")
    if "Apache License" not in (bundle / "LICENSE").read_text(encoding="utf-8"):
        raise RuleError(f"{bundle / 'LICENSE'}: expected the text of the Apache License, which the project names")


def read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise RuleError(f"{path}: not valid JSON ({error})") from error
    if not isinstance(content, dict):
        raise RuleError(f"{path}: holds a {type(content).__name__}, expected an object")
    return content


def check_version(bundle: Path, log: Path) -> None:
    """metadata.json's version is the newest of its changelog, the package's, and the newest in CHANGELOG.md."""
    path = bundle / "configs" / "metadata.json"
    metadata = read_json(path)
    version, changelog = metadata.get("version"), metadata.get("changelog")
    if not isinstance(version, str) or not isinstance(changelog, dict) or not changelog:
        raise RuleError(f"{path}: needs 'version', and 'changelog' with a text for every version")
    try:
        newest = max(changelog, key=Version)
    except InvalidVersion as error:
        raise RuleError(f"{path}: changelog has an entry that is no version ({error})") from error
    if version != newest:
        raise RuleError(f"{path}: version is {version}, the newest entry of its changelog {newest}; make them one")
    if not str(changelog[version]).strip():
        raise RuleError(f"{path}: changelog says nothing of version {version}")
    told = metadata.get("required_packages_version", {}).get("phnet-monai")
    releases = re.findall(r"^## \[?v?(\d+\.\d+\.\d+)", log.read_text(encoding="utf-8"), re.MULTILINE)
    others = {
        f"{path}, required_packages_version of phnet-monai": told,
        "the package phnet_monai": __version__,
        f"{log}, the first heading with a version": releases[0] if releases else None,
    }
    for where, found in others.items():
        if found != version:
            raise RuleError(f"{where}: found {found}, expected {version}, the version of metadata.json")


def check_packages(bundle: Path) -> None:
    """Every version that metadata.json names is one that the package allows."""
    path = bundle / "configs" / "metadata.json"
    metadata = read_json(path)
    needs = {need.name: need for need in map(Requirement, requires("phnet-monai") or ()) if need.marker is None}
    named = {
        "monai": metadata.get("monai_version"),
        "torch": metadata.get("pytorch_version"),
        "numpy": metadata.get("numpy_version"),
        **metadata.get("required_packages_version", {}),
    }
    for name, version in named.items():
        if name == "phnet-monai":
            continue
        if name not in needs:
            raise RuleError(f"{path}: requires {name}, which phnet-monai does not depend on; take it out")
        if not isinstance(version, str) or not needs[name].specifier.contains(version, prereleases=True):
            raise RuleError(f"{path}: names {name} {version}, but phnet-monai needs {needs[name]}")


def check_digests(bundle: Path) -> None:
    """SHA256SUMS names every model, and each is what it says."""
    models = bundle / "models"
    try:
        told = read_digests(models)
        found = {path.name for path in models.iterdir() if path.suffix in (".pt", ".ts", ".safetensors", ".onnx")}
        if found != set(told):
            raise RuleError(f"{models / SUMS}: names {sorted(told)}, expected {sorted(found)}")
        for name in sorted(found):
            check_digest(models / name)
    except CheckpointError as error:
        raise RuleError(str(error)) from error


def check_ids(bundle: Path) -> None:
    for name, wanted in (("inference.json", INFERENCE_IDS), ("train.json", TRAIN_IDS)):
        parser = ConfigParser(read_json(bundle / "configs" / name))
        missing = [key for key in wanted if key not in parser]
        if missing:
            raise RuleError(f"{bundle / 'configs' / name}: has no {', '.join(missing)}, which MONAI's tools look for")


def check_schema(bundle: Path, schema: Path | None) -> None:
    path = bundle / "configs" / "metadata.json"
    if "schema" not in read_json(path):
        raise RuleError(f"{path}: has no 'schema', the address of MONAI's schema of metadata")
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "schema.json"
        if schema is not None:
            shutil.copy(schema, copy)  # where the file is there, MONAI does not ask for it
        try:
            monai.bundle.verify_metadata(meta_file=str(path), filepath=copy)
        except ValueError as error:
            raise RuleError(f"{path}: {error}") from error
        except OSError as error:
            raise RuleError(f"{path}: its schema cannot be downloaded ({error}); give it as a file") from error


def _files(bundle: Path) -> dict[str, Any]:
    configs = bundle / "configs"
    return {"meta_file": str(configs / "metadata.json"), "config_file": str(configs / "inference.json")}


def check_network(bundle: Path) -> None:
    try:
        monai.bundle.verify_net_in_out("network_def", **_files(bundle), device="cpu", bundle_root=str(bundle))
    except ValueError as error:
        raise RuleError(f"{bundle / 'configs'}: metadata.json and network_def disagree ({error})") from error


def check_workflows(bundle: Path) -> None:
    """All three configs have the properties of MONAI's workflows, built on phantoms by the profile `smoke`."""
    configs = bundle / "configs"
    with tempfile.TemporaryDirectory() as folder:
        images = write_phantoms(Path(folder) / "phantoms", 16, size_range=(40, 72))
        datalist = prepare_folder(images, Path(folder) / "datalist", labeled=4, progress=False)
        values = {"output_dir": folder, "device": "cpu", "dataset_dir": str(images / "images")}
        for name in ("train", "evaluate", "inference"):
            workflow = ConfigWorkflow(
                config_file=[str(configs / f"{name}.json"), str(configs / "profiles" / "smoke.json")],
                workflow_type="train" if name == "train" else "inference",
                meta_file=str(configs / "metadata.json"),
                logging_file=False,
                bundle_root=str(bundle),
                **values,
                **({} if name == "inference" else {"datalist": str(datalist)}),
            )
            try:
                workflow.initialize()
                wrong = workflow.check_properties()
            except (
                KeyError,
                ValueError,
                RuntimeError,
            ) as error:  # MONAI's, for what is missing or unfit
                raise RuleError(f"{configs / name}.json: cannot be used as a workflow of MONAI ({error})") from error
            if wrong:
                raise RuleError(f"{configs / name}.json: lacks properties of MONAI's workflows: {', '.join(wrong)}")


def load_network(bundle: Path) -> nn.Module:
    return monai.bundle.load(bundle.name, bundle_dir=str(bundle.parent), workflow_type="inference", device="cpu").eval()


def check_load(bundle: Path) -> None:
    """`monai.bundle.load` gives the trained weights: of a nested file it gives random ones without a word."""
    path = bundle / "models" / "model.pt"
    try:
        weights = read_checkpoint(path)
    except CheckpointError as error:
        raise RuleError(str(error)) from error
    own = load_network(bundle).state_dict()
    other = [name for name in own if name not in weights or not torch.equal(own[name], weights[name].to(own[name]))]
    if other or set(weights) != set(own):
        raise RuleError(
            f"{path}: monai.bundle.load took over {len(own) - len(other)} of {len(own)} tensors of network_def; "
            "expected a plain state dict of that network"
        )


def check_torchscript(bundle: Path) -> None:
    """What `ckpt_export` writes answers as the network does, on images of several sizes."""
    network = load_network(bundle)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.ts"
        weights = str(bundle / "models" / "model.pt")
        monai.bundle.ckpt_export(net_id="network_def", filepath=str(path), ckpt_file=weights, **_files(bundle))
        exported = torch.jit.load(str(path), map_location="cpu")
    for seed, size in enumerate(((160, 160), (90, 210), (301, 200))):
        image = torch.from_numpy(make_phantom(size, seed=seed)[0])[None, None].float() / 255
        with torch.inference_mode():
            first, second = (net(image).softmax(dim=1) for net in (network, exported))
        difference = float((first - second).abs().max())
        if not difference <= TOLERANCE:
            raise RuleError(f"{weights}: TorchScript differs from the network by {difference:.1e}, allowed {TOLERANCE}")
