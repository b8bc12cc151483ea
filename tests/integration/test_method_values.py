"""The numbers of the shipped overlays are those of the sources, as the specification of the methods gives them.

A value that was changed by accident would train without a word and make a table wrong.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from phnet_monai.engines.run import compose, train_run, training_overlays
from phnet_monai.shipped import bundle_folder

CONFIGS = bundle_folder() / "configs"
JITTER = {"jitter_probability": 0.8, "jitter": 0.5, "blur_probability": 0.5, "sigma": [0.1, 2.0]}

HARMONISED: dict[str, dict[str, Any]] = {
    "augseg": {"threshold": 0.95, "labeled_box": [8, 2], "unlabeled_box": [4, 4]}
    | {
        f"strong_view#{name}": value
        for name, value in {"max_operations": 3, "factors": [0.05, 0.95], "bits": [4, 8]}.items()
    },
    "bcp": {"share": 2 / 3, "unlabeled_weight": 0.5, "largest_component": True},
    "cps": {"weight": 1.5, "cutmix": False},
    "cps_cutmix": {"weight": 1.0, "cutmix": True, "boxes": 3, "cut_ratio": [0.25, 0.5]},
    "imas": {"threshold": 0.95, "weight": 3.0, "box_side": [0.1, 0.9], "ignore_background": True, "floor": 0.1}
    | {f"strong_view#{name}": value for name, value in JITTER.items()},
    "mean_teacher": {"weight": 0.1},
    "pdf_unet": {"latent_size": 128, "gan_batch_size": 16, "gan_rate": 2e-4, "beta1": 0.5, "smoothing": 0.1}
    | {"discriminator_updates": 2, "view#size": 128},
    "ps_mt": {"threshold": 0.6, "weight": 1.5, "box": [4, 4], "eps": 2.0, "iterations": 1}
    | {f"strong_view#{name}": value for name, value in JITTER.items()},
    "ra_ugmt": {"passes": 8, "threshold": 0.75, "weight": 0.1},
    "u2pl": {"percent": 20.0, "cutmix_probability": 0.5, "weight": 0.1},
    "ua_mt": {"passes": 8, "threshold": 0.75, "weight": 0.1},
    "unimatch": {"threshold": 0.95, "box_probability": 0.5, "box_area": [0.02, 0.4], "feature_dropout": 0.5}
    | {"labeled_weight": 0.5, "strong_weight": 0.125, "feature_weight": 0.25},
}
"""Values below `method_handler`, in every recipe but for what `NATIVE` changes."""

ELSEWHERE: dict[str, dict[str, Any]] = {
    "cutmix": {"apa#cut": "box", "apa#cut_ratio": [0.5, 0.5], "apa#shield": "none", "apa#filter_on": "weak"},
    "phnet": {"apa#threshold": 0.9, "apa#shield_ratio": 0.3, "apa#cut_ratio": [0.1, 0.5], "ema#decay": 0.999},
    "u2pl": {"contrast#low_rank": 1, "contrast#high_rank": 2, "contrast#capacity": [50000, 30000]}
    | {"contrast#anchors_per_class": 256, "contrast#negatives_per_anchor": 50, "contrast#temperature": 0.5}
    | {"contrast#min_prob": 0.3, "contrast#code_mask": False},
}

NATIVE: dict[str, dict[str, Any]] = {
    "augseg": {"rate": 1e-3, "max_epochs": 80, "pretrain_epochs": 0, "batch_size": 16, "ema#decay": 0.999},
    "bcp": {"rate": 0.01, "scheduler#power": 0.0, "batch_size": 12, "ema#decay": 0.99}
    | {"max_epochs": 60, "epoch_length": 500, "pretrain_epochs": 0},
    "cps": {"rate": 0.0025, "batch_size": 8, "max_epochs": 34, "pretrain_epochs": 0},  # 0.005 at 16, linear
    "imas": {"rate": 1e-3, "max_epochs": 80, "pretrain_epochs": 0, "ema#decay": 0.996},
    "mean_teacher": {"rate": 0.01, "ema#decay": 0.99},
    "pdf_unet": {"method_handler#gan_epochs": 300, "network_def#unet_features": [32, 64, 128, 256, 512]},
    "ps_mt": {"rate": 0.0025, "batch_size": 8, "max_epochs": 80, "pretrain_epochs": 5, "ema#decay": 0.996},
    "ra_ugmt": {"ema#decay": 0.99, "max_epochs": 60, "epoch_length": 500},
    "u2pl": {"rate": 1e-3, "max_epochs": 80, "pretrain_epochs": 1, "ema#decay": 0.99, "method_handler#weight": 1.0},
    "ua_mt": {"rate": 0.01, "ema#decay": 0.99},
    "unimatch": {"rate": 1e-3, "max_epochs": 80},
}


VARIANTS = {"cps_cutmix": "cps", "pdf_unet_noden": "pdf_unet"}
"""Methods with the native recipe of another, but for ids that they lack."""


def found(config: Any, ids: dict[str, Any]) -> dict[str, Any]:
    return {name: config.get(name) for name in ids}


def same(one: Any, other: Any) -> bool:
    if isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    return math.isclose(one, other) if isinstance(other, float) else one == other


@pytest.mark.parametrize("method", sorted(HARMONISED | ELSEWHERE))
@pytest.mark.parametrize("recipe", ["harmonised", "native"])
def test_values_are_those_of_the_sources(method: str, recipe: str) -> None:
    own = {f"method_handler#{name}": value for name, value in HARMONISED.get(method, {}).items()}
    own |= ELSEWHERE.get(method, {})
    if recipe == "native":
        if not (CONFIGS / "native" / f"{method}.json").is_file():
            assert method not in NATIVE
            return
        own |= NATIVE[VARIANTS.get(method, method)]
    config = compose(CONFIGS / "train.json", training_overlays("paper", method, recipe=recipe))
    assert [name for name, value in found(config, own).items() if not same(value, own[name])] == []


def test_every_native_recipe_is_held_to_its_source() -> None:
    files = {path.stem for path in (CONFIGS / "native").glob("*.json") if not path.stem.endswith("warm_start")}
    assert files - set(VARIANTS) == set(NATIVE)


def test_bcp_s_start_has_the_length_of_its_source() -> None:
    """10,000 steps, all of them on labeled images."""
    config = compose(CONFIGS / "train.json", training_overlays("cpu", "bcp_warm_start", recipe="native"))
    assert config["max_epochs"] == config["pretrain_epochs"] == 20
    assert config["epoch_length"] == 500


# --- on the networks of the project, by the recipes of the sources


NETWORK = {"encoder": "tu-tf_efficientnet_lite0", "weights": None}
ONE = {"max_epochs": 1, "pretrain_epochs": 0, "epoch_length": 1, "batch_size": 2}
DECODERS = [
    *((method, "unet") for method in ("augseg", "bcp", "cps", "cutmix", "imas", "mean_teacher", "phnet", "phnet_plus")),
    *((method, "unet") for method in ("phnet_release", "ps_mt", "sup_only", "u2pl", "ua_mt", "unimatch")),
    *((method, "deeplabv3plus") for method in ("cps_cutmix", "phnet", "phnet_release", "ps_mt", "u2pl", "unimatch")),
]


def is_finite(folder: Path) -> bool:
    rows = [json.loads(line)["train"] for line in (folder / "history.jsonl").read_text(encoding="utf-8").splitlines()]
    return len(rows) == 1 and all(math.isfinite(value) for value in rows[0].values())


@pytest.mark.parametrize(("method", "decoder"), DECODERS)
def test_methods_train_on_the_networks_with_encoders(method: str, decoder: str, datalist: Path, tmp_path: Path) -> None:
    network = {f"network_def#{name}": value for name, value in {**NETWORK, "decoder": decoder}.items()}
    overrides = {**ONE, **network, "size": 64, "grid_size": 8}
    train_run(datalist, tmp_path / "run", profile="smoke", method=method, device="cpu", overrides=overrides)
    assert is_finite(tmp_path / "run")


@pytest.mark.parametrize("method", sorted(path.stem for path in (CONFIGS / "native").glob("*.json")))
def test_native_recipes_train(method: str, datalist: Path, checkpoint: Path, tmp_path: Path) -> None:
    overrides: dict[str, Any] = dict(ONE)
    if method.startswith("pdf_unet"):
        overrides["network_def#unet_features"] = [4, 8, 8, 16, 16]
    if method in ("pdf_unet", "pdf_unet_noden"):
        overrides["labeler_init"] = str(checkpoint)
    if method == "pdf_unet":
        small = {"gan_epochs": None, "gan_steps": 1, "gan_batch_size": 2, "features": [8, 8, 4, 4, 4], "view#size": 128}
        overrides |= {f"method_handler#{name}": value for name, value in small.items()}
    train_run(
        datalist, tmp_path / "run", profile="smoke", method=method, recipe="native", device="cpu", overrides=overrides
    )
    assert is_finite(tmp_path / "run")
