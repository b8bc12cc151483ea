"""Every shipped method overlay trains on phantoms: its own terms, its bookkeeping, and the same again from a seed."""

from __future__ import annotations

import json
import math
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from phnet_monai.engines import SemiSupervisedTrainer, Step
from phnet_monai.engines.run import evaluate_run, train_run
from phnet_monai.shipped import bundle_folder

METHODS_FOLDER = bundle_folder() / "configs" / "methods"
SEMI = "unlabeled"
SLOW = ("rate", 1e-5)  # at the profile's, such a short run ends in plain background, and nothing is left to learn


@dataclass(frozen=True)
class Expect:
    """What a method leaves behind.

    Attributes:
        terms: loss terms of a semi-supervised step, `labeled` included.
        saved: handlers whose state is in the checkpoint.
        teacher: whether the checkpoint has an EMA teacher.
        projector: whether the student has a projector.
        overrides: what makes every term work from the first step on phantoms (thresholds that keep pixels).
        may_vanish: terms that may be 0 in such short runs.
        unlabeled: False for methods that never look at unlabeled images.
        own_network: whether its network is another than the checkpoint's, so that it starts from random weights.
        labeler: whether it needs a trained network that labels the unlabeled images.
    """

    terms: frozenset[str] | set[str]
    saved: frozenset[str] | set[str] = frozenset({"ema"})
    teacher: bool = True
    projector: bool = False
    overrides: tuple[tuple[str, Any], ...] = ()
    may_vanish: frozenset[str] | set[str] = frozenset()
    unlabeled: bool = True
    own_network: bool = False
    labeler: bool = False


METHODS = {
    "augseg": Expect({"labeled", SEMI}, overrides=(("method_handler#threshold", 0.5), SLOW)),
    "bcp": Expect({"ingoing", "outgoing"}),
    "bcp_warm_start": Expect({"copy_paste"}, saved=frozenset(), teacher=False, unlabeled=False),
    "cps": Expect({"labeled", "second_labeled", "cross_pseudo"}, saved={"method"}, teacher=False),
    "cps_cutmix": Expect({"labeled", "second_labeled", "cross_pseudo"}, saved={"method"}, teacher=False),
    "cutmix": Expect({"labeled", SEMI}, overrides=(("apa#threshold", 0.5),)),
    "imas": Expect(
        {"labeled", "strong", "cutmix"},
        overrides=(("method_handler#threshold", 0.5), ("method_handler#floor", 1.0), SLOW),  # floor 1: always CutMix
    ),
    "mean_teacher": Expect({"labeled", "consistency"}),
    "pdf_unet": Expect(
        {"labeled", "pseudo_masks"},
        saved={"method"},
        teacher=False,
        own_network=True,
        labeler=True,
        overrides=(
            ("method_handler#gan_steps", 2),
            ("method_handler#features", [8, 8]),
            ("method_handler#view#size", 16),
            ("method_handler#gan_batch_size", 4),
        ),
    ),
    "pdf_unet_noden": Expect(
        {"labeled", "pseudo_masks"}, saved={"method"}, teacher=False, own_network=True, labeler=True
    ),
    "pdf_unet_noden_warm_start": Expect({"labeled"}, saved=frozenset(), teacher=False, unlabeled=False),
    "pdf_unet_warm_start": Expect({"labeled"}, saved=frozenset(), teacher=False, unlabeled=False),
    "phnet": Expect(
        {"labeled", SEMI, "contrast"},
        saved={"ema", "hpc"},
        projector=True,
        overrides=(("apa#threshold", 0.5),),
    ),
    "phnet_plus": Expect(
        {"labeled", SEMI, "contrast"},
        saved={"ema", "hpc"},
        projector=True,
        overrides=(("apa#threshold", 0.5), ("rate", 1e-3)),  # both classes from the first semi-supervised step on
    ),
    "phnet_plus_warm_start": Expect({"labeled"}, saved=frozenset(), teacher=False, unlabeled=False),
    "phnet_release": Expect({"labeled", SEMI, "contrast"}, projector=True, overrides=(("apa#threshold", 0.5),)),
    "ra_ugmt": Expect({"labeled", "consistency"}, own_network=True, overrides=(("method_handler#threshold", 1.0),)),
    "ra_ugmt_warm_start": Expect({"labeled"}, saved=frozenset(), teacher=False, unlabeled=False),
    "ps_mt": Expect({"labeled", SEMI}, saved={"ema"}, overrides=(("method_handler#threshold", 0.5),)),
    "sup_only": Expect({"labeled"}, saved=frozenset(), teacher=False, unlabeled=False),
    "sup_only_ema": Expect({"labeled"}, unlabeled=False),
    "sup_only_ema_bn": Expect({"labeled"}),
    "u2pl": Expect({"labeled", SEMI, "contrast"}, saved={"ema", "method"}, projector=True),
    "ua_mt": Expect({"labeled", "consistency"}),
    "unimatch": Expect(
        {"labeled", "strong_1", "strong_2", "feature"},
        saved=frozenset(),
        teacher=False,
        overrides=(("method_handler#threshold", 0.5), SLOW),
    ),
    "warm_start": Expect({"labeled"}, saved=frozenset(), teacher=False, unlabeled=False),
}

