"""Adaptive patch augmentation (paper, Sec. 3.3, Eqs. 4 to 9)."""

from __future__ import annotations

from typing import Literal

import torch
from ignite.engine import Engine
from torch import Tensor

from phnet_monai.engines.step import LABELED, UNLABELED, PatchPlan, SemiSupervisedEvents, Step, View
from phnet_monai.engines.trainer import SemiSupervisedTrainer
from phnet_monai.handlers.teacher_pass import batch_statistics_pass
from phnet_monai.losses.entropy_filter import percentiles, unreliable_percent
from phnet_monai.transforms.boxes import draw_keep_box
from phnet_monai.transforms.patches import (
    CUT_RATIO,
    ShieldMode,
    draw_keep_mask,
    expand_patches,
    hardest_patches,
    mix_patches,
    patch_all,
    patch_hardness,
    pixel_entropy,
    shielded_patch_count,
    shielded_patch_counts,
    shielded_patches,
)

FilterOn = Literal["mixed", "weak"]
CHOICES = {
    "shield": ("hard", "easy", "random", "none"),
    "shield_share_of": ("all", "valid"),
    "filter_on": ("mixed", "weak"),
    "filter_by": ("confidence", "entropy"),
    "contrast_on": ("shielded", "hardest"),
    "k_clock": ("epoch", "iter", "after_pretrain"),
    "teacher_bn": ("eval", "batch", "batch_update"),
}


