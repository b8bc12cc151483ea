"""Adaptive patch augmentation on a step made by hand, and in a training."""

from __future__ import annotations

import contextlib
from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from phnet_monai.engines import Step, View
from phnet_monai.handlers import AdaptivePatchAugmentation
from phnet_monai.transforms import expand_patches, mix_patches, patch_all

BATCH, SIZE, GRID = 3, 16, 4


def second_look(image: Tensor) -> Tensor:
    """A teacher that is surer the further a pixel is from grey: (B, 1, H, W) -> probabilities (B, 2, H, W)."""
    return torch.cat([1 - image, image], dim=1)


def make_engine(epoch: int = 5, max_epochs: int = 10, seed: int = 0, padded: bool = False) -> SimpleNamespace:
    generator = torch.Generator().manual_seed(seed)
    image = torch.rand(BATCH, 1, SIZE, SIZE, generator=generator)
    probs = (3 * torch.randn(BATCH, 2, SIZE, SIZE, generator=generator)).softmax(dim=1)
    valid = torch.ones(BATCH, SIZE, SIZE, dtype=torch.bool)
    if padded:
        valid[0, :, :5] = False  # one and a quarter columns of patches
        valid[1, 11:] = False
        probs.masked_fill_(~valid.unsqueeze(1), 0.5)  # padding looks hardest
    weak = View(image, probs.argmax(dim=1), torch.ones(BATCH, SIZE, SIZE), valid)
    step = Step(views={"unlabeled": weak}, weak={"unlabeled": weak}, teacher_probs=probs)
    return SimpleNamespace(
        state=SimpleNamespace(step=step, epoch=epoch, max_epochs=max_epochs),
        generator=torch.Generator().manual_seed(seed),
        format=torch.contiguous_format,
        progress=0.0,
        network=SimpleNamespace(projector=nn.Identity()),
        teacher_probabilities=second_look,
    )


def augment(engine: SimpleNamespace, **arguments) -> tuple[View, View]:
    """(weak view, augmented view)."""
    AdaptivePatchAugmentation(GRID, **arguments)(engine)
    step = engine.state.step
    return step.weak["unlabeled"], step.views["unlabeled"]


@pytest.mark.parametrize("epoch", [1, 4, 10])
@pytest.mark.parametrize("threshold", [0.6, 0.9])
def test_the_step_follows_the_equations(reference, epoch, threshold):
    engine = make_engine(epoch)
    probs = engine.state.step.teacher_probs.double().numpy()
    weak, view = augment(engine, shield_ratio=0.4, threshold=threshold)
    plan = engine.state.step.patches

    hardness = reference.hardness(probs, GRID)
    np.testing.assert_allclose(plan.hardness.numpy(), hardness, rtol=1e-5)
    count = reference.shielded_count(Fraction("0.4"), epoch, 10, GRID)
    np.testing.assert_array_equal(plan.shielded.numpy(), reference.hardest(hardness, count))
    assert not (plan.shielded & ~plan.keep_mask).any()
    keep = plan.keep_mask.numpy()
    np.testing.assert_array_equal(view.image.numpy(), reference.mix(weak.image.numpy(), keep))
    np.testing.assert_array_equal(view.target.numpy(), reference.mix(probs.argmax(axis=1), keep))
    assert torch.equal(plan.pseudo_label, view.target)
    again = second_look(view.image).numpy()
    np.testing.assert_array_equal(view.weight.numpy(), reference.confidence_mask(again, np.float32(threshold)))
    np.testing.assert_array_equal(
        (plan.pseudo_label == plan.second_label).numpy(), reference.agreement(view.target.numpy(), again)
    )
    np.testing.assert_allclose(plan.confidence.numpy(), again.max(axis=1))
    assert 0 < view.weight.mean() < 1  # the threshold drops some


