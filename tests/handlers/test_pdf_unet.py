"""PDF-UNet's second and third step: a frozen labeler, and training on the masks that it gives."""

from __future__ import annotations

import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from phnet_monai.engines import Step, View
from phnet_monai.engines.step import Output
from phnet_monai.handlers import PseudoMaskGenerator, load_labeler
from phnet_monai.networks import CheckpointError

STEPS = 4  # an epoch of `tiny.build`


@pytest.fixture(scope="module")
def literal() -> SimpleNamespace:
    return SimpleNamespace(**runpy.run_path(str(Path(__file__).parents[1] / "reference" / "bcp_reference.py")))


@pytest.fixture
def labeler_path(tiny, tmp_path) -> Path:
    """A checkpoint of another network than the student of these tests."""
    run = tiny.build(folder=tmp_path, init_seed=8, network={"head_channels": 4}, max_epochs=2)
    run.trainer.run()
    return tmp_path / "last.pt"


def make_engine(padded: bool = True) -> SimpleNamespace:
    generator = torch.Generator().manual_seed(0)
    valid = torch.ones(2, 6, 7, dtype=torch.bool)
    if padded:
        valid[0, :, :3] = False
    target = torch.randint(2, (2, 6, 7), generator=generator)
    view = View(torch.rand(2, 1, 6, 7, generator=generator), target, torch.ones(2, 6, 7), valid)
    step = Step(views={"unlabeled": view}, weak={"unlabeled": view})
    logits = 2 * torch.randn(2, 2, 6, 7, generator=generator)
    step.outputs["unlabeled"] = Output(logits.requires_grad_(), None)
    return SimpleNamespace(state=SimpleNamespace(step=step))


@pytest.mark.parametrize("padded", [False, True])
def test_the_term_equals_its_transcription(literal, padded):
    engine = make_engine(padded)
    step = engine.state.step
    PseudoMaskGenerator(weight=0.7).add_loss(engine)
    view, logits = step.views["unlabeled"], step.outputs["unlabeled"].logits
    arguments = logits.detach().double().numpy(), view.target.numpy(), view.valid.double().numpy()
    expected = (literal.cross_entropy(*arguments) + literal.dice_loss(*arguments)) / 2
    assert step.losses["pseudo_masks"].item() == pytest.approx(expected, rel=1e-5)
    assert step.loss_weights == {"pseudo_masks": 0.7}
    step.total_loss().backward()
    outside = ~view.valid.unsqueeze(1).expand_as(logits)
    assert not logits.grad[outside].any()
    assert logits.grad[~outside].all()
    lesion = view.target[view.valid].float().mean()
    assert float(step.scalars["pseudo_label_lesion"]) == pytest.approx(lesion.item())


def test_the_frozen_labeler_labels_the_weak_views(tiny, labeler_path):
    labeler = load_labeler(labeler_path)
    before = tiny.weights(labeler)
    run = tiny.build(apa=False, hpc=False, teacher=labeler, train_handlers=[])
    PseudoMaskGenerator().attach(run.trainer)
    run.recorder.attach(run.trainer)
    run.trainer.run()
    assert all(set(step.losses) == {"labeled"} for step in run.recorder.steps[:STEPS])
    shares = []
    for step in run.recorder.steps[STEPS:]:
        assert set(step.losses) == {"labeled", "pseudo_masks"}  # no further cross-entropy
        view = step.views["unlabeled"]
        with torch.no_grad():
            expected = labeler(view.image).argmax(dim=1)
        assert torch.equal(view.target, expected)
        shares.append(float(expected.float().mean()))
    assert min(shares) < 1
    assert max(shares) > 0
    assert tiny.equal(tiny.weights(labeler), before)


def test_a_labeler_of_another_size_is_refused_at_the_first_step(tiny, labeler_path):
    content = torch.load(labeler_path, weights_only=True)
    size = content["info"]["input"]["size"]
    content["info"]["input"]["size"] = size // 2
    torch.save(content, labeler_path)
    run = tiny.build(apa=False, hpc=False, teacher=load_labeler(labeler_path), train_handlers=[])
    PseudoMaskGenerator().attach(run.trainer)
    with pytest.raises(ValueError, match=f"labeler_init was trained at {size // 2} x .*, this training has {size} x"):
        run.trainer.run()


def test_a_run_goes_on_with_its_own_labeler_only(tiny, labeler_path, tmp_path):
    handler = PseudoMaskGenerator()
    tiny.build(apa=False, hpc=False, teacher=load_labeler(labeler_path), train_handlers=[handler])
    state = handler.state_dict()
    torch.save(state, tmp_path / "state.pt")
    handler.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    handler.load_state_dict({})  # of an older version
    other = load_labeler(labeler_path)
    with torch.no_grad():
        next(other.parameters()).flatten()[0] += 1e-3
    tiny.build(apa=False, hpc=False, teacher=other, train_handlers=[handler])
    with pytest.raises(ValueError, match="labeler_init holds another network than the one that this run began with"):
        handler.load_state_dict(state)


def test_the_labeler_is_the_checkpoints_teacher_and_frozen(tiny, labeler_path):
    labeler = load_labeler(labeler_path)
    saved = torch.load(labeler_path, weights_only=True)
    assert tiny.equal(tiny.weights(labeler), saved["teacher"])
    assert not tiny.equal(tiny.weights(labeler), {name: saved["student"][name] for name in saved["teacher"]})
    assert not labeler.training
    assert not any(parameter.requires_grad for parameter in labeler.parameters())
    student = load_labeler(labeler_path, which="student")
    assert tiny.equal(tiny.weights(student), {name: saved["student"][name] for name in saved["teacher"]})


def test_a_missing_labeler_is_refused_before_any_work(tmp_path):
    with pytest.raises(ValueError, match="labeler_init is null, but this method needs a trained network"):
        load_labeler(None)
    with pytest.raises(FileNotFoundError, match=r"gone\.pt: no such checkpoint file"):
        load_labeler(tmp_path / "gone.pt")
    torch.save({"student": {"weight": torch.zeros(1)}}, tmp_path / "plain.pt")
    with pytest.raises(CheckpointError, match="has no 'info'"):
        load_labeler(tmp_path / "plain.pt")


def test_a_trainer_without_labeler_is_refused(tiny):
    with pytest.raises(ValueError, match="PseudoMaskGenerator: the trainer has no teacher"):
        tiny.build(teacher=None, train_handlers=[PseudoMaskGenerator()])


def test_a_negative_weight_is_refused():
    with pytest.raises(ValueError, match="PseudoMaskGenerator: weight is -1, expected >= 0"):
        PseudoMaskGenerator(weight=-1)
