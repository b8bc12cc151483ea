"""`scripts/package_bundle.py`: the zip, and that every rule refuses what breaks it."""

from __future__ import annotations

import hashlib
import importlib
import io
import json
import os
import shutil
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.bundle import ConfigParser

from phnet_monai import __version__
from phnet_monai.networks.digests import record_digests

ROOT = Path(__file__).parents[2]
STRAY = ("runs/phnet/last.pt", "eval/mask.png", "data/datalist.json", "models/other.pt", "configs/.train.json.swp")
pytestmark = pytest.mark.filterwarnings("ignore:parsing config_file:UserWarning")


@pytest.fixture(scope="module")
def scripts() -> Iterator[dict[str, Any]]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "scripts"))
        yield {name: importlib.import_module(name) for name in ("package_bundle", "bundle_rules")}


@pytest.fixture(scope="module")
def schema(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MONAI's schema where the real data are; else one that asks for a few of its entries."""
    path = Path(os.environ.get("PHNET_DATA", "")) / "monai" / "meta_schema_20240725.json"
    if os.environ.get("PHNET_DATA") and path.is_file():
        return path
    path = tmp_path_factory.mktemp("schema") / "schema.json"
    path.write_text(json.dumps({"type": "object", "required": ["version", "task", "network_data_format"]}))
    return path


@pytest.fixture(scope="module")
def packed(scripts: dict[str, Any], schema: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Zip of a copy of the bundle in which somebody has worked."""
    source = tmp_path_factory.mktemp("source") / "bundle"
    shutil.copytree(ROOT / "bundle", source)
    for name in STRAY:
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes(b"left behind by a run")
    return scripts["package_bundle"].package(source, tmp_path_factory.mktemp("packed"), schema=schema)


@pytest.fixture(scope="module")
def contents(packed: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(packed) as archive:
        assert archive.testzip() is None
        return {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A whole bundle to be broken."""
    return shutil.copytree(ROOT / "bundle", tmp_path / "whole_bundle")


# --- the zip


def test_the_zip_is_named_and_laid_out_as_the_zoo_s(packed: Path, contents: dict[str, bytes]) -> None:
    assert packed.name == f"breast_ultrasound_phnet_segmentation_v{__version__}.zip"
    with zipfile.ZipFile(packed) as archive:
        assert {name.split("/")[0] for name in archive.namelist()} == {"breast_ultrasound_phnet_segmentation"}
    assert {"LICENSE", "configs/metadata.json", "configs/inference.json", "models/model.pt"} <= set(contents)
    configs = {path.relative_to(ROOT / "bundle").as_posix() for path in (ROOT / "bundle" / "configs").rglob("*.json")}
    assert configs == {name for name in contents if name.startswith("configs/") and name.endswith(".json")}
    assert {name for name in contents if name.startswith("models/")} == {
        f"models/{name}" for name in ("README.md", "SHA256SUMS", "model.pt", "model.safetensors")
    }


def test_the_zip_has_nothing_of_a_run(packed: Path, contents: dict[str, bytes]) -> None:
    assert [name for name in STRAY if name in contents] == []
    assert sorted(path.name for path in packed.parent.iterdir()) == [packed.name]


def test_the_zip_has_the_models_with_their_digests(contents: dict[str, bytes]) -> None:
    lines = [line.split("  ") for line in contents["models/SHA256SUMS"].decode().splitlines()]
    assert [name for _, name in lines] == ["model.pt", "model.safetensors"]
    for digest, name in lines:
        assert hashlib.sha256(contents[f"models/{name}"]).hexdigest() == digest


def test_json_is_in_the_zoo_s_form_with_the_same_content(contents: dict[str, bytes]) -> None:
    for name, data in contents.items():
        if name.endswith(".json"):
            content = json.loads(data)
            assert data.decode() == json.dumps(content, indent=4, ensure_ascii=False) + "\n", name
            assert content == json.loads((ROOT / "bundle" / name).read_text(encoding="utf-8")), name


def test_no_file_is_large_and_the_list_says_so(contents: dict[str, bytes], tmp_path: Path) -> None:
    assert max(map(len, contents.values())) < 25_000_000
    (tmp_path / "large_files.yml").write_bytes(contents["large_files.yml"])
    assert ConfigParser.load_config_file(str(tmp_path / "large_files.yml")) == {"large_files": []}


def test_the_same_bundle_gives_the_same_bytes(scripts: dict[str, Any], tmp_path: Path) -> None:
    module, zips = scripts["package_bundle"], []
    for number in range(2):
        source = tmp_path / f"source{number}"
        shutil.copytree(ROOT / "bundle", source, copy_function=shutil.copyfile)
        for path in source.rglob("*"):
            os.utime(path, (1e9 + number, 1e9 + number))
            if path.is_file() and number:
                path.chmod(0o600)
        module.stage(source, tmp_path / str(number) / "name", module.LABEL_OVERLAYS)
        stream = io.BytesIO()
        module.write_zip(tmp_path / str(number) / "name", stream)
        zips.append(stream.getvalue())
    assert zips[0] == zips[1]


def test_large_files_are_listed_with_their_digest_and_left_out(
    scripts: dict[str, Any], schema: Path, tmp_path: Path
) -> None:
    package, rule_error = scripts["package_bundle"].package, scripts["bundle_rules"].RuleError
    with pytest.raises(rule_error, match=r"models/model\.pt \(7\.0 MB\).*larger than 7 MB; upload it.*--url"):
        package(ROOT / "bundle", tmp_path / "out", schema=schema, large=7_000_000)
    assert not (tmp_path / "out").exists()
    path = package(ROOT / "bundle", tmp_path, schema=schema, large=7_000_000, url="https://example.org/bus/")
    with zipfile.ZipFile(path) as archive:
        names = [name.partition("/")[2] for name in archive.namelist()]
        (tmp_path / "large_files.yml").write_bytes(archive.read(f"{scripts['package_bundle'].NAME}/large_files.yml"))
    assert "models/model.pt" not in names
    assert "models/model.safetensors" in names
    content = (ROOT / "bundle" / "models" / "model.pt").read_bytes()
    assert ConfigParser.load_config_file(str(tmp_path / "large_files.yml"))["large_files"] == [
        {
            "path": "models/model.pt",
            "url": "https://example.org/bus/models/model.pt",
            "hash_val": hashlib.sha256(content).hexdigest(),
            "hash_type": "sha256",
        }
    ]


def test_overlays_are_laid_into_train_json(scripts: dict[str, Any], tmp_path: Path) -> None:
    """For MONAI Label, which reads `train.json` alone: the network that ships, which the training then replaces."""
    module = scripts["package_bundle"]
    module.stage(ROOT / "bundle", tmp_path / "name", module.LABEL_OVERLAYS)
    train, shipped = (
        ConfigParser(json.loads((tmp_path / "name" / "configs" / name).read_text()))
        for name in ("train.json", "inference.json")
    )
    assert (train["size"], train["pad_value"]) == (shipped["size"], shipped["pad_value"])
    for name in ("encoder", "decoder", "output_stride", "atrous_rates", "decoder_channels", "head_channels"):
        assert train[f"network_def#{name}"] == shipped[f"network_def#{name}"], name
    assert train["network_def#weights"] is None
    assert train["update_model#path"] == "$@bundle_root + '/models/model.pt'"
    assert train["train#unlabeled_dataset#data#_target_"] == "phnet_monai.data.images_beside"


# --- the rules


def edit(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    content = json.loads(path.read_text(encoding="utf-8"))
    change(content)
    path.write_text(json.dumps(content), encoding="utf-8")


def metadata(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    return lambda bundle: edit(bundle / "configs" / "metadata.json", change)


def write(name: str, text: str) -> Callable[[Path], Any]:
    return lambda bundle: (bundle / name).write_text(text, encoding="utf-8")


BROKEN: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no licence": (lambda b: (b / "LICENSE").unlink(), "LICENSE missing"),
    "another licence": (write("LICENSE", "All rights reserved"), "LICENSE: expected the text of the Apache License"),
    "no data licence": (lambda b: (b / "docs" / "data_license.txt").unlink(), "docs/data_license.txt missing"),
    "empty document": (write("docs/README.md", ""), "docs/README.md empty"),
    "no weights": (lambda b: (b / "models" / "model.pt").unlink(), "models/model.pt missing"),
    "broken json": (write("configs/train.json", "{"), "train.json: not valid JSON"),
    "no version": (metadata(lambda m: m.pop("version")), "needs 'version'"),
    "version not in changelog": (metadata(lambda m: m.update(version="9.9.9")), "version is 9.9.9, the newest entry"),
    "newer entry": (
        metadata(lambda m: m["changelog"].update({"0.10.0": "later"})),
        f"version is {__version__}, the newest entry of its changelog 0.10.0",
    ),
    "no version at all": (metadata(lambda m: m["changelog"].update({"next": "x"})), "an entry that is no version"),
    "another package": (
        metadata(lambda m: m["required_packages_version"].update({"phnet-monai": "0.0.9"})),
        f"phnet-monai: found 0.0.9, expected {__version__}",
    ),
    "package in front": (
        metadata(lambda m: (m.update(version="9.0.0"), m["changelog"].update({"9.0.0": "later"}))),
        "expected 9.0.0, the version of metadata.json",
    ),
    "old monai": (metadata(lambda m: m.update(monai_version="1.3.0")), "names monai 1.3.0, but phnet-monai needs"),
    "foreign package": (
        metadata(lambda m: m["required_packages_version"].update(keras="3.0.0")),
        "requires keras, which phnet-monai does not depend on",
    ),
    "changed weights": (
        lambda b: torch.save({"a": torch.zeros(1)}, b / "models" / "model.pt"),
        "model.pt: its SHA-256 is",
    ),
    "digest forgotten": (write("models/SHA256SUMS", f"{'0' * 64}  other.pt\n"), r"SHA256SUMS: names \['other.pt'\]"),
    "no output_dir": (
        lambda b: edit(b / "configs" / "inference.json", lambda c: c.pop("output_dir")),
        "inference.json: has no output_dir",
    ),
    "no validation list": (
        lambda b: edit(b / "configs" / "train.json", lambda c: c["validate"]["dataset"].pop("data")),
        "train.json: has no validate#dataset#data",
    ),
    "against the schema": (metadata(lambda m: m.pop("network_data_format")), "'network_data_format' is a required"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_rule_is_named_and_nothing_is_written(
    name: str, bundle: Path, scripts: dict[str, Any], schema: Path, tmp_path: Path
) -> None:
    break_it, message = BROKEN[name]
    break_it(bundle)
    with pytest.raises(scripts["bundle_rules"].RuleError, match=message):
        scripts["package_bundle"].package(bundle, tmp_path / "out", schema=schema)
    assert not (tmp_path / "out").exists()


def test_the_project_s_changelog_counts_too(bundle: Path, scripts: dict[str, Any], tmp_path: Path) -> None:
    check, log = scripts["bundle_rules"].check_version, tmp_path / "CHANGELOG.md"
    log.write_text(f"# Changes\n\n## Unreleased\n\n## {__version__}\n")
    check(bundle, log)
    log.write_text("# Changes\n\n## 9.0.0\n")
    with pytest.raises(scripts["bundle_rules"].RuleError, match="first heading with a version: found 9.0.0"):
        check(bundle, log)


def test_metadata_of_another_network_is_refused(bundle: Path, scripts: dict[str, Any]) -> None:
    metadata(lambda m: m["network_data_format"]["outputs"]["pred"].update(num_channels=3))(bundle)
    with pytest.raises(scripts["bundle_rules"].RuleError, match="metadata.json and network_def disagree"):
        scripts["bundle_rules"].check_network(bundle)


def test_a_workflow_without_a_property_is_refused(bundle: Path, scripts: dict[str, Any]) -> None:
    edit(bundle / "configs" / "evaluate.json", lambda c: c.pop("inferer") and c["evaluator"].pop("inferer"))
    with pytest.raises(scripts["bundle_rules"].RuleError, match=r"evaluate\.json: cannot be used .*'inferer'"):
        scripts["bundle_rules"].check_workflows(bundle)


def test_a_property_under_another_name_is_refused(bundle: Path, scripts: dict[str, Any]) -> None:
    def rename(config: dict[str, Any]) -> None:
        config["every"] = config["val_interval"]
        handler = next(h for h in config["train"]["handlers"] if h["_target_"] == "ValidationHandler")
        handler["interval"] = "@every"

    edit(bundle / "configs" / "train.json", rename)
    with pytest.raises(scripts["bundle_rules"].RuleError, match=r"train\.json: lacks properties .*: val_interval"):
        scripts["bundle_rules"].check_workflows(bundle)


def test_weights_that_monai_would_pass_over_are_refused(bundle: Path, scripts: dict[str, Any]) -> None:
    path = bundle / "models" / "model.pt"
    torch.save({"model": torch.load(path, weights_only=True)}, path)
    record_digests(path.parent, ["model.pt"])
    with pytest.raises(scripts["bundle_rules"].RuleError, match="took over 0 of"):
        scripts["bundle_rules"].check_load(bundle)
    path.write_bytes(b"no weights")
    record_digests(path.parent, ["model.pt"])
    with pytest.raises(scripts["bundle_rules"].RuleError, match=r"model\.pt: not a readable checkpoint"):
        scripts["bundle_rules"].check_load(bundle)


def test_the_command_tells_what_is_wrong(
    bundle: Path, scripts: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main = scripts["package_bundle"].main
    (bundle / "LICENSE").unlink()
    assert main([str(tmp_path / "out"), "--bundle", str(bundle)]) == 2
    assert capsys.readouterr().err.startswith("package_bundle: ")
    assert main([str(tmp_path / "out"), "--bundle", str(tmp_path / "nowhere")]) == 2
    assert "nowhere: no bundle" in capsys.readouterr().err
    assert main([str(tmp_path / "out"), "--bundle", str(bundle), "--name", "my bundle"]) == 2
    assert "letters, digits and underscores" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