@pytest.mark.parametrize("seed", range(5))
def test_padding_is_never_shielded_and_moves_with_the_image(seed):
    engine = make_engine(10, seed=seed, padded=True)
    weak, view = augment(engine, shield_ratio=1.0)
    plan = engine.state.step.patches
    inside = patch_all(weak.valid, GRID)
    assert torch.equal(plan.shielded, inside)  # all patches are asked for, only whole ones are given
    assert torch.equal(view.valid, mix_patches(weak.valid, plan.keep_mask))
    shielded = expand_patches(plan.shielded, (SIZE, SIZE))
    assert view.valid[shielded].all()
    assert (~plan.keep_mask[0, :, :2]).any() or (~plan.keep_mask[1, 2:]).any()  # padded patches may be cut


def test_padded_images_shield_their_hardest_valid_patches(reference):
    engine = make_engine(5, padded=True)
    augment(engine, shield_ratio=1.0)  # 8 of 16
    plan = engine.state.step.patches
    inside = patch_all(engine.state.step.weak["unlabeled"].valid, GRID)
    scores = torch.where(inside, plan.hardness, -1.0).numpy()
    np.testing.assert_array_equal(plan.shielded.numpy(), reference.hardest(scores, 8))


@pytest.mark.parametrize("shield", ["hard", "easy", "random"])
@pytest.mark.parametrize("contrast_on", ["shielded", "hardest"])
def test_a_share_of_the_valid_patches_equals_the_loop(shield, contrast_on):
    engine = make_engine(6, padded=True)
    arguments = {"shield_ratio": 0.7, "shield_share_of": "valid", "contrast_on": contrast_on}
    weak, _ = augment(engine, shield=shield, **arguments)
    plan, side = engine.state.step.patches, SIZE // GRID
    for i in range(BATCH):
        whole = []
        for row in range(GRID):
            for column in range(GRID):
                patch = weak.valid[i, row * side : (row + 1) * side, column * side : (column + 1) * side]
                if all(bool(pixel) for pixel in patch.flatten()):
                    whole.append((float(plan.hardness[i, row, column]), row, column))
        count = Fraction("0.7") * Fraction(6, 10) * len(whole)
        count = count.numerator // count.denominator
        assert len(whole) == [8, 8, 16][i]
        assert int(plan.shielded[i].sum()) == count == [3, 3, 6][i]
        hardest = {(row, column) for _, row, column in sorted(whole, reverse=True)[:count]}
        if shield == "hard":
            assert {tuple(place) for place in plan.shielded[i].nonzero().tolist()} == hardest
        if contrast_on == "hardest":
            kept = {place for place in hardest if bool(plan.keep_mask[i][place])}
            assert {tuple(place) for place in plan.contrasted[i].nonzero().tolist()} == kept


def test_a_share_of_the_valid_patches_is_one_of_all_without_padding():
    engines = make_engine(7), make_engine(7)
    views = [augment(engine, shield_share_of=of)[1] for engine, of in zip(engines, ("all", "valid"), strict=True)]
    assert all(torch.equal(getattr(views[0], name), getattr(views[1], name)) for name in ("image", "target", "weight"))


def test_the_weak_view_is_kept_as_it_was():
    engine = make_engine()
    before = engine.state.step.weak["unlabeled"].image.clone()
    weak, view = augment(engine, cut_ratio=(0.5, 0.5))
    assert torch.equal(weak.image, before)
    assert not torch.equal(view.image, before)


def test_cutting_nothing_is_the_identity_but_for_the_weight():
    engine = make_engine()
    weak, view = augment(engine, cut_ratio=(0, 0), threshold=0.8)
    assert torch.equal(view.image, weak.image)
    assert torch.equal(view.target, weak.target)
    assert torch.equal(view.valid, weak.valid)
    assert torch.equal(view.weight, (second_look(weak.image).amax(dim=1) >= 0.8).float())


def test_confidence_of_the_first_answer():
    engine = make_engine()
    probs = engine.state.step.teacher_probs
    _, view = augment(engine, filter_on="weak", threshold=0.9)
    keep = engine.state.step.patches.keep_mask
    assert torch.equal(view.weight, mix_patches((probs.amax(dim=1) >= 0.9).float(), keep))
    expected = second_look(view.image).argmax(dim=1)
    assert torch.equal(engine.state.step.patches.second_label, expected)  # the contrast still needs Y


