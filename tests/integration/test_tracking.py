"""Experiment tracking by MLflow, of the bundle's configs and of `phnet train`, read back from local stores."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import monai.bundle
import pytest

from phnet_monai.cli.main import main
from phnet_monai.engines.run import train_run
from phnet_monai.engines.tracking import TrackingError
from phnet_monai.handlers import TrainingLog
from phnet_monai.networks import export_state_dict
from phnet_monai.shipped import bundle_folder

mlflow = pytest.importorskip("mlflow", reason="needs phnet-monai[mlflow]")

pytestmark = pytest.mark.filterwarnings("ignore:parsing config_file:UserWarning")
CONFIGS = bundle_folder() / "configs"
Runs = Callable[..., list[Any]]


@pytest.fixture(scope="module", autouse=True)
def _local_store() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        yield


def client(store: Path) -> Any:
    assert store.is_file()
    return mlflow.MlflowClient(tracking_uri=f"sqlite:///{store}")


def runs(store: Path, experiment: str) -> list[Any]:
    """Runs of an experiment, the latest first."""
    found = client(store).get_experiment_by_name(experiment)
    return list(client(store).search_runs(found.experiment_id))


def curve(store: Path, run: Any, name: str) -> dict[int, float]:
    return {entry.step: entry.value for entry in client(store).get_metric_history(run.info.run_id, name)}


@pytest.fixture(scope="module")
def tracked(datalist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Output folder of `phnet train --tracking mlflow`: two epochs of two steps."""
    out = tmp_path_factory.mktemp("tracked") / "run"
    words = ["train", str(datalist), str(out), "--profile", "smoke", "--device", "cpu", "--tracking", "mlflow"]
    assert main(words) == 0
    return out


def check_curves(store: Path, run: Any, history: list[dict[str, Any]]) -> None:
    """The store has the loss of every step, and by epoch every mean and every score of history.jsonl."""
    assert len(history) == 2
    losses = curve(store, run, "train_loss")
    assert sorted(losses) == [1, 2, 3, 4]
    for row, steps in zip(history, ((1, 2), (3, 4)), strict=True):
        assert sum(losses[step] for step in steps) / 2 == pytest.approx(row["train"]["loss"])
        assert {"loss_labeled", "rate"} <= set(row["train"])
        for name, value in (row["train"] | row["validation"]).items():
            assert curve(store, run, name)[row["epoch"]] == pytest.approx(value), name
    assert {"loss_unlabeled", "loss_contrast", "pooled_dice"} <= set(run.data.metrics)