class AdaptivePatchAugmentation:
    """Shields the hardest patches, cuts some of the others, filters pseudo-labels by the teacher's confidence.

    Replaces the unlabeled view: image A(x) and pseudo-label y mixed by Eqs. 6 and 7, weight M_f of Eq. 9; leaves a
    `PatchPlan` in `engine.state.step.patches`. Needs `step.teacher_probs`; does nothing in labeled-only steps.

    Args:
        grid_size: N, patches per side.
        shield_ratio: beta of Eq. 5, 0.3 in the paper.
        shield_share_of: what k is a share of. `all`: of the N^2 patches, as printed; `valid`: of each image's patches
            without padding. Only those can be shielded, so that on a small image beta of all may be all of them.
        threshold: gamma of Eq. 9, 0.9 in the paper; 0 keeps every pixel.
        cut_ratio: lowest and highest share of all patches that is cut; (0, 0) mixes nothing (Table 3a, row "w").
        cut: `patches` (the method) or `box`, one rectangle a^u x a^(1-u) as in plain CutMix (Table 3a); `box` needs
            shield `none`.
        shield: `hard` (the method), `easy`, `random` or `none` (Table 3a).
        filter_on: `mixed`, confidence of the teacher on A(x) as in Eq. 9; `weak`, of its first answer, mixed like the
            label. The second answer Y (Eq. 11) is left out where nothing needs it: neither filter nor agreement, no
            contrast (the student has no projector), and no statistics to update.
        filter_by: `confidence`, Eq. 9; `entropy`, U2PL's filter instead: the `drop_percent` * (1 - t) percent of the
            valid pixels with the highest entropy are dropped, t = `engine.progress`; `threshold` has no part in it.
        drop_percent: share in percent that `filter_by: entropy` drops at first.
        also_require_agreement: drop pixels where the second answer Y differs from y, too (decision 11).
        contrast_on: which patches the contrast may sample. `shielded`: Z_k as in the paper; `hardest`: the k hardest
            that were not cut at all, whatever the shield. Both are the same for shield `hard`; for the other shields
            the patches of `shielded` are not hard, or there are none (Table 3a).
        k_clock: t / T of Eq. 5. `epoch`: epochs, counted from 1, of all; `iter`: iterations of all; `after_pretrain`:
            semi-supervised epochs of these.
        teacher_bn: how the teacher makes its second answer. `eval`; `batch`, in train mode on labeled and mixed images
            together, its running statistics untouched; `batch_update`, with them updated as in U2PL.
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
        shield_share_of: Literal["all", "valid"] = "all",
        filter_on: FilterOn = "mixed",
        filter_by: Literal["confidence", "entropy"] = "confidence",
        drop_percent: float = 20.0,
        also_require_agreement: bool = False,
        contrast_on: Literal["shielded", "hardest"] = "shielded",
        k_clock: Literal["epoch", "iter", "after_pretrain"] = "epoch",
        teacher_bn: Literal["eval", "batch", "batch_update"] = "eval",
    ) -> None:
        if not 0.0 <= threshold <= 1.0:
            raise ValueError(f"AdaptivePatchAugmentation: threshold is {threshold}, expected a value in [0, 1]")
        if not 0.0 <= drop_percent <= 100.0:
            raise ValueError(f"AdaptivePatchAugmentation: drop_percent is {drop_percent}, expected 0 ... 100")
        chosen = {
            "shield": shield,
            "shield_share_of": shield_share_of,
            "filter_on": filter_on,
            "filter_by": filter_by,
            "contrast_on": contrast_on,
            "k_clock": k_clock,
            "teacher_bn": teacher_bn,
        }
        for name, value in chosen.items():
            if value not in CHOICES[name]:
                raise ValueError(
                    f"AdaptivePatchAugmentation: {name} is {value!r}, expected one of {', '.join(CHOICES[name])}"
                )
        if cut not in ("patches", "box") or (cut == "box" and shield != "none"):
            raise ValueError(
                f"AdaptivePatchAugmentation: cut is {cut!r} with shield {shield!r}; expected 'patches' with any "
                "shield, or 'box' with shield 'none' (a rectangle cannot go around patches)"
            )
        low, high = cut_ratio
        if not 0.0 <= low <= high <= 1.0:
            raise ValueError(
                f"AdaptivePatchAugmentation: cut_ratio is {tuple(cut_ratio)}, expected 0 <= low <= high <= 1"
            )
        shielded_patch_count(1, 1, shield_ratio, grid_size)  # refuses a bad shield_ratio before any work
        self.grid_size, self.shield_ratio, self.threshold = grid_size, shield_ratio, threshold
        self.cut_ratio, self.cut, self.shield = (low, high), cut, shield
        self.shield_share_of = shield_share_of
        self.filter_on, self.filter_by, self.drop_percent = filter_on, filter_by, drop_percent
        self.also_require_agreement, self.contrast_on = also_require_agreement, contrast_on
        self.k_clock, self.teacher_bn = k_clock, teacher_bn

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(SemiSupervisedEvents.VIEWS_PREPARED, self)

    def __call__(self, engine: SemiSupervisedTrainer) -> None:
        step: Step = engine.state.step
        if UNLABELED not in step.views or step.teacher_probs is None:
            if LABELED in step.views:  # a grid that does not divide is refused at once, not after labeled-only epochs
                patch_all(step.views[LABELED].valid, self.grid_size)
            return
        weak, probs = step.views[UNLABELED], step.teacher_probs
        count = self._count(engine, patch_all(weak.valid, self.grid_size))
        hardness, shielded, keep = self._plan(probs, weak.valid, count, engine.generator)

        image = mix_patches(weak.image, keep).contiguous(memory_format=engine.format)
        label, valid = mix_patches(weak.target, keep), mix_patches(weak.valid, keep)
        second = self._second_answer(engine, image) if self._needs_second_answer(engine) else None
        second_label = None if second is None else second.argmax(dim=1)
        judged = mix_patches(probs, keep) if self.filter_on == "weak" else second
        assert judged is not None  # filter_on `mixed` needs the second answer
        weight = self._filter(judged, valid, engine.progress)
        if self.also_require_agreement:
            weight = weight * (label == second_label)

        step.views[UNLABELED] = View(image, label, weight, valid)
        step.patches = PatchPlan(hardness, shielded, keep, label, second_label, judged.amax(dim=1))
        if self.contrast_on == "hardest":
            step.patches.contrasted = self._hardest_uncut(hardness, count, weak.valid, keep)
            step.scalars["contrasted_share"] = step.patches.contrasted.float().mean()
        self._log(step, valid)

    def _count(self, engine: SemiSupervisedTrainer, inside: Tensor) -> int | Tensor:
        """k of Eq. 5 by the chosen clock; one for each image, (B,), where it is a share of its own patches `inside`."""
        state = engine.state
        epoch, epochs = float(state.epoch), int(state.max_epochs or 0)
        if self.k_clock == "iter":
            epoch = min(state.iteration / (state.epoch_length or 1), epochs)
        elif self.k_clock == "after_pretrain":
            epoch, epochs = epoch - engine.pretrain_epochs, epochs - engine.pretrain_epochs
        if self.shield_share_of == "valid":
            return shielded_patch_counts(epoch, epochs, self.shield_ratio, inside)
        return shielded_patch_count(epoch, epochs, self.shield_ratio, self.grid_size)

    def _needs_second_answer(self, engine: SemiSupervisedTrainer) -> bool:
        by_filter = self.filter_on == "mixed" or self.also_require_agreement
        by_contrast = getattr(engine.network, "projector", None) is not None
        return by_filter or by_contrast or self.teacher_bn == "batch_update"

    def _second_answer(self, engine: SemiSupervisedTrainer, image: Tensor) -> Tensor:
        """Probabilities of the teacher on the mixed images, Eqs. 9 and 11."""
        if self.teacher_bn == "eval":
            return engine.teacher_probabilities(image)
        images = torch.cat([engine.state.step.views[LABELED].image, image])
        logits, _ = batch_statistics_pass(engine, images, update=self.teacher_bn == "batch_update")
        return logits[-len(image) :].float().softmax(dim=1)

    def _filter(self, probs: Tensor, valid: Tensor, progress: float) -> Tensor:
        """M_f: 1 where the teacher's answer is sure enough. Pixels at the limit are kept: ties must not all go."""
        if self.filter_by == "confidence":
            return (probs.amax(dim=1) >= self.threshold).float()
        entropy, kept = pixel_entropy(probs), 100.0 - unreliable_percent(progress, self.drop_percent)
        return (entropy <= percentiles(entropy, valid, [kept])).float()

    def _hardest_uncut(self, hardness: Tensor, count: int | Tensor, valid: Tensor, keep: Tensor) -> Tensor:
        """The k hardest patches of which no pixel was replaced: only there image, label and hardness belong together.

        For shield `hard` these are the shielded ones.
        """
        chosen = hardest_patches(hardness, count, patch_all(valid, self.grid_size))
        return chosen & patch_all(expand_patches(keep, valid.shape[-2:]), self.grid_size)

    def _plan(
        self, probs: Tensor, valid: Tensor, count: int | Tensor, generator: torch.Generator
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
        pixels, inside = valid.sum().clamp(min=1), patch_all(valid, plan.hardness.shape[-1])
        if plan.second_label is not None:
            step.scalars["pseudo_label_agreement"] = ((plan.pseudo_label == plan.second_label) & valid).sum() / pixels
        step.scalars.update(
            hardness=(plan.hardness * inside).sum() / inside.sum().clamp(min=1),
            shielded_share=plan.shielded.float().mean(),
            kept_patches=plan.keep_mask.float().mean(),
            confident_pixels=(view.weight * valid).sum() / pixels,
            pseudo_label_lesion=((plan.pseudo_label > 0) & valid).sum() / pixels,
        )