def unasked(image: Tensor) -> Tensor:
    raise AssertionError("the teacher was asked a second time")


@pytest.mark.parametrize("arguments", [{}, {"filter_by": "entropy"}, {"cut": "box", "shield": "none"}])
def test_a_second_answer_that_nothing_needs_is_not_made(arguments):
    asked, spared = make_engine(padded=True), make_engine(padded=True)
    spared.network.projector, spared.teacher_probabilities = None, unasked  # no contrast
    first, second = (augment(engine, filter_on="weak", **arguments)[1] for engine in (asked, spared))
    for name in ("image", "target", "weight", "valid"):
        assert torch.equal(getattr(first, name), getattr(second, name))
    plans = [engine.state.step.patches for engine in (asked, spared)]
    assert torch.equal(plans[0].confidence, plans[1].confidence)
    assert plans[1].second_label is None
    scalars = [set(engine.state.step.scalars) for engine in (asked, spared)]
    assert scalars[0] - scalars[1] == {"pseudo_label_agreement"}


@pytest.mark.parametrize(
    "arguments",
    [{}, {"filter_on": "weak", "also_require_agreement": True}, {"filter_on": "mixed", "filter_by": "entropy"}],
)
def test_a_second_answer_that_the_weight_needs_is_made_without_contrast(arguments):
    with_contrast, without = make_engine(), make_engine()
    without.network.projector = None
    first, second = (augment(engine, threshold=0.6, **arguments)[1] for engine in (with_contrast, without))
    assert torch.equal(first.weight, second.weight)
    assert without.state.step.patches.second_label is not None


def test_threshold_zero_keeps_all_pixels():
    assert augment(make_engine(), threshold=0.0)[1].weight.min() == 1


def test_a_pixel_exactly_at_the_threshold_is_kept():
    engine = make_engine()
    engine.teacher_probabilities = lambda image: torch.full((BATCH, 2, SIZE, SIZE), 0.5)
    assert augment(engine, threshold=0.5)[1].weight.min() == 1


def test_a_box_instead_of_patches():
    """Plain CutMix (Table 3a): one rectangle, nothing shielded, image, label and valid area mixed alike."""
    engine = make_engine(padded=True)
    weak, view = augment(engine, cut="box", shield="none", cut_ratio=(0.2, 0.4))
    plan = engine.state.step.patches
    assert not plan.shielded.any()
    assert plan.keep_mask.shape == (BATCH, SIZE, SIZE)
    keep = plan.keep_mask
    assert torch.equal(view.image, torch.where(keep.unsqueeze(1), weak.image, weak.image.roll(-1, 0)))
    assert torch.equal(view.target, torch.where(keep, weak.target, weak.target.roll(-1, 0)))
    assert torch.equal(view.valid, torch.where(keep, weak.valid, weak.valid.roll(-1, 0)))
    for cut in ~keep:
        assert 0 < cut.float().mean() < 0.6
        assert cut.sum() == cut.any(dim=0).sum() * cut.any(dim=1).sum()  # a rectangle


@pytest.mark.parametrize("threshold", [0.6, 0.9])
def test_cutmix_with_confidence_follows_its_definition(reference, threshold):
    """The overlay `cutmix`: a box of half the image from the next one; labels and what is confident go with it."""
    engine = make_engine()
    probs = engine.state.step.teacher_probs.numpy()
    weak, view = augment(
        engine, cut="box", shield="none", cut_ratio=(0.5, 0.5), filter_on="weak", threshold=float(threshold)
    )
    keep = engine.state.step.patches.keep_mask.numpy()  # (B, H, W): a patch is a pixel
    np.testing.assert_array_equal(view.image.numpy(), reference.mix(weak.image.numpy(), keep))
    np.testing.assert_array_equal(view.target.numpy(), reference.mix(probs.argmax(axis=1), keep))
    confident = reference.confidence_mask(probs, np.float32(threshold))
    assert 0 < confident.mean() < 1
    np.testing.assert_array_equal(view.weight.numpy(), reference.mix(confident, keep))
    for cut in ~keep:
        assert cut.sum() == cut.any(axis=0).sum() * cut.any(axis=1).sum()  # a rectangle
        assert abs(cut.mean() - 0.5) < 0.1


