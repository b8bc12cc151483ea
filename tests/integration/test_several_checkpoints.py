"""Several networks as one, from the command line: of several checkpoints, or the two teachers of PS-MT."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from phnet_monai.cli.main import main
from phnet_monai.data import load_part, read_image, read_mask
from phnet_monai.engines.run import train_run
from phnet_monai.inference import Predictor


def phnet(*words: object) -> int:
    return main([str(word) for word in words])


@pytest.mark.parametrize("size", [64, 48])
def test_scores_are_those_of_the_mean_probability(size: int, checkpoint: Path, datalist: Path, tmp_path: Path) -> None:
    content = torch.load(checkpoint, weights_only=True)
    content["info"]["input"]["size"] = size
    for name, tensor in content["teacher"].items():
        if name.startswith("backbone.") and name.endswith("conv.weight"):
            tensor += 0.2 * tensor.std() * torch.randn(tensor.shape, generator=torch.Generator().manual_seed(0))
    other = tmp_path / "other.pt"
    torch.save(content, other)

    words = ["evaluate", checkpoint, other, datalist, tmp_path / "out", "--part", "test", "--device", "cpu"]
    assert phnet(*words) == 0
    with open(tmp_path / "out" / "per_image.csv", encoding="utf-8", newline="") as file:
        rows = {row["case_id"]: row for row in csv.DictReader(file)}
    items = load_part(datalist, "test")
    images = [read_image(item["image"]) for item in items]
    alone = [Predictor.from_model(path, "cpu").predict(images) for path in (checkpoint, other)]
    differs = False
    for item, first, second in zip(items, *alone, strict=True):
        lesion, label = (first + second) / 2 > 0.5, read_mask(item["label"]) > 0
        differs |= bool((lesion != (first > 0.5)).any())
        if label.any():
            dice = 2 * (lesion & label).sum() / (lesion.sum() + label.sum())
            assert float(rows[item["case_id"]]["dice"]) == pytest.approx(dice, abs=2e-3)
    assert differs


def test_two_teachers_are_evaluated_and_used_as_one(
    checkpoint: Path, datalist: Path, phantoms: Path, tmp_path: Path
) -> None:
    """The checkpoint of PS-MT: its two teachers answer wherever a network does."""
    run, scores, masks = tmp_path / "run", tmp_path / "scores", tmp_path / "masks"
    few = {"max_epochs": 3, "pretrain_epochs": 1, "epoch_length": 2}
    result = train_run(datalist, run, profile="smoke", method="ps_mt", device="cpu", init=checkpoint, overrides=few)
    content = torch.load(run / "last.pt", weights_only=True)
    assert content["info"]["ensemble"] == {"members": 2, "average": "logits"}
    name = "classifier.7.weight"
    assert not torch.equal(content["teacher"][f"members.0.{name}"], content["teacher"][f"members.1.{name}"])

    assert phnet("evaluate", run / "last.pt", datalist, scores, "--part", "validation", "--device", "cpu") == 0
    summary = json.loads((scores / "summary.json").read_text(encoding="utf-8"))
    assert summary["pooled_dice"] == pytest.approx(result["last"]["score"], abs=1e-6)

    words = ["infer", phantoms / "images", masks, "--model", run / "last.pt", "--quiet", "--device", "cpu"]
    assert phnet(*words) == 0
    picture = sorted((phantoms / "images").iterdir())[0]
    [probs] = Predictor.from_model(run / "last.pt", "cpu").predict([read_image(picture)])
    with Image.open(masks / "masks" / picture.name) as mask:
        assert (np.asarray(mask) > 0).sum() == pytest.approx((probs > 0.5).sum(), abs=2)  # rounding of other batches

    both = ["evaluate", run / "last.pt", checkpoint, datalist, tmp_path / "both", "--device", "cpu"]
    assert phnet(*both) == 0  # an ensemble may be a member


def test_checkpoints_that_cannot_answer_together(
    checkpoint: Path, datalist: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert phnet("evaluate", checkpoint, checkpoint, datalist, tmp_path / "out") == 2
    assert "half.pt: is given twice" in capsys.readouterr().err
    assert phnet("infer", datalist.parent, tmp_path / "o", "--model", f"{checkpoint},{tmp_path / 'gone.pt'}") == 2
    assert "gone.pt: no such model;" in capsys.readouterr().err
