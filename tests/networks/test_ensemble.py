"""Ensembles: the mean answer, scripted or not; from one checkpoint with two teachers, or from several checkpoints."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from phnet_monai.networks import CheckpointError, Ensemble, PHNet, export_state_dict, load_checkpoint, load_ensemble
from phnet_monai.networks.ensemble import Fitted
from phnet_monai.transforms import fit_batch, unfit_batch


class Constant(nn.Module):
    """The same logits for every pixel."""

    def __init__(self, *logits: float) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.tensor(logits))

    def forward(self, x: Tensor) -> Tensor:
        return self.logits.view(1, -1, 1, 1).expand(x.shape[0], -1, x.shape[2], x.shape[3])


def image(*size: int, seed: int = 0) -> Tensor:
    return torch.rand(1, 1, *(size or (32, 32)), generator=torch.Generator().manual_seed(seed))


def save(path: Path, network: nn.Module, size: int = 32, pad_value: float = 0.25, **more) -> Path:
    info = {"network": network.arguments, "input": {"size": size, "pad_value": pad_value}, "method": "m"}
    torch.save({"student": network.state_dict(), "info": info, **more}, path)
    return path


# --- the average


def test_probabilities_are_averaged():
    found = Ensemble([Constant(0.0, 0.0), Constant(0.0, 2.0)])(image())
    expected = (torch.tensor([0.5, 0.5]) + torch.tensor([0.0, 2.0]).softmax(0)) / 2
    torch.testing.assert_close(found.exp(), expected.view(1, 2, 1, 1).expand(1, 2, 32, 32))
    torch.testing.assert_close(found.softmax(dim=1), found.exp())  # logarithms of probabilities are logits


def test_logits_are_averaged():
    found = Ensemble([Constant(0.0, 0.0), Constant(1.0, 4.0)], average="logits")(image())
    assert torch.equal(found, torch.tensor([0.5, 2.0]).view(1, 2, 1, 1).expand(1, 2, 32, 32))


def test_certain_members_stay_finite():
    found = Ensemble([Constant(0.0, 500.0), Constant(0.0, 500.0)])(image())
    assert found.isfinite().all()
    torch.testing.assert_close(found.softmax(dim=1)[:, 1].min(), torch.tensor(1.0))
    torch.testing.assert_close(Ensemble([Constant(300.0, 0.0), Constant(0.0, 300.0)])(image()).exp().mean().item(), 0.5)


@torch.no_grad()
def test_one_member_answers_as_it_would_alone(tiny):
    network = tiny(1).eval()
    torch.testing.assert_close(Ensemble([network]).eval()(image()).softmax(1), network(image()).softmax(1))
    assert torch.equal(Ensemble([network], average="logits").eval()(image()), network(image()))


@torch.no_grad()
def test_the_order_of_members_does_not_matter(tiny):
    first, second = tiny(1).eval(), tiny(2).eval()
    torch.testing.assert_close(Ensemble([first, second]).eval()(image()), Ensemble([second, first]).eval()(image()))


@torch.no_grad()
@pytest.mark.parametrize("average", ["probs", "logits"])
@pytest.mark.filterwarnings("ignore:The TorchScript type system")
def test_scripted_it_gives_the_same(tiny, average, tmp_path):
    members = [tiny(1, embedding_size=None), Fitted(tiny(2, embedding_size=None), 48, 0.2)]
    ensemble = Ensemble(members, average=average).eval()
    torch.jit.save(torch.jit.script(ensemble), tmp_path / "ensemble.ts")
    loaded = torch.jit.load(tmp_path / "ensemble.ts")
    for size in ((32, 32), (50, 41)):
        torch.testing.assert_close(loaded(image(*size)), ensemble(image(*size)), atol=1e-4, rtol=1e-3)


@torch.no_grad()
def test_fitted_is_the_network_with_a_fit_size(tiny):
    network, whole = tiny(3).eval(), tiny(3, fit_size=32, pad_value=0.4).eval()
    fitted = Fitted(network, 32, 0.4)
    assert torch.equal(fitted(image(50, 41)), whole(image(50, 41)))
    by_hand = unfit_batch(network(fit_batch(image(50, 41), 32, 0.4)).softmax(dim=1), 50, 41)
    torch.testing.assert_close(fitted(image(50, 41)).softmax(dim=1), by_hand)


def test_members_in_training_mode_follow(tiny):
    ensemble = Ensemble([tiny(1), tiny(2)])
    assert not any(module.training for module in ensemble.eval().modules())
    assert all(module.training for module in ensemble.train().modules())


@pytest.mark.parametrize(
    ("networks", "arguments", "message"),
    [
        ([], {}, "expected at least one network"),
        ([Constant(0.0, 1.0)], {"average": "votes"}, "average is 'votes', expected one of probs, logits"),
    ],
)
def test_bad_arguments_are_refused(networks, arguments, message):
    with pytest.raises(ValueError, match=f"Ensemble: .*{message}"):
        Ensemble(networks, **arguments)


def test_networks_of_other_classes_are_refused(tiny):
    with pytest.raises(ValueError, match=r"num_classes \[2, 3\]; they must be the same"):
        Ensemble([tiny(), Fitted(tiny(num_classes=3), 32)])
    with pytest.raises(ValueError, match=r"in_channels \[1, 3\]"):
        Ensemble([Ensemble([tiny()]), tiny(in_channels=3)])


# --- one checkpoint whose teacher is an ensemble


@pytest.fixture
def two_teachers(tiny, tmp_path) -> Path:
    student = tiny(1)
    teacher = Ensemble([tiny(seed, embedding_size=None) for seed in (2, 3)], average="logits")
    path = save(tmp_path / "two.pt", student, teacher=teacher.state_dict())
    content = torch.load(path, weights_only=True)
    content["info"]["ensemble"] = teacher.arguments
    torch.save(content, path)
    return path


@torch.no_grad()
def test_a_checkpoint_with_two_teachers_rebuilds_both(two_teachers, tiny):
    network, info = load_checkpoint(two_teachers)
    assert isinstance(network, Ensemble)
    assert not any(module.training for module in network.modules())
    assert info["input"]["size"] == 32
    alone = [tiny(seed, embedding_size=None).eval()(image()) for seed in (2, 3)]
    torch.testing.assert_close(network(image()), (alone[0] + alone[1]) / 2)
    student, _ = load_checkpoint(two_teachers, which="student")
    assert isinstance(student, PHNet)
    assert torch.equal(student(image()), tiny(1).eval()(image()))


def test_an_ensemble_is_no_model_of_a_bundle(two_teachers, tmp_path):
    with pytest.raises(CheckpointError, match="its teacher is an ensemble of 2 networks, a bundle holds one"):
        export_state_dict(two_teachers, tmp_path / "model.pt")
    assert not (tmp_path / "model.pt").exists()
    export_state_dict(two_teachers, tmp_path / "model.pt", which="student")


def test_a_missing_member_is_noticed(two_teachers):
    content = torch.load(two_teachers, weights_only=True)
    content["teacher"] = {name: t for name, t in content["teacher"].items() if name != "members.1.classifier.7.weight"}
    torch.save(content, two_teachers)
    with pytest.raises(CheckpointError, match=r"1 missing, 0 unknown"):
        load_checkpoint(two_teachers)


# --- several checkpoints


@torch.no_grad()
def test_several_checkpoints_answer_by_their_mean_probability(checkpoint, two_teachers, tiny, tmp_path):
    files = [checkpoint, two_teachers, save(tmp_path / "other.pt", tiny(4, unet_features=[4, 4, 4, 4, 4]))]
    network, info = load_ensemble(files)
    assert info["input"] == {"size": 32, "pad_value": 0.25}
    assert [member["method"] for member in info["members"]] == ["phnet", "m", "m"]
    alone = [load_checkpoint(file)[0](image()).softmax(dim=1) for file in files]
    torch.testing.assert_close(network(image()).softmax(dim=1), torch.stack(alone).mean(dim=0))


@torch.no_grad()
@pytest.mark.parametrize("other", [{"size": 48}, {"pad_value": 0.5}])
def test_each_member_sees_what_it_would_see_alone(checkpoint, tiny, tmp_path, other):
    """Networks of other input sizes or paddings: the ensemble takes the image itself, of any size."""
    files = [checkpoint, save(tmp_path / "other.pt", tiny(4), **other)]
    network, info = load_ensemble(files)
    assert info["input"] == {"size": None, "pad_value": None}
    for size in ((70, 45), (32, 32), (20, 90)):
        alone = []
        for file in files:
            member, known = load_checkpoint(file)
            logits = member(fit_batch(image(*size), known["input"]["size"], known["input"]["pad_value"]))
            alone.append(unfit_batch(logits.softmax(dim=1), *size))
        torch.testing.assert_close(
            network(image(*size)).softmax(dim=1), (alone[0] + alone[1]) / 2, atol=1e-6, rtol=1e-5
        )


@torch.no_grad()
def test_one_path_is_the_network_itself(checkpoint):
    network, info = load_ensemble([checkpoint])
    assert isinstance(network, PHNet)
    assert info == load_checkpoint(checkpoint)[1]


def test_what_cannot_answer_together_is_refused(checkpoint, tiny, tmp_path):
    three = save(tmp_path / "three.pt", tiny(num_classes=3))
    with pytest.raises(CheckpointError, match=r"three\.pt: its network has num_classes 3, that of .*last\.pt has 2"):
        load_ensemble([checkpoint, three])
    with pytest.raises(CheckpointError, match=r"last\.pt: is given twice"):
        load_ensemble([checkpoint, checkpoint.parent / "." / checkpoint.name])
    with pytest.raises(CheckpointError, match="at least one checkpoint"):
        load_ensemble([])
    with pytest.raises(FileNotFoundError, match=r"gone\.pt"):
        load_ensemble([checkpoint, tmp_path / "gone.pt"])