def test_shield_modes():
    hard, easy, random, none = (make_engine() for _ in range(4))
    for engine, mode in ((hard, "hard"), (easy, "easy"), (random, "random"), (none, "none")):
        augment(engine, shield=mode, shield_ratio=0.5)  # 4 of 16
    plans = [engine.state.step.patches for engine in (hard, easy, random, none)]
    assert [plan.shielded.sum(dim=(1, 2)).tolist() for plan in plans] == [[4] * BATCH] * 3 + [[0] * BATCH]
    hardness = plans[0].hardness
    for i in range(BATCH):
        assert hardness[i][plans[0].shielded[i]].min() > hardness[i][~plans[0].shielded[i]].max()
        assert hardness[i][plans[1].shielded[i]].max() < hardness[i][~plans[1].shielded[i]].min()
    assert not torch.equal(plans[2].shielded, plans[0].shielded)
    assert not any((plan.shielded & ~plan.keep_mask).any() for plan in plans)


def test_the_shield_grows_with_the_epoch():
    counts = []
    for epoch in range(11):
        engine = make_engine(epoch)
        augment(engine, shield_ratio=0.5)
        counts.append(int(engine.state.step.patches.shielded[0].sum()))
    assert counts == [0, 0, 1, 2, 3, 4, 4, 5, 6, 7, 8]  # 0.8 a epoch


def test_the_engines_generator_decides_alone():
    first, again, other = make_engine(), make_engine(), make_engine()
    other.generator.manual_seed(99)
    views = [augment(engine)[1] for engine in (first, again, other)]
    assert torch.equal(views[0].image, views[1].image)
    assert not torch.equal(views[0].image, views[2].image)


def test_the_share_dropped_by_entropy():
    """filter_by: entropy keeps the surest pixels, all but `drop_percent` (1 - t) percent; padding does not count."""
    engine = make_engine(padded=True)
    engine.progress = 0.25
    _, view = augment(engine, filter_by="entropy", drop_percent=40.0, threshold=0.9)
    inside = view.valid
    kept = view.weight[inside].bool()
    assert kept.float().mean().item() == pytest.approx(0.7, abs=2 / int(inside.sum()))
    confidence = engine.state.step.patches.confidence[inside]
    assert confidence[kept].min() >= confidence[~kept].max()


def test_the_share_dropped_by_the_entropy_of_the_first_answer():
    engine = make_engine()
    engine.progress = 0.0
    first = engine.state.step.teacher_probs.amax(dim=1)
    _, view = augment(engine, filter_by="entropy", filter_on="weak")
    mixed = mix_patches(first, engine.state.step.patches.keep_mask)
    kept = view.weight.bool()
    assert kept.float().mean().item() == pytest.approx(0.8, abs=0.01)
    assert mixed[kept].min() >= mixed[~kept].max()


def test_agreement_on_top_of_confidence():
    plain, strict = make_engine(), make_engine()
    first, second = augment(plain, threshold=0.6)[1], augment(strict, threshold=0.6, also_require_agreement=True)[1]
    plan = strict.state.step.patches
    assert torch.equal(second.weight, first.weight * (plan.pseudo_label == plan.second_label))
    assert second.weight.sum() < first.weight.sum()


