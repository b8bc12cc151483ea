"""Hard-patch contrast: which pixels it looks at, and its place in the training."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from phnet_monai.engines import PatchPlan, Step, View
from phnet_monai.engines.step import Output
from phnet_monai.handlers import HardPatchContrast
from phnet_monai.losses import HardPatchContrastiveLoss, MemoryBank
from phnet_monai.transforms import expand_patches

BATCH, SIZE, GRID, DEPTH = 2, 16, 4, 6


class Spy(nn.Module):
    """Stands for the loss; keeps what it was asked."""

    def forward(self, embedding, labels, reliable, generator):
        self.asked = (embedding, labels, reliable, generator)
        return embedding.sum(), 2


def make_engine(shielded: Tensor | None = None, seed: int = 0, embedding: bool = True) -> SimpleNamespace:
    generator = torch.Generator().manual_seed(seed)
    first, second = (torch.randint(2, (BATCH, SIZE, SIZE), generator=generator) for _ in range(2))
    valid = torch.rand(BATCH, SIZE, SIZE, generator=generator) < 0.9
    weight = (torch.rand(BATCH, SIZE, SIZE, generator=generator) < 0.5).float()
    if shielded is None:
        shielded = torch.rand(BATCH, GRID, GRID, generator=generator) < 0.5
    features = torch.randn(BATCH, DEPTH, SIZE // 4, SIZE // 4, generator=generator) if embedding else None
    plan = PatchPlan(torch.rand(BATCH, GRID, GRID), shielded, shielded, first, second, torch.ones_like(weight))
    view = View(torch.rand(BATCH, 1, SIZE, SIZE), first, weight, valid)
    step = Step(
        views={"unlabeled": view},
        outputs={"unlabeled": Output(torch.zeros(BATCH, 2, SIZE, SIZE), features)},
        patches=plan,
    )
    return SimpleNamespace(state=SimpleNamespace(step=step), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("confident_only", [False, True])
def test_reliable_pixels(confident_only):
    """In a shielded patch, valid, and y = Y (Eq. 10); on request also confident."""
    engine, spy = make_engine(), Spy()
    HardPatchContrast(spy, confident_only=confident_only)(engine)
    step = engine.state.step
    plan, view = step.patches, step.views["unlabeled"]
    embedding, labels, reliable, generator = spy.asked
    for i in range(BATCH):
        for y in range(SIZE):
            for x in range(SIZE):
                expected = (
                    plan.shielded[i, y // 4, x // 4]
                    and view.valid[i, y, x]
                    and plan.pseudo_label[i, y, x] == plan.second_label[i, y, x]
                    and (view.weight[i, y, x] > 0 or not confident_only)
                )
                assert bool(reliable[i, y, x]) == bool(expected)
    assert embedding is step.outputs["unlabeled"].embedding
    assert torch.equal(labels, plan.pseudo_label)
    assert generator is engine.generator


def test_patches_chosen_apart_from_the_shield():
    """Where APA names patches for the contrast, they count instead of the shielded ones."""
    engine, spy = make_engine(), Spy()
    plan = engine.state.step.patches
    plan.contrasted = ~plan.shielded
    HardPatchContrast(spy)(engine)
    reliable = spy.asked[2]
    assert reliable.any()
    assert not (reliable & expand_patches(plan.shielded, (SIZE, SIZE))).any()


def test_the_term_and_its_weight():
    engine, spy = make_engine(), Spy()
    HardPatchContrast(spy, weight=0.25)(engine)
    step = engine.state.step
    assert torch.equal(step.losses["contrast"], spy.asked[0].sum())
    torch.testing.assert_close(step.total_loss(), 0.25 * spy.asked[0].sum())
    assert step.scalars["contrast_classes"] == 2


def test_zero_while_no_patch_is_shielded():
    engine = make_engine(shielded=torch.zeros(BATCH, GRID, GRID, dtype=torch.bool))
    bank = MemoryBank(2, DEPTH, 32)
    HardPatchContrast(HardPatchContrastiveLoss(bank=bank))(engine)
    step = engine.state.step
    assert step.losses["contrast"].item() == 0
    assert step.scalars["contrast_classes"] == 0
    assert len(bank) == 0


def test_labeled_only_steps_are_left_alone():
    engine = make_engine()
    engine.state.step.patches = None
    HardPatchContrast(Spy())(engine)
    assert engine.state.step.losses == {}


def test_a_student_without_projector_is_refused():
    with pytest.raises(ValueError, match="the student has no projector; set its embedding_size"):
        HardPatchContrast(Spy())(make_engine(embedding=False))


def test_a_negative_weight_is_refused():
    with pytest.raises(ValueError, match="weight is -1, expected >= 0"):
        HardPatchContrast(Spy(), weight=-1)


def test_the_state_is_that_of_the_bank():
    handler, copy = (HardPatchContrast(HardPatchContrastiveLoss(bank=MemoryBank(2, DEPTH, 32))) for _ in range(2))
    handler(make_engine())
    copy.load_state_dict(handler.state_dict())
    assert len(copy.loss.bank) == len(handler.loss.bank) > 0
    assert torch.equal(copy.loss.bank.features, handler.loss.bank.features)


def test_in_a_training(tiny):
    run = tiny.build()
    run.trainer.run()
    terms = [output.get("loss_contrast") for output in run.recorder.outputs]
    assert terms[:4] == [None] * 4  # the labeled-only epoch
    assert all(term is not None for term in terms[4:])
    active = [step for step in run.recorder.steps if step.scalars.get("contrast_classes") == 2]
    assert active  # both classes were found in shielded patches
    assert all(step.losses["contrast"] > 0 for step in active)
    assert len(run.bank) > 0
    for step in active:
        reliable = expand_patches(step.patches.shielded, (tiny.SIZE, tiny.SIZE)) & step.views["unlabeled"].valid
        assert reliable.any()


def test_zero_in_a_training_while_k_is_zero(tiny):
    run = tiny.build(apa={"shield_ratio": 0.05})  # 0.05 * 16 < 1
    run.trainer.run()
    assert [output["loss_contrast"] for output in run.recorder.outputs[4:]] == [0.0] * 8
    assert len(run.bank) == 0


def test_a_training_without_projector_says_so(tiny):
    run = tiny.build(network={"embedding_size": None})
    with pytest.raises(ValueError, match="the student has no projector"):
        run.trainer.run()


def test_only_the_contrast_trains_the_projector(tiny):
    """Without it the projector gets no gradient at all, so it stays as it was."""
    without, with_contrast = tiny.build(hpc=False), tiny.build()
    for run, moves in ((without, False), (with_contrast, True)):
        before = run.student.projector[-1].weight.detach().clone()
        run.trainer.run()
        assert bool((run.student.projector[-1].weight != before).any()) is moves
