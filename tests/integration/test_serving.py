"""What MONAI's own entry points, MONAI Label and MONAI Deploy need of the bundle, as they use it.

`scripts/check_monailabel.py` runs MONAI Label itself, which needs an environment of its own.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import monai.bundle
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser, ConfigWorkflow, create_workflow
from monai.data import MetaTensor
from monai.handlers import CheckpointLoader
from monai.transforms import Compose, LoadImaged, SaveImaged
from PIL import Image

from phnet_monai import __version__
from phnet_monai.data import load_part, make_phantom, read_image
from phnet_monai.engines.run import compose, overlay_files
from phnet_monai.inference import Predictor
from phnet_monai.networks import export_state_dict, read_checkpoint
from phnet_monai.shipped import bundle_folder

pytestmark = pytest.mark.filterwarnings("ignore:parsing config_file:UserWarning")
BUNDLE = bundle_folder()
CONFIGS = BUNDLE / "configs"
SMOKE = str(CONFIGS / "profiles" / "smoke.json")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    for number, size in enumerate(((120, 180), (301, 200), (90, 77))):
        Image.fromarray(make_phantom(size, seed=number)[0]).save(folder / f"scan{number}.png")
    return folder


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    return Predictor.from_model(BUNDLE, "cpu", channels_last=False)


# --- monai.bundle.load and create_workflow


def test_load_gives_the_trained_network(predictor: Predictor) -> None:
    network = monai.bundle.load(
        name=BUNDLE.name, bundle_dir=str(BUNDLE.parent), workflow_type="inference", device="cpu"
    ).eval()
    weights = read_checkpoint(BUNDLE / "models" / "model.pt")
    own = network.state_dict()
    assert set(own) == set(weights)
    assert all(torch.equal(own[name], tensor.to(own[name])) for name, tensor in weights.items())
    image = make_phantom((130, 210), seed=3)[0]
    with torch.inference_mode():
        probs = network(torch.from_numpy(image)[None, None].float() / 255).softmax(dim=1)[0, 1].numpy()
    assert (probs > 0.5).any()
    np.testing.assert_allclose(probs, predictor.predict([image])[0], atol=1e-5)


def test_the_inference_workflow_runs(pictures: Path, predictor: Predictor, tmp_path: Path) -> None:
    workflow = create_workflow(
        config_file=str(CONFIGS / "inference.json"),
        workflow_type="infer",
        logging_file=False,
        bundle_root=str(BUNDLE),
        dataset_dir=str(pictures),
        output_dir=str(tmp_path / "out"),
        device="cpu",
    )
    assert isinstance(workflow, ConfigWorkflow)
    assert workflow.get_workflow_type() in ("infer", "inference")
    workflow.run()
    workflow.finalize()
    values: set[int] = set()
    for path in sorted(pictures.iterdir()):
        mask = np.asarray(Image.open(tmp_path / "out" / f"{path.stem}_mask.png"))
        np.testing.assert_array_equal(mask > 0, predictor.predict([read_image(path)])[0] > 0.5)
        values |= set(np.unique(mask).tolist())
    assert values == {0, 255}


def test_the_training_workflow_runs_with_other_data_and_epochs(datalist: Path, tmp_path: Path) -> None:
    """By its properties, as programs do that know no ids of this bundle."""
    workflow = create_workflow(
        config_file=[str(CONFIGS / "train.json"), SMOKE],
        workflow_type="train",
        logging_file=False,
        bundle_root=str(tmp_path),
        datalist=str(datalist),
        device="cpu",
    )
    workflow.max_epochs = 1
    workflow.train_dataset_data = load_part(datalist, "labeled")[:3]
    workflow.initialize()
    assert workflow.check_properties() == []
    assert len(workflow.train_dataset) == 3
    before = {name: tensor.clone() for name, tensor in workflow.network_def.state_dict().items()}
    workflow.run()
    workflow.finalize()
    assert workflow.trainer.state.epoch == 1
    after = workflow.network_def.state_dict()
    assert any(not torch.equal(before[name], after[name]) for name in before)
    assert (tmp_path / "runs" / "phnet" / "last.pt").is_file()


# --- MONAI Label


def label_transforms(config: ConfigParser, key: str, dropped: type) -> list[Any]:
    """The transforms of `preprocessing` or `postprocessing` as MONAI Label takes them."""
    found = config.get_parsed_content(key, instantiate=True)
    assert isinstance(found, Compose)
    return [transform for transform in found.transforms if not isinstance(transform, dropped)]


def test_label_infers_from_inference_json_alone(pictures: Path, predictor: Predictor) -> None:
    """As `BundleInferTask`: no evaluator, no dataset, SaveImage dropped, the network filled by its own loader."""
    config = compose(CONFIGS / "inference.json", overlay_files(["options/monai_label_inference"]))
    config.config.update({"bundle_root": str(BUNDLE), "device": "cpu"})
    network = config.get_parsed_content("network_def", instantiate=True)
    network.load_state_dict(torch.load(BUNDLE / "models" / "model.pt", weights_only=True), strict=True)
    inferer, lesion = config.get_parsed_content("inferer", instantiate=True), 0
    for path in sorted(pictures.iterdir()):
        data: dict[str, Any] = {"image": str(path)}
        for transform in label_transforms(config, "preprocessing", type(None)):
            data = transform(data)
        with torch.inference_mode():
            data["pred"] = inferer(data["image"][None], network.eval())[0]
        for transform in label_transforms(config, "postprocessing", SaveImaged):
            data = transform(data)
        # its writer turns the axes of what it gets, and PNG takes whole numbers only
        assert data["pred"].dtype == torch.uint8
        expected = predictor.predict([read_image(path)])[0] > 0.5
        np.testing.assert_array_equal(np.asarray(data["pred"]).transpose(), expected)
        lesion += int(expected.sum())
    assert lesion > 0


def test_label_names_come_from_the_metadata() -> None:
    """It takes the first input and output, and the number of dimensions from the shape."""
    formats = json.loads((CONFIGS / "metadata.json").read_text(encoding="utf-8"))["network_data_format"]
    key_image, image = next(iter(formats["inputs"].items()))
    key_pred, pred = next(iter(formats["outputs"].items()))
    assert (key_image, key_pred) == ("image", "pred")
    assert len(image["spatial_shape"]) == 2
    labels = {name.lower(): int(index) for index, name in pred["channel_def"].items() if name.lower() != "background"}
    assert labels == {"lesion": 1}


@pytest.fixture
def label_bundle(checkpoint: Path, tmp_path: Path) -> Path:
    """The bundle as `package_bundle.py --label` composes it, with the network of `smoke` and weights that fit."""
    target = tmp_path / "served"
    shutil.copytree(CONFIGS, target / "configs")
    files = overlay_files([SMOKE, "options/monai_label"])
    train = target / "configs" / "train.json"
    train.write_text(json.dumps(compose(train, files, {"epoch_length": 2}).get()), encoding="utf-8")
    export_state_dict(checkpoint, target / "models" / "model.pt")
    return target


def label_request(bundle: Path, study: list[dict[str, str]], epochs: int) -> None:
    """What `BundleTrainTask` does with one request."""
    config = ConfigParser()
    config.read_config(str(bundle / "configs" / "train.json"))
    handlers = config.get("train#handlers")
    assert not [entry for entry in handlers if entry.get("_target_") == CheckpointLoader.__name__]
    loader = {"load_path": str(bundle / "models" / "model.pt"), "load_dict": {"model": "$@network"}, "strict": False}
    handlers.insert(0, {"_target_": CheckpointLoader.__name__, **loader})
    monai.bundle.run(
        run_id="run",
        init_id=None,
        final_id=None,
        meta_file=str(bundle / "configs" / "metadata.json"),
        config_file=str(bundle / "configs" / "train.json"),
        logging_file=False,  # type: ignore[arg-type]
        **{
            "bundle_root": str(bundle),
            "train#trainer#max_epochs": epochs,
            "train#dataset#data": study[:4],
            "validate#dataset#data": study[4:],
            "train#handlers": handlers,
            "device": "cpu",
        },
    )


def test_label_trains_again_and_again_into_the_served_model(
    label_bundle: Path, datalist: Path, phantoms: Path, history: Any
) -> None:
    """Outlined images come from the server; the others of the study are found beside them."""
    study = [{"image": item["image"], "label": item["label"]} for item in load_part(datalist, "labeled")]
    run, served = label_bundle / "runs" / "phnet", label_bundle / "models" / "model.pt"
    before = served.read_bytes()
    for number in (1, 2):
        label_request(label_bundle, study, epochs=2)
        rows = history(run)
        assert [row["epoch"] for row in rows] == [1, 2]
        assert rows[1]["train"]["loss_unlabeled"] >= 0
        assert all("pooled_dice" in row["validation"] for row in rows)
        assert len(list(run.glob("earlier/*"))) == number - 1
        assert served.read_bytes() != before
        before = served.read_bytes()
    best = read_checkpoint(run / "best.pt")["teacher"]
    assert all(torch.equal(tensor, best[name]) for name, tensor in read_checkpoint(served).items())


def test_the_unlabeled_images_of_a_study_are_all_others(label_bundle: Path, datalist: Path, phantoms: Path) -> None:
    study = [{"image": item["image"], "label": item["label"]} for item in load_part(datalist, "labeled")]
    config = ConfigParser()
    config.read_config(str(label_bundle / "configs" / "train.json"))
    config.update({"train#dataset#data": study[:4], "validate#dataset#data": study[4:]})
    found = {item["image"] for item in config.get_parsed_content("train#unlabeled_dataset#data")}
    everything = {str(path.resolve()) for path in (phantoms / "images").iterdir()}
    assert found == everything - {str(Path(item["image"]).resolve()) for item in study}


# --- MONAI Deploy


@pytest.fixture(scope="module")
def torchscript(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("deploy") / "model.ts"
    monai.bundle.ckpt_export(
        net_id="network_def",
        filepath=str(path),
        ckpt_file=str(BUNDLE / "models" / "model.pt"),
        meta_file=str(CONFIGS / "metadata.json"),
        config_file=str(CONFIGS / "inference.json"),
    )
    return path


@pytest.fixture(scope="module")
def carried(torchscript: Path) -> tuple[Any, dict[str, Any], dict[str, Any]]:
    extra = {"metadata.json": "", "inference.json": ""}
    network = torch.jit.load(str(torchscript), map_location="cpu", _extra_files=extra)
    return network.eval(), json.loads(extra["metadata.json"]), json.loads(extra["inference.json"])


def test_torchscript_carries_metadata_and_config(torchscript: Path, carried: Any) -> None:
    """Where MONAI Deploy looks for them: `extra/metadata.json` and `extra/inference.json` of the archive."""
    _, metadata, config = carried
    assert metadata["version"] == __version__
    assert metadata["network_data_format"]["outputs"]["pred"]["channel_def"] == {"0": "background", "1": "lesion"}
    assert {"preprocessing", "inferer", "postprocessing", "network_def"} <= set(config)
    with zipfile.ZipFile(torchscript) as archive:
        names = {name.partition("/")[2] for name in archive.namelist()}
    assert {"extra/metadata.json", "extra/inference.json"} <= names
    assert not [name for name in strings(config) if os.path.isabs(name)]  # no folder of the machine that made it


def strings(node: Any) -> Iterator[str]:
    if isinstance(node, str):
        yield node
    elif isinstance(node, (dict, list)):
        for child in node.values() if isinstance(node, dict) else node:
            yield from strings(child)


def test_deploy_runs_the_file_by_what_it_carries(carried: Any, pictures: Path, predictor: Predictor) -> None:
    """Images come and go in memory: the transforms that load and save are dropped, all others are applied."""
    network, metadata, content = carried
    config = ConfigParser(content)
    config["bundle_root"] = "."
    config.read_meta(metadata)
    before = label_transforms(config, "preprocessing", LoadImaged)
    after = label_transforms(config, "postprocessing", SaveImaged)
    inferer, lesion = config.get_parsed_content("inferer"), 0
    for path in sorted(pictures.iterdir()):
        pixels = torch.from_numpy(read_image(path).transpose().copy()).float()  # Deploy's images: columns first
        data: dict[str, Any] = {"image": MetaTensor(pixels, meta={})}
        for transform in before:
            data = transform(data)
        with torch.inference_mode():
            data["pred"] = inferer(data["image"][None], network)[0]
        for transform in after:
            data = transform(data)
        expected = predictor.predict([read_image(path)])[0] > 0.5
        lesion += int(expected.sum())
        mask = np.squeeze(np.asarray(data["pred"]), 0)  # as the operator does
        differ = (mask.transpose().astype(bool) != expected).mean()
        assert differ < 1e-4
    assert lesion > 0


def test_only_stock_transforms_and_our_decoder_are_named(carried: Any) -> None:
    """The decoder of pictures belongs to LoadImage, which Deploy drops."""
    _, _, config = carried
    targets = [text for key in ("preprocessing", "postprocessing", "inferer") for text in strings(config[key])]
    assert [text for text in targets if re.search(r"phnet|decode\.", text)] == ["$decode.to_grey_image"]