@pytest.mark.parametrize("shield", ["hard", "easy", "random", "none"])
@pytest.mark.parametrize("padded", [False, True])
def test_contrast_on_the_hardest_patches_that_were_not_cut(reference, shield, padded):
    engine = make_engine(5, padded=padded)
    augment(engine, shield=shield, shield_ratio=1.0, contrast_on="hardest", cut_ratio=(0.3, 0.5))  # k = 8 of 16
    step, plan = engine.state.step, engine.state.step.patches
    inside = patch_all(step.weak["unlabeled"].valid, GRID)
    hardest = reference.hardest(torch.where(inside, plan.hardness, -1.0).numpy(), 8) & inside.numpy()
    np.testing.assert_array_equal(plan.contrasted.numpy(), hardest & plan.keep_mask.numpy())
    assert torch.equal(plan.contrasted, plan.shielded) == (shield == "hard")
    assert plan.contrasted.any()
    assert float(step.scalars["contrasted_share"]) == pytest.approx(plan.contrasted.float().mean().item())
    # there the mixed view is the image's own
    own = expand_patches(plan.contrasted, (SIZE, SIZE))
    assert torch.equal(step.views["unlabeled"].image[:, 0][own], step.weak["unlabeled"].image[:, 0][own])


def test_contrast_on_the_hardest_patches_beside_a_box():
    engine = make_engine(10)
    augment(engine, cut="box", shield="none", cut_ratio=(0.3, 0.3), shield_ratio=1.0, contrast_on="hardest")
    plan = engine.state.step.patches
    assert torch.equal(plan.contrasted, patch_all(plan.keep_mask, GRID))  # k is all patches
    assert 0 < plan.contrasted.sum() < plan.contrasted.numel()


def test_contrast_on_the_hardest_changes_nothing_of_the_augmentation():
    views = [augment(make_engine(), shield="none", contrast_on=on)[1] for on in ("shielded", "hardest")]
    assert torch.equal(views[0].image, views[1].image)
    assert torch.equal(views[0].weight, views[1].weight)


def test_the_clocks_of_the_shield():
    def shielded(clock: str, epoch: int, iteration: int) -> int:
        engine = make_engine(epoch)
        engine.state.iteration, engine.state.epoch_length, engine.pretrain_epochs = iteration, 100, 2
        augment(engine, shield_ratio=0.5, k_clock=clock)
        return int(engine.state.step.patches.shielded[0].sum())

    # k of 16 patches at the first, a middle and the last step of epochs 3 to 10; 2 epochs were labeled-only
    places = [(3, 201), (6, 550), (10, 1000)]
    assert [shielded("epoch", *place) for place in places] == [2, 4, 8]  # 8 epoch / 10
    assert [shielded("iter", *place) for place in places] == [1, 4, 8]  # 8 iteration / 1000
    assert [shielded("after_pretrain", *place) for place in places] == [1, 4, 8]  # 8 (epoch - 2) / 8
    assert [shielded(clock, 8, 701) for clock in ("epoch", "iter", "after_pretrain")] == [6, 5, 6]


