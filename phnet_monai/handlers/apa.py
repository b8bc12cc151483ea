"""Adaptive patch augmentation (paper, Sec. 3.3, Eqs. 4 to 9)."""

from __future__ import annotations

from typing import Literal

import torch
from ignite.engine import Engine
from torch import Tensor

from phnet_monai.engines.step import UNLABELED, PatchPlan, SemiSupervisedEvents, Step, View
from phnet_monai.engines.trainer import SemiSupervisedTrainer
from phnet_monai.transforms.patches import (
    CUT_RATIO,
    ShieldMode,
    draw_keep_box,
    draw_keep_mask,
    mix_patches,
    patch_all,
    patch_hardness,
    shielded_patch_count,
    shielded_patches,
)

FilterOn = Literal["mixed", "weak"]


class AdaptivePatchAugmentation:
    """Shields the hardest patches, cuts some of the others, filters pseudo-labels by the teacher's confidence.

    Replaces the unlabeled view: image A(x) and pseudo-label y mixed by Eqs. 6 and 7, weight M_f of Eq. 9; leaves a
    `PatchPlan` in `engine.state.step.patches`. Needs `step.teacher_probs`; does nothing in labeled-only steps.

    Args:
        grid_size: N, patches per side.
        shield_ratio: beta of Eq. 5, 0.3 in the paper.
        threshold: gamma of Eq. 9, 0.9 in the paper; 0 keeps every pixel.
        cut_ratio: lowest and highest share of all patches that is cut; (0, 0) mixes nothing (Table 3a, row "w").
        cut: `patches` (the method) or `box`, one rectangle a^u x a^(1-u) as in plain CutMix (Table 3a); `box` needs
            shield `none`.
        shield: `hard` (the method), `easy`, `random` or `none` (Table 3a).
        filter_on: `mixed`, confidence of the teacher on A(x) as in Eq. 9; `weak`, of its first answer, mixed like the
            label. The second answer Y (Eq. 11), which the contrast needs, is made in both cases.
    """

    def __init__(
        self,
        grid_size: int,
        *,
        shield_ratio: float = 0.3,
        threshold: float = 0.9,
        cut_ratio: tuple[float, float] = CUT_RATIO,
        cut: Literal["patches", "box"] = "patches",
        shield: ShieldMode = "hard",
        filter_on: FilterOn = "mixed",
    ) -> None:
        if not 0.0 <= threshold <= 1.0:
            raise ValueError(f"AdaptivePatchAugmentation: threshold is {threshold}, expected a value in [0, 1]")
        if shield not in ("hard", "easy", "random", "none"):
            raise ValueError(f"AdaptivePatchAugmentation: shield is {shield!r}, expected hard, easy, random or none")
        if cut not in ("patches", "box") or (cut == "box" and shield != "none"):
            raise ValueError(
                f"AdaptivePatchAugmentation: cut is {cut!r} with shield {shield!r}; expected 'patches' with any "
                "shield, or 'box' with shield 'none' (a rectangle cannot go around patches)"
            )
        if filter_on not in ("mixed", "weak"):
            raise ValueError(f"AdaptivePatchAugmentation: filter_on is {filter_on!r}, expected 'mixed' or 'weak'")
        low, high = cut_ratio
        if not 0.0 <= low <= high <= 1.0:
            raise ValueError(
                f"AdaptivePatchAugmentation: cut_ratio is {tuple(cut_ratio)}, expected 0 <= low <= high <= 1"
            )
        shielded_patch_count(1, 1, shield_ratio, grid_size)  # refuses a bad shield_ratio before any work
        self.grid_size, self.shield_ratio, self.threshold = grid_size, shield_ratio, threshold
        self.cut_ratio, self.cut, self.shield, self.filter_on = (low, high), cut, shield, filter_on

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(SemiSupervisedEvents.VIEWS_PREPARED, self)

    def __call__(self, engine: SemiSupervisedTrainer) -> None:
        step: Step = engine.state.step
        if UNLABELED not in step.views or step.teacher_probs is None:
            return
        weak, probs = step.views[UNLABELED], step.teacher_probs
        count = shielded_patch_count(engine.state.epoch, engine.state.max_epochs, self.shield_ratio, self.grid_size)
        hardness, shielded, keep = self._plan(probs, weak.valid, count, engine.generator)

        image = mix_patches(weak.image, keep).contiguous(memory_format=engine.format)
        label, valid = mix_patches(weak.target, keep), mix_patches(weak.valid, keep)
        second = engine.teacher_probabilities(image)
        confidence, second_label = second.max(dim=1)
        if self.filter_on == "weak":
            confidence = mix_patches(probs.amax(dim=1), keep)
        weight = (confidence >= self.threshold).float()

        step.views[UNLABELED] = View(image, label, weight, valid)
        step.patches = PatchPlan(hardness, shielded, keep, label, second_label, confidence)
        self._log(step, valid)

    def _plan(
        self, probs: Tensor, valid: Tensor, count: int, generator: torch.Generator
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Hardness, shielded patches and keep mask, (B, G, G); padding is never shielded. A box is per pixel."""
        hardness = patch_hardness(probs, self.grid_size)
        inside = patch_all(valid, self.grid_size)
        shielded = shielded_patches(hardness, count, self.shield, valid=inside, generator=generator)
        if self.cut == "box":
            keep = draw_keep_box(len(valid), valid.shape[-1], self.cut_ratio, generator).to(valid.device)
        else:
            keep = draw_keep_mask(shielded, self.cut_ratio, generator)
        return hardness, shielded, keep

    @staticmethod
    def _log(step: Step, valid: Tensor) -> None:
        plan, view = step.patches, step.views[UNLABELED]
        assert plan is not None
        pixels = valid.sum().clamp(min=1)
        agreement = (plan.pseudo_label == plan.second_label) & valid
        step.scalars.update(
            hardness=plan.hardness.mean(),
            shielded_share=plan.shielded.float().mean(),
            kept_patches=plan.keep_mask.float().mean(),
            confident_pixels=(view.weight * valid).sum() / pixels,
            pseudo_label_agreement=agreement.sum() / pixels,
            pseudo_label_lesion=((plan.pseudo_label > 0) & valid).sum() / pixels,
        )