@pytest.mark.slow
def test_of_several_processes_the_first_one_tracks(datalist: Path, tmp_path: Path, history: Any) -> None:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    words = ["train", str(datalist), str(tmp_path / "run"), "--profile", "smoke", "--tracking", "mlflow"]
    done = subprocess.run([*launcher, "-m", "phnet_monai", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    store = tmp_path / "run" / "mlruns.db"
    (run,) = runs(store, "phnet")
    assert run.info.status == "FINISHED"
    losses = client(store).get_metric_history(run.info.run_id, "train_loss")
    assert sorted(entry.step for entry in losses) == [1, 2, 3, 4]
    rows = history(tmp_path / "run")
    assert len(rows) == 2
    for row in rows:  # means over both processes
        for name, value in (row["train"] | row["validation"]).items():
            assert curve(store, run, name)[row["epoch"]] == pytest.approx(value), name


def test_phnet_train_keeps_losses_scores_and_settings(tracked: Path, history: Any) -> None:
    store = tracked / "mlruns.db"
    (run,) = runs(store, "phnet")
    check_curves(store, run, history(tracked))
    assert run.info.status == "FINISHED"
    told = {"method": "phnet", "profile": "smoke", "recipe": "harmonised", "seed": "0", "max_epochs": "2"}
    assert told.items() <= run.data.params.items()
    (artifact,) = client(store).list_artifacts(run.info.run_id)
    assert artifact.path == "config.json"
    assert Path(run.info.artifact_uri.removeprefix("file://")).is_relative_to(tracked)
    config = json.loads((tracked / "config.json").read_text(encoding="utf-8"))
    assert "MLFlowHandler" not in json.dumps(config)  # the same training, tracked or not


def test_tracking_changes_no_weight(tracked: Path, trained: Path) -> None:
    assert (tracked / "history.jsonl").read_text() == (trained / "history.jsonl").read_text()


def test_a_stopped_run_is_gone_on_with(tracked: Path, datalist: Path, tmp_path: Path) -> None:
    """One curve over the stop, in a store that several trainings share."""
    out, store = tmp_path / "run", tmp_path / "all.db"
    shutil.copy(tracked / "mlruns.db", store)
    (other,) = runs(store, "phnet")
    client(store).update_run(other.info.run_id, status="RUNNING")  # of another folder, and at work at the same time
    inner = TrainingLog.log_epoch

    def stop(self: TrainingLog, engine: Any) -> None:
        if engine.state.epoch == 2:
            raise KeyboardInterrupt
        inner(self, engine)

    options = {"profile": "smoke", "device": "cpu", "tracking": "mlflow"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{store}")
        patch.setattr(TrainingLog, "log_epoch", stop)
        with pytest.raises(KeyboardInterrupt):
            train_run(datalist, out, **options)  # type: ignore[arg-type]
        patch.setattr(TrainingLog, "log_epoch", inner)
        train_run(datalist, out, resume=True, **options)  # type: ignore[arg-type]
    (mine,) = [run for run in runs(store, "phnet") if run.info.run_id != other.info.run_id]
    assert mine.info.status == "FINISHED"
    assert sorted(curve(store, mine, "loss")) == sorted(curve(store, mine, "pooled_dice")) == [1, 2]
    assert not (out / "mlruns.db").exists()


def test_a_missing_library_is_named_before_any_work(
    datalist: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)  # what an import then finds is nothing
    words = ["train", str(datalist), str(tmp_path / "out"), "--profile", "smoke", "--tracking", "mlflow"]
    assert main(words) == 2
    assert "pip install 'phnet-monai[mlflow]'" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    with pytest.raises(TrackingError, match="tracking is 'wandb', expected one of mlflow"):
        train_run(datalist, tmp_path / "out", tracking="wandb")


@pytest.fixture(scope="module")
def bundle_runs(
    datalist: Path, phantoms: Path, checkpoint: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, tuple[Path, Any]]:
    """All three configs as run by MONAI with `--tracking mlflow`: name -> output folder, run."""
    root = tmp_path_factory.mktemp("bundle_runs")
    own: dict[str, dict[str, str]] = {
        "train": {"datalist": str(datalist)},
        "evaluate": {"datalist": str(datalist), "checkpoint": str(checkpoint)},
        "inference": {
            "dataset_dir": str(phantoms / "images"),
            "checkpoint": str(export_state_dict(checkpoint, root / "plain.pt")),
        },
    }
    found = {}
    for name, values in own.items():
        monai.bundle.run(
            config_file=[str(CONFIGS / f"{name}.json"), str(CONFIGS / "profiles" / "smoke.json")],
            logging_file=False,  # type: ignore[arg-type]
            tracking="mlflow",
            bundle_root=str(root),
            device="cpu",
            **values,
        )
        out = root / "runs" / "phnet" if name == "train" else root / "eval"
        found[name] = out, runs(out / "mlruns.db", "monai_experiment")[0]
    return found


def test_train_json_tracks_losses_and_scores(bundle_runs: dict[str, tuple[Path, Any]], history: Any) -> None:
    out, run = bundle_runs["train"]
    check_curves(out / "mlruns.db", run, history(out))


def test_evaluate_json_tracks_its_summary(bundle_runs: dict[str, tuple[Path, Any]]) -> None:
    out, run = bundle_runs["evaluate"]
    summary = json.loads((out / "summary.json").read_text(encoding="utf-8"))
    assert {"pooled_dice", "dice_mean", "hd95_mean", "ece"} <= set(run.data.metrics)
    for name, value in run.data.metrics.items():  # what is not defined is NaN here, null there
        assert (None if math.isnan(value) else pytest.approx(value)) == summary[name], name


def test_inference_json_writes_its_masks(bundle_runs: dict[str, tuple[Path, Any]], phantoms: Path) -> None:
    out, _ = bundle_runs["inference"]
    masks = {path.name.removesuffix("_mask.png") for path in out.glob("*_mask.png")}
    assert masks == {path.stem for path in (phantoms / "images").iterdir()}


def test_every_run_is_closed_and_has_its_config(bundle_runs: dict[str, tuple[Path, Any]]) -> None:
    assert len({run.info.run_id for _, run in bundle_runs.values()}) == 3
    for name, (out, run) in bundle_runs.items():
        assert run.info.status == "FINISHED", name
        (artifact,) = client(out / "mlruns.db").list_artifacts(run.info.run_id)
        text = Path(run.info.artifact_uri.removeprefix("file://"), artifact.path).read_text(encoding="utf-8")
        engine = "train::trainer" if name == "train" else "evaluator"
        assert json.loads(text)["run"] == [f"$@{engine}.run()"]