class BatchNormTeacher(nn.Module):
    """Probabilities from the picture itself, normalised by the batch in train mode."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(1)
        self.projector = None

    def forward_features(self, image: Tensor) -> tuple[Tensor, None]:
        return torch.cat([torch.zeros_like(image), self.norm(image)], dim=1), None


@pytest.mark.parametrize("teacher_bn", ["batch", "batch_update"])
def test_the_second_answer_with_statistics_of_the_batch(teacher_bn):
    """Those of labeled and mixed images together, as in U2PL; on request they enter the running ones."""
    engine = make_engine()
    step = engine.state.step
    labeled = step.views["unlabeled"].image * 3 + 1
    step.views["labeled"] = View(labeled, *(getattr(step.views["unlabeled"], n) for n in ("target", "weight", "valid")))
    engine.teacher, engine.autocast = BatchNormTeacher().eval(), contextlib.nullcontext
    _, view = augment(engine, teacher_bn=teacher_bn)
    both = torch.cat([labeled, view.image])
    score = (view.image[:, 0] - both.mean()) / (both.var(unbiased=False) + 1e-5).sqrt()
    plan = step.patches
    torch.testing.assert_close(plan.confidence, score.abs().sigmoid())
    assert torch.equal(plan.second_label, (score > 0).long())
    running = engine.teacher.norm.running_mean.item()
    assert running == pytest.approx(0.1 * both.mean().item() if teacher_bn == "batch_update" else 0.0)
    assert not engine.teacher.training


@pytest.mark.parametrize("missing", ["view", "probs"])
def test_labeled_only_steps_are_left_alone(missing):
    engine = make_engine()
    step = engine.state.step
    if missing == "view":
        step.views = {"labeled": step.views["unlabeled"]}
    else:
        step.teacher_probs = None
    views = dict(step.views)
    AdaptivePatchAugmentation(GRID)(engine)
    assert step.views == views
    assert step.patches is None
    assert step.scalars == {}


def test_what_is_logged():
    engine = make_engine(5, padded=True)
    _, view = augment(engine, shield_ratio=0.5, threshold=0.7)
    step, plan = engine.state.step, engine.state.step.patches
    scalars = {name: float(value) for name, value in step.scalars.items()}
    valid = view.valid
    assert scalars == pytest.approx(
        {
            "hardness": float(plan.hardness[patch_all(valid, GRID)].mean()),
            "shielded_share": 4 / 16,
            "kept_patches": float(plan.keep_mask.float().mean()),
            "confident_pixels": float(view.weight[valid].mean()),
            "pseudo_label_agreement": float((plan.pseudo_label == plan.second_label)[valid].float().mean()),
            "pseudo_label_lesion": float(view.target[valid].float().mean()),
        },
        rel=1e-5,
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"threshold": 1.5}, "threshold is 1.5, expected a value in"),
        ({"shield": "hardest"}, "shield is 'hardest'"),
        ({"filter_on": "strong"}, "filter_on is 'strong'"),
        ({"cut_ratio": (0.5, 0.1)}, "cut_ratio is"),
        ({"cut": "circle"}, "cut is 'circle'"),
        ({"cut": "box"}, "a rectangle cannot go around patches"),
        ({"shield_ratio": 30}, "shield_ratio is 30"),
        ({"filter_by": "rank"}, "filter_by is 'rank', expected one of confidence, entropy"),
        ({"drop_percent": 101}, "drop_percent is 101"),
        ({"shield_share_of": "some"}, "shield_share_of is 'some', expected one of all, valid"),
        ({"contrast_on": "easiest"}, "contrast_on is 'easiest'"),
        ({"k_clock": "step"}, "k_clock is 'step'"),
        ({"teacher_bn": "train"}, "teacher_bn is 'train'"),
    ],
)
def test_bad_arguments_are_refused_before_any_work(arguments, message):
    with pytest.raises(ValueError, match=message):
        AdaptivePatchAugmentation(GRID, **arguments)


def test_a_grid_that_does_not_divide_the_image_is_refused():
    with pytest.raises(ValueError, match="grid_size 5 does not divide"):
        AdaptivePatchAugmentation(5)(make_engine())


def test_in_a_training(tiny):
    """Seen from the trainer: the student is trained on what the plan says."""
    run = tiny.build()
    run.trainer.run()
    for epoch, step in zip(run.recorder.epochs, run.recorder.steps, strict=True):
        if epoch == 1:
            assert step.patches is None
            assert list(step.views) == ["labeled"]
            continue
        plan, weak, view = step.patches, step.weak["unlabeled"], step.views["unlabeled"]
        assert torch.equal(view.image, mix_patches(weak.image, plan.keep_mask))
        assert torch.equal(view.target, mix_patches(weak.target, plan.keep_mask))
        assert torch.equal(view.valid, mix_patches(weak.valid, plan.keep_mask))
        assert not (plan.shielded & ~plan.keep_mask).any()
        assert not (plan.shielded & ~patch_all(weak.valid, tiny.GRID)).any()
        assert plan.shielded.sum(dim=(1, 2)).max() <= 16 * epoch // 3