EPOCHS, STEPS = 3, 3
FEW = {"max_epochs": EPOCHS, "pretrain_epochs": 1, "epoch_length": STEPS}  # a method may ask for more


def train(method: str, datalist: Path, checkpoint: Path, out: Path, **more: Any) -> dict[str, Any]:
    """From weights that see both classes, so that every term has pixels of both."""
    expect = METHODS[method]
    init = None if method.endswith("warm_start") or expect.own_network else checkpoint
    more = {"labeler_init": str(checkpoint), **more} if expect.labeler else more
    resume = more.pop("resume", False)
    overrides = {**FEW, **dict(METHODS[method].overrides), "batch_size": 4, **more}
    init = None if resume else init
    return train_run(
        datalist, out, profile="smoke", method=method, device="cpu", init=init, resume=resume, overrides=overrides
    )


def test_every_shipped_method_is_expected_here() -> None:
    assert {path.stem for path in METHODS_FOLDER.glob("*.json")} == set(METHODS)


@pytest.mark.parametrize("method", METHODS)
def test_method_trains_and_is_evaluated(
    method: str, datalist: Path, checkpoint: Path, tmp_path: Path, history: Callable[[Path], list[dict[str, Any]]]
) -> None:
    expect = METHODS[method]
    result = train(method, datalist, checkpoint, tmp_path / "run")
    assert result["last"]["epoch"] == EPOCHS
    rows = [row["train"] for row in history(tmp_path / "run")]
    for row in rows:
        assert all(math.isfinite(value) for value in row.values()), row
    found = {name.removeprefix("loss_") for name in rows[-1] if name.startswith("loss_")}
    assert found == expect.terms
    assert all(rows[-1][f"loss_{name}"] != 0 for name in expect.terms - expect.may_vanish), rows[-1]

    content = torch.load(tmp_path / "run" / "last.pt", weights_only=True)
    assert content["info"]["method"] == method
    assert set(content["training"]["handlers"]) == {*expect.saved, "log"}
    assert ("teacher" in content) == expect.teacher
    assert any(name.startswith("projector.") for name in content["student"]) == expect.projector
    scores = evaluate_run(tmp_path / "run" / "last.pt", datalist, tmp_path / "scores", device="cpu")
    assert 0 <= scores["pooled_dice"] <= 1


class Ended(BaseException):
    """What the process does with SIGTERM where no training runs."""


