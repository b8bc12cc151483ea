"""Where the two students of CPS start, by the shipped overlay."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from phnet_monai.engines.run import train_run

MOVING = ("running_mean", "running_var", "num_batches_tracked")
STILL = {"rate": 0.0, "max_epochs": 1, "pretrain_epochs": 1, "epoch_length": 1}


def start(datalist: Path, out: Path, init: Path, **overrides: object) -> tuple[dict, dict]:
    """Weights of both students after a step at rate 0."""
    train_run(datalist, out, profile="smoke", method="cps", device="cpu", init=init, overrides={**STILL, **overrides})
    content = torch.load(out / "last.pt", weights_only=True)
    return content["student"], content["training"]["handlers"]["method"]


@pytest.mark.parametrize("given", [False, True])
def test_students_start_from_two_warm_starts_or_share_an_encoder(
    given: bool, datalist: Path, checkpoint: Path, tmp_path: Path
) -> None:
    train_run(datalist, tmp_path / "other", profile="smoke", method="warm_start", seed=5, device="cpu", overrides=STILL)
    other = tmp_path / "other" / "last.pt"
    more = {"second_init": str(other)} if given else {}
    first, second = start(datalist, tmp_path / "cps", checkpoint, **more)
    warm, another = (torch.load(path, weights_only=True)["student"] for path in (checkpoint, other))
    encoder = ("backbone.net.conv_0.", "backbone.net.down_")
    fixed = [name for name in second if not name.endswith(MOVING) and second[name].ndim == 4]
    assert any(name.startswith(encoder) for name in fixed)
    for name in fixed:
        assert torch.equal(first[name], warm[name]), name
        if given:
            assert torch.equal(second[name], another[name]), name
        else:
            assert torch.equal(second[name], first[name]) == name.startswith(encoder), name


def test_a_bad_second_start_ends_the_run_before_any_work(datalist: Path, checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"gone\.pt: no such checkpoint file"):
        start(datalist, tmp_path / "cps", checkpoint, second_init=str(tmp_path / "gone.pt"))
    assert not list((tmp_path / "cps").glob("*.pt"))
