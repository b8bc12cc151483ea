"""The contrast of the authors' release against its transcription, and as a handler."""

from __future__ import annotations

import math
import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from phnet_monai.engines import PatchPlan
from phnet_monai.handlers import ReleaseContrast
from phnet_monai.handlers.phnet_release import mixed_hardness
from phnet_monai.losses import MixedPatchContrastiveLoss
from phnet_monai.losses.mixed_patch_contrast import PatchFeatures, mixed_patches, patch_prototypes
from phnet_monai.transforms import expand_patches, mix_patches

BATCH, SIZE, GRID, DEPTH = 2, 16, 4, 6


@pytest.fixture(scope="session")
def literal() -> SimpleNamespace:
    path = Path(__file__).parents[1] / "reference" / "phnet_release_reference.py"
    return SimpleNamespace(**runpy.run_path(str(path)))


def make_batch(seed: int, padded: bool = False) -> PatchFeatures:
    """Blocks of 3 x 3 pixels of one class, so that some patches of 4 x 4 are mixed and some are not."""
    generator = torch.Generator().manual_seed(seed)
    blocks = torch.randint(2, (BATCH, 6, 6), generator=generator)
    labels = blocks.repeat_interleave(3, 1).repeat_interleave(3, 2)[:, :SIZE, :SIZE]
    labels[:, 8:, 8:] = 1  # four pure patches
    valid = torch.ones(BATCH, SIZE, SIZE, dtype=torch.bool)
    if padded:
        valid[0, :, :6] = False
    return PatchFeatures(
        embedding=torch.randn(BATCH, DEPTH, SIZE // 4, SIZE // 4, generator=generator),
        labels=labels,
        valid=valid,
        hardness=torch.rand(BATCH, GRID, GRID, generator=generator),
    )


def arrays(batch: PatchFeatures) -> list:
    full = F.interpolate(batch.embedding, scale_factor=4, mode="bilinear", align_corners=False)
    return [full.double().numpy(), batch.labels.numpy(), batch.valid.numpy(), batch.hardness.numpy()]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("padded", [False, True])
def test_the_loss_equals_the_transcription(literal, seed, padded):
    unlabeled, labeled = make_batch(seed, padded), make_batch(seed + 100, padded)
    value, anchors = MixedPatchContrastiveLoss(0.3)(unlabeled, labeled)
    expected, count = literal.contrast(*arrays(unlabeled), *arrays(labeled), tau=0.3)
    assert anchors == count > 0
    assert value.item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("padded", [False, True])
def test_mixed_patches_hold_both_classes_and_no_padding(literal, padded):
    batch = make_batch(0, padded)
    found = mixed_patches(batch.labels, batch.valid, GRID)
    expected = literal.mixed(batch.labels.numpy(), batch.valid.numpy(), GRID)
    assert [tuple(place) for place in found.nonzero().tolist()] == expected
    assert 0 < len(expected) < BATCH * GRID**2


def test_prototypes_by_hand():
    features = torch.tensor([[2.0, 0.0], [0.0, 5.0], [0.0, 1.0], [3.0, 0.0], [1.0, 1.0]])
    lesion = torch.tensor([False, True, True, False, True])
    patch = torch.tensor([7, 7, 7, 9, 4])
    prototypes, numbers = patch_prototypes(features, lesion, patch)
    assert numbers.tolist() == [7]  # 9 has no lesion, 4 no background
    assert prototypes.tolist() == [[[1, 0], [0, 1]]]


def separable(sign: float = 1.0) -> PatchFeatures:
    """Lesion in the middle; the one feature is `sign` times +1 in background, -1 in lesion. Four patches, all mixed."""
    labels = torch.zeros(BATCH, SIZE, SIZE, dtype=torch.long)
    labels[:, :, 4:12] = 1
    embedding = sign * torch.tensor([1.0, -1.0, -1.0, 1.0]).expand(BATCH, 1, 4, 4)  # changes its sign between pixels
    valid = torch.ones(BATCH, SIZE, SIZE, dtype=torch.bool)
    return PatchFeatures(embedding.clone(), labels, valid, torch.rand(BATCH, 2, 2))


def test_the_loss_by_hand():
    """Every pixel agrees: cosines 1 and -1, so log(1 + e^(-2 / tau))."""
    value, anchors = MixedPatchContrastiveLoss(0.5)(separable(), separable())
    assert anchors == BATCH * SIZE**2
    assert value.item() == pytest.approx(math.log(1 + math.exp(-4)), rel=1e-5)


def test_the_labeled_patch_of_the_closest_hardness_is_asked():
    unlabeled, labeled = make_batch(0), make_batch(1)
    changed = []
    for hardness in (0.0, 1.0):
        unlabeled.hardness.fill_(hardness)
        hard = labeled.hardness.flatten()
        mixed = mixed_patches(labeled.labels, labeled.valid, GRID).flatten().nonzero().squeeze(1)
        chosen = mixed[hard[mixed].argmax() if hardness else hard[mixed].argmin()]
        alone = PatchFeatures(labeled.embedding, labeled.labels, labeled.valid.clone(), labeled.hardness)
        others = torch.ones(BATCH * GRID**2, dtype=torch.bool)
        others[chosen] = False
        alone.valid &= ~expand_patches(others.view(BATCH, GRID, GRID), (SIZE, SIZE))
        values = [MixedPatchContrastiveLoss()(unlabeled, batch)[0] for batch in (labeled, alone)]
        torch.testing.assert_close(*values)
        changed.append(values[0])
    assert changed[0] != changed[1]


@pytest.mark.parametrize("case", ["no mixed unlabeled patch", "no mixed labeled patch", "all padding", "no agreement"])
def test_steps_without_anchors_are_zero_with_a_gradient(case):
    unlabeled, labeled = make_batch(0), make_batch(1)
    unlabeled.embedding.requires_grad_()
    if case == "no mixed unlabeled patch":
        unlabeled.labels.fill_(1)
    elif case == "no mixed labeled patch":
        labeled.labels.fill_(0)
    elif case == "all padding":
        labeled.valid &= False
    else:  # background looks like labeled lesion and the other way round
        unlabeled, labeled = separable(-1.0), separable()
        unlabeled.embedding.requires_grad_()
    value, anchors = MixedPatchContrastiveLoss()(unlabeled, labeled)
    assert (value.item(), anchors) == (0, 0)
    value.backward()
    assert (unlabeled.embedding.grad == 0).all()


def test_the_gradient_goes_to_the_student_alone():
    unlabeled, labeled = make_batch(0), make_batch(1)
    unlabeled.embedding.requires_grad_()
    labeled.embedding.requires_grad_()
    MixedPatchContrastiveLoss()(unlabeled, labeled)[0].backward()
    assert (unlabeled.embedding.grad != 0).any()
    assert labeled.embedding.grad is None


def test_sampling_is_bounded_and_the_generator_decides():
    values = []
    for seed in (1, 1, 2):
        loss = MixedPatchContrastiveLoss(max_pixels=60)
        value, anchors = loss(make_batch(0), make_batch(1), torch.Generator().manual_seed(seed))
        assert 0 < anchors <= 60
        values.append(value)
    assert torch.equal(values[0], values[1])
    assert not torch.equal(values[0], values[2])


@pytest.mark.parametrize(
    ("arguments", "message"), [({"temperature": 0}, "temperature 0"), ({"max_pixels": 0}, "max_pixels 0")]
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        MixedPatchContrastiveLoss(**arguments)
    with pytest.raises(ValueError, match="weight is -1"):
        ReleaseContrast(MixedPatchContrastiveLoss(), weight=-1)


@pytest.mark.parametrize("box", [False, True])
def test_pasted_patches_bring_their_hardness(box):
    hardness, label = torch.rand(BATCH, GRID, GRID), torch.zeros(BATCH, SIZE, SIZE, dtype=torch.long)
    side = SIZE if box else GRID
    keep = torch.ones(BATCH, side, side, dtype=torch.bool)
    keep[0, : side // 2] = False
    plan = PatchPlan(hardness, hardness > 2, keep, label, label, hardness)
    expected = hardness.clone()
    expected[0, : GRID // 2] = hardness[1, : GRID // 2]
    torch.testing.assert_close(mixed_hardness(plan), expected)


# trainings


def test_in_a_training(tiny):
    handler = ReleaseContrast(MixedPatchContrastiveLoss(), weight=0.5)
    run = tiny.build(hpc=False, handlers=(handler,), teacher_projector=True)
    before = run.student.projector[-1].weight.detach().clone()
    run.trainer.run()
    outputs, steps = run.recorder.outputs, run.recorder.steps
    assert all(set(step.losses) == {"labeled"} for step in steps[:4])
    for output, step in zip(outputs[4:], steps[4:], strict=True):
        assert set(step.losses) == {"labeled", "unlabeled", "contrast"}
        assert (output["loss_contrast"] > 0) == (output["contrast_anchors"] > 0)
        expected = output["loss_labeled"] + output["loss_unlabeled"] + 0.5 * output["loss_contrast"]
        assert output["loss"] == pytest.approx(expected, rel=1e-5)
    assert any(output["contrast_anchors"] > 0 for output in outputs[4:])
    after = run.student.projector[-1].weight.detach()
    assert (after / before).std() > 1e-3  # more than weight decay
    assert not run.teacher.training


def test_the_handler_hands_over_labels_and_the_mixed_view(tiny):
    asked: list[tuple[PatchFeatures, PatchFeatures]] = []

    class Spy(MixedPatchContrastiveLoss):
        def forward(self, unlabeled, labeled, generator=None) -> tuple[Tensor, int]:
            asked.append((unlabeled, labeled))
            return super().forward(unlabeled, labeled, generator)

    run = tiny.build(hpc=False, handlers=(ReleaseContrast(Spy()),), teacher_projector=True)
    run.trainer.run()
    step, (unlabeled, labeled) = run.recorder.steps[-1], asked[-1]
    plan, weak = step.patches, step.weak["unlabeled"]
    assert torch.equal(unlabeled.labels, mix_patches(weak.target, plan.keep_mask))
    assert torch.equal(unlabeled.valid, mix_patches(weak.valid, plan.keep_mask))
    assert unlabeled.embedding is step.outputs["unlabeled"].embedding
    assert torch.equal(labeled.labels, step.views["labeled"].target)
    assert torch.equal(labeled.valid, step.views["labeled"].valid)
    assert not labeled.embedding.requires_grad
    assert labeled.hardness.shape == plan.hardness.shape


def test_networks_without_projector_are_refused(tiny):
    handler = ReleaseContrast(MixedPatchContrastiveLoss())
    with pytest.raises(ValueError, match="the teacher has no projector; set .* `teacher#projector` to true"):
        tiny.build(hpc=False, handlers=(handler,))
    with pytest.raises(ValueError, match="the network has no projector"):
        tiny.build(hpc=False, handlers=(handler,), network={"embedding_size": None})