@pytest.mark.parametrize("method", METHODS)
def test_the_same_seed_gives_the_same_weights_also_after_a_stop(
    method: str, datalist: Path, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second run is ended by SIGTERM in its third step of four, the first of an epoch, and goes on."""
    few = {"max_epochs": 2, "epoch_length": 2}
    train(method, datalist, checkpoint, tmp_path / "first", **few)
    before = signal.getsignal(signal.SIGTERM)
    with monkeypatch.context() as patched:
        stop_in_step(3, patched)
        with pytest.raises(Ended):
            train(method, datalist, checkpoint, tmp_path / "second", **few)
    signal.signal(signal.SIGTERM, before)
    stopped = torch.load(tmp_path / "second" / "last.pt", weights_only=True)["training"]
    assert (stopped["iteration"], stopped["completed"]) == (3, False)
    train(method, datalist, checkpoint, tmp_path / "second", resume=True, **few)
    first, second = (torch.load(tmp_path / name / "last.pt", weights_only=True) for name in ("first", "second"))
    for which in ("student", "teacher"):
        assert first.get(which, {}).keys() == second.get(which, {}).keys()
        assert all(torch.equal(tensor, second[which][name]) for name, tensor in first.get(which, {}).items())
    records = [(tmp_path / name / "history.jsonl").read_text(encoding="utf-8") for name in ("first", "second")]
    assert json.loads(records[0].splitlines()[-1]) == json.loads(records[1].splitlines()[-1])


def stop_in_step(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """SIGTERM arrives in the middle of step `number`; outside a training it raises `Ended`."""
    original = SemiSupervisedTrainer._learn

    def learn(trainer: SemiSupervisedTrainer, step: Step, batch: Any) -> dict[str, float]:
        if trainer.state.iteration == number:
            signal.raise_signal(signal.SIGTERM)
        return original(trainer, step, batch)

    def end(*_: Any) -> None:
        raise Ended

    monkeypatch.setattr(SemiSupervisedTrainer, "_learn", learn)
    signal.signal(signal.SIGTERM, end)


def steps_of(method: str, datalist: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> list[Step]:
    """The steps of a short training without dropout (whose draws depend on the size of the batch)."""
    steps: list[Step] = []
    original = SemiSupervisedTrainer._summary

    def summary(step: Step, total: torch.Tensor) -> dict[str, float]:
        steps.append(step)
        return original(step, total)

    monkeypatch.setattr(SemiSupervisedTrainer, "_summary", staticmethod(summary))
    overrides = {**FEW, "batch_size": 4, "network_def#dropout": 0.0}
    train_run(datalist, out, profile="smoke", method=method, device="cpu", overrides=overrides)
    monkeypatch.undo()
    return steps


def test_the_control_row_sees_unlabeled_images_in_its_statistics_alone(
    datalist: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, control, mixing = (
        steps_of(method, datalist, tmp_path / method, monkeypatch)
        for method in ("sup_only_ema", "sup_only_ema_bn", "cutmix")
    )
    assert len(plain) == len(control) == EPOCHS * STEPS
    for number, (one, other, third) in enumerate(zip(plain, control, mixing, strict=True)):
        assert torch.equal(one.views["labeled"].image, other.views["labeled"].image)  # the same draws
        assert set(one.losses) == set(other.losses) == {"labeled"}
        assert list(one.views) == ["labeled"]
        pretraining = number < STEPS
        assert list(other.views) == (["labeled"] if pretraining else ["labeled", "unlabeled"])
        if not pretraining:  # those that the other methods see
            assert torch.equal(other.views["unlabeled"].image, third.weak["unlabeled"].image)
    logits = [[step.outputs["labeled"].logits for step in steps] for steps in (plain, control)]
    assert all(torch.equal(one, other) for one, other in zip(*(run[:STEPS] for run in logits), strict=True))
    assert not torch.allclose(logits[0][STEPS], logits[1][STEPS])  # same weights, statistics of both batches


def test_cutmix_asks_its_teacher_once_a_step(
    datalist: Path, checkpoint: Path, tmp_path: Path, history: Callable[[Path], list[dict[str, Any]]]
) -> None:
    train("cutmix", datalist, checkpoint, tmp_path / "run")
    last = history(tmp_path / "run")[-1]["train"]
    assert "confident_pixels" in last
    assert "pseudo_label_agreement" not in last  # of a second answer


def test_a_method_that_needs_a_labeler_says_so(datalist: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="labeler_init is null, but this method needs a trained network"):
        train_run(datalist, tmp_path / "run", profile="smoke", method="pdf_unet_noden", device="cpu")
