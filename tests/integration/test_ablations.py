"""Every shipped ablation trains on phantoms, and differs from PH-Net by just what its name says."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from monai.bundle import ConfigParser

from phnet_monai.engines.run import compose, overlay, run
from phnet_monai.losses import MemoryBank, MixedPatchContrastiveLoss
from phnet_monai.shipped import bundle_folder
from phnet_monai.transforms import expand_patches, hardest_patches, patch_all, shielded_patch_count

FOLDER = bundle_folder() / "configs" / "ablations"
NAMES = sorted(path.stem for path in FOLDER.glob("*.json"))
EPOCHS, STEPS, SIZE = 2, 2, 64


def config(name: str, profile: str, overrides: dict[str, Any] | None = None) -> ConfigParser:
    files = [overlay("profiles", profile), overlay("methods", "phnet"), FOLDER / f"{name}.json"]
    return compose(bundle_folder() / "configs" / "train.json", files, overrides)


def train(name: str, datalist: Path, checkpoint: Path, out: Path) -> SimpleNamespace:
    """The ablation after a few steps: its components, and the last semi-supervised step."""
    values = {
        "datalist": str(datalist),
        "output_dir": str(out),
        "device": "cpu",
        "init": str(checkpoint),
        "max_epochs": EPOCHS,
        "pretrain_epochs": 1,
        "epoch_length": STEPS,
        "batch_size": 4,
        "val_interval": 10,
        "weak_view#scale_range": [1.0, 1.0],  # whole patches in every image
        # k is large, and the threshold drops some pixels but not all, unless the ablation is about them
        **({} if name.startswith("table3b") else {"apa#shield_ratio": 0.2}),
        **({} if name.startswith("table3c") else {"apa#threshold": 0.6}),
    }
    if name == "table2_suponly":
        values = {key: value for key, value in values.items() if not key.startswith("apa")}
    if name.startswith("fig8"):  # the same grid on small images
        values["size"] = max(2, SIZE // grid_of(name)) * grid_of(name)
    parser = config(name, "smoke", values)
    run(parser)
    keys = ("apa", "hpc", "memory_bank", "contrast", "network", "teacher", "ema", "grid_size", "train#trainer")
    found = {key.split("#")[-1]: parser.get_parsed_content(key) for key in keys}
    return SimpleNamespace(**found, step=found["trainer"].state.step)


def grid_of(name: str) -> int:
    return config(name, "smoke").get("grid_size")


def plan_of(result: SimpleNamespace) -> Any:
    return result.step.patches


def count(result: SimpleNamespace, epoch: float = EPOCHS, epochs: int = EPOCHS) -> int:
    return shielded_patch_count(epoch, epochs, result.apa.shield_ratio, result.grid_size)


def whole(result: SimpleNamespace) -> torch.Tensor:
    return patch_all(result.step.weak["unlabeled"].valid, result.grid_size)


# what makes each ablation different: name (a pattern) -> check of a result

Check = Callable[[SimpleNamespace, str], None]
CHECKS: dict[str, Check] = {}


def check(pattern: str) -> Callable[[Check], Check]:
    def keep(function: Check) -> Check:
        CHECKS[pattern] = function
        return function

    return keep


@check("table2_suponly")
def supervised_only(result: SimpleNamespace, name: str) -> None:
    assert set(result.step.losses) == {"labeled"}
    assert result.teacher is result.ema is result.apa is None


@check("table2_I")
def augmentation_only(result: SimpleNamespace, name: str) -> None:
    assert set(result.step.losses) == {"labeled", "unlabeled"}
    assert plan_of(result).shielded.any()
    assert result.network.projector is None


@check("table2_II|bank_0")
def positives_of_the_step(result: SimpleNamespace, name: str) -> None:
    assert result.contrast.bank is None
    assert set(result.step.losses) == {"labeled", "unlabeled", "contrast"}
    assert result.step.losses["contrast"] > 0
    assert result.hpc.state_dict() == {}


@check("table2_III")
def everything(result: SimpleNamespace, name: str) -> None:
    assert result.step.losses["contrast"] > 0
    assert len(result.memory_bank) > 0


def contrast_is_on_the_hardest_whole_patches(result: SimpleNamespace, name: str) -> None:
    plan = plan_of(result)
    if name.endswith("_nohpc"):
        assert set(result.step.losses) == {"labeled", "unlabeled"}
        assert result.network.projector is None
        return
    assert result.step.losses["contrast"] > 0
    uncut = patch_all(expand_patches(plan.keep_mask, result.step.weak["unlabeled"].valid.shape[-2:]), result.grid_size)
    hardest = hardest_patches(plan.hardness, count(result), whole(result))
    assert torch.equal(plan.contrasted, hardest & uncut)
    assert plan.contrasted.any()


@check("table3a_w(_nohpc)?")
def no_mixing(result: SimpleNamespace, name: str) -> None:
    contrast_is_on_the_hardest_whole_patches(result, name)
    assert plan_of(result).keep_mask.all()
    assert torch.equal(result.step.views["unlabeled"].image, result.step.weak["unlabeled"].image)
    confident = result.step.teacher_probs.amax(dim=1) >= result.apa.threshold
    assert torch.equal(result.step.views["unlabeled"].weight, confident.float())


@check("table3a_cutmix(_nohpc)?")
def box(result: SimpleNamespace, name: str) -> None:
    contrast_is_on_the_hardest_whole_patches(result, name)
    keep = plan_of(result).keep_mask
    assert keep.shape[-1] == SIZE
    for cut in ~keep:
        assert 0 < cut.sum() == cut.any(dim=0).sum() * cut.any(dim=1).sum()


@check("table3a_rand(_nohpc)?")
def nothing_shielded(result: SimpleNamespace, name: str) -> None:
    contrast_is_on_the_hardest_whole_patches(result, name)
    assert not plan_of(result).shielded.any()
    assert not plan_of(result).keep_mask.flatten(1).all(dim=1).any()


@check("table3a_(easy|randk|hard)(_nohpc)?")
def other_shields(result: SimpleNamespace, name: str) -> None:
    contrast_is_on_the_hardest_whole_patches(result, name)
    plan = plan_of(result)
    assert plan.shielded.any()
    assert not (plan.shielded & ~plan.keep_mask).any()
    hardest = hardest_patches(plan.hardness, count(result), whole(result))
    assert torch.equal(plan.shielded, hardest) == (result.apa.shield == "hard")
    if result.apa.shield == "easy":
        assert torch.equal(plan.shielded, hardest_patches(-plan.hardness, count(result), whole(result)))


@check("table3b_beta_.*")
def shield_ratio(result: SimpleNamespace, name: str) -> None:
    percent = int(name.rsplit("_", 1)[1])
    assert count(result) == math.floor(percent / 100 * result.grid_size**2 + 1e-9)
    expected = whole(result).flatten(1).sum(dim=1).clamp(max=count(result))
    assert torch.equal(plan_of(result).shielded.flatten(1).sum(dim=1), expected)
    assert (result.step.losses["contrast"] == 0) == (percent == 0)


@check("shield_valid")
def share_of_valid_patches(result: SimpleNamespace, name: str) -> None:
    inside, shielded = (patches.flatten(1).sum(dim=1) for patches in (whole(result), plan_of(result).shielded))
    expected = [math.floor(result.apa.shield_ratio * number + 1e-9) for number in inside.tolist()]  # t = T
    assert shielded.tolist() == expected
    assert min(expected) < count(result)  # some image has padding


@check("table3c_gamma_.*")
def threshold(result: SimpleNamespace, name: str) -> None:
    percent = int(name.rsplit("_", 1)[1])
    confident = plan_of(result).confidence >= percent / 100
    assert torch.equal(result.step.views["unlabeled"].weight, confident.float())


@check("fig8_.*")
def patch_size(result: SimpleNamespace, name: str) -> None:
    assert plan_of(result).hardness.shape[-1] == result.grid_size
    assert result.step.losses["unlabeled"] > 0


@check("eq15_nolog")
def printed_contrast(result: SimpleNamespace, name: str) -> None:
    assert -2 < result.step.losses["contrast"] < 0  # a mean of -q, not of -log q


@check("eq8_norm_.*")
def normalisation(result: SimpleNamespace, name: str) -> None:
    view, logits = result.step.views["unlabeled"], result.step.outputs["unlabeled"].logits.double()
    losses = torch.nn.functional.cross_entropy(logits, view.target, reduction="none")
    counted = view.weight.bool() & view.valid
    kept, valid, pixels = int(counted.sum()), int(view.valid.sum()), view.valid.numel()
    assert 0 < kept < valid < pixels
    divisor = {"kept": kept, "mean": pixels, "u2pl": kept**2 / valid}[name.rsplit("_", 1)[1]]
    assert result.step.losses["unlabeled"].item() == pytest.approx(losses[counted].sum().item() / divisor, rel=1e-4)


@check("filter_on_x")
def first_confidence(result: SimpleNamespace, name: str) -> None:
    first = result.step.teacher_probs.amax(dim=1)
    keep = expand_patches(plan_of(result).keep_mask, first.shape[-2:])
    expected = torch.where(keep, first, first.roll(-1, dims=0)) >= result.apa.threshold
    assert torch.equal(result.step.views["unlabeled"].weight, expected.float())


@check("filter_percentile")
def entropy_percentile(result: SimpleNamespace, name: str) -> None:
    view = result.step.views["unlabeled"]
    progress = (STEPS * (EPOCHS - 1) - 1) / (STEPS * (EPOCHS - 1))  # of the last step
    kept = view.weight[view.valid].mean().item()
    assert 1 - 0.2 * (1 - progress) - 1e-3 <= kept < 1  # more only by pixels of equal entropy
    # the surest are kept: for two classes low entropy is high confidence
    confidence, weight = plan_of(result).confidence[view.valid], view.weight[view.valid].bool()
    assert confidence[weight].min() >= confidence[~weight].max() - 1e-6


@check("agreement")
def both_answers(result: SimpleNamespace, name: str) -> None:
    plan = plan_of(result)
    same = plan.pseudo_label == plan.second_label
    confident = plan.confidence >= result.apa.threshold
    assert (confident & ~same).any()  # else the ablation shows nothing here
    assert torch.equal(result.step.views["unlabeled"].weight, (confident & same).float())


@check("rigor_confident")
def confident_anchors(result: SimpleNamespace, name: str) -> None:
    assert result.hpc.confident_only


@check("hpc_release")
def contrast_of_the_release(result: SimpleNamespace, name: str) -> None:
    assert isinstance(result.contrast, MixedPatchContrastiveLoss)
    assert result.hpc is result.memory_bank is None
    assert result.step.scalars["contrast_anchors"] > 0
    assert result.step.losses["contrast"] > 0
    values = [
        ConfigParser.load_config_file(str(path))
        for path in (FOLDER / f"{name}.json", overlay("methods", "phnet_release"))
    ]
    assert [value.pop("method") for value in values] == ["phnet", "phnet_release"]
    assert values[0] == values[1]


@check("bank_(1k|4k|30k)")
def capacity(result: SimpleNamespace, name: str) -> None:
    assert isinstance(result.memory_bank, MemoryBank)
    assert result.memory_bank.capacity == {"1k": 1024, "4k": 4096, "30k": 30000}[name.removeprefix("bank_")]
    assert len(result.memory_bank) > 0


@check("k_clock_iter")
def clock_of_iterations(result: SimpleNamespace, name: str) -> None:
    for iteration, expected in {1: 0, 24: 1, 150: 6, 300: 12}.items():  # 0.2 * 64 * iteration / 300
        state = SimpleNamespace(epoch=1 + iteration // 100, max_epochs=3, iteration=iteration, epoch_length=100)
        assert result.apa._count(SimpleNamespace(state=state), whole(result)) == expected


@check("k_clock_after_pretrain")
def clock_of_semi_supervised_epochs(result: SimpleNamespace, name: str) -> None:
    trainer = SimpleNamespace(state=SimpleNamespace(epoch=6, max_epochs=10), pretrain_epochs=2)
    assert result.apa._count(trainer, whole(result)) == math.floor(0.2 * 64 * 4 / 8)
    assert count(result) == plan_of(result).shielded[0].sum()  # at the end both clocks agree


@check("center_kmeans")
def several_centres(result: SimpleNamespace, name: str) -> None:
    positives = result.contrast._positive(0, torch.randn(50, result.memory_bank.features.shape[2]))
    assert positives.shape[0] == 50
    assert 1 < len(positives.unique(dim=0)) <= result.contrast.centers == 4


@check("teacher_bn_(batch|u2pl)")
def statistics_of_the_batch(result: SimpleNamespace, name: str) -> None:
    plan, view = plan_of(result), result.step.views["unlabeled"]
    own = result.trainer.teacher_probabilities(view.image).amax(dim=1)
    assert not torch.allclose(plan.confidence, own, atol=1e-3)
    assert not result.teacher.training


@pytest.mark.parametrize("name", NAMES)
def test_it_trains_and_differs_as_it_says(name: str, datalist: Path, checkpoint: Path, tmp_path: Path) -> None:
    checks = [function for pattern, function in CHECKS.items() if re.fullmatch(pattern, name)]
    assert len(checks) == 1, f"{name}: {len(checks)} checks in this file, expected one"
    result = train(name, datalist, checkpoint, tmp_path / "run")
    assert all(torch.isfinite(value) for value in result.step.losses.values())
    checks[0](result, name)
    content = torch.load(tmp_path / "run" / "last.pt", weights_only=True)
    assert content["info"]["method"] == "phnet"


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("profile", ["paper", "cpu"])
def test_it_changes_nothing_else(name: str, profile: str) -> None:
    """Every key of the overlay is known, and the composed config differs from PH-Net's by these keys alone."""
    values = ConfigParser.load_config_file(str(FOLDER / f"{name}.json"))
    assert values.pop("method") == "phnet"
    ablated, plain = config(name, profile), config("table2_III", profile)
    for key in values:
        plain[key] = ablated[key] = None
    assert ablated.get() == plain.get()


@pytest.mark.parametrize(
    ("profile", "size", "prefix"), [("paper", 500, "fig8_patch_"), ("cpu", 160, "fig8_cpu_patch_")]
)
def test_patch_sizes_are_what_their_names_say(profile: str, size: int, prefix: str) -> None:
    names = [name for name in NAMES if name.startswith(prefix)]
    assert len(names) >= 6
    for name in names:
        parser = config(name, profile)
        assert (parser.get("size"), parser.get("grid_size") * int(name.removeprefix(prefix))) == (size, size)


def test_the_default_of_each_sweep_is_ph_net() -> None:
    """The row of a table that is the method itself composes to the method itself."""
    for profile, names in {
        "paper": ["table2_III", "table3b_beta_30", "table3c_gamma_90", "fig8_patch_25", "bank_4k"],
        "cpu": ["fig8_cpu_patch_10"],
    }.items():
        plain = config("table2_III", profile).get()
        assert all(config(name, profile).get() == plain for name in names)
