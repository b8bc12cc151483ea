"""The `phnet` command as a whole: dispatch, exact strings, exit codes, help."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from phnet_monai import __version__
from phnet_monai.cli import main as module
from phnet_monai.cli.main import COMMANDS, help_text, main, one_line

Calls = list[tuple[str, tuple[Any, ...], dict[str, Any]]]
LEAVES = [
    ["train"],
    ["audit"],
    ["evaluate"],
    ["infer"],
    ["rank"],
    ["export"],
    ["compare"],
    ["demo"],
    ["prepare", "busi"],
    ["prepare", "busbra"],
    ["prepare", "folder"],
    ["prepare", "add"],
]
HEAVY = ("torch", "monai", "scipy", "skimage", "numpy", "PIL")


def run_python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, **environment}
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, check=False)


@pytest.fixture
def datalist(tmp_path: Path) -> Path:
    file = tmp_path / "datalist.json"
    file.write_text("{}")
    return file


def test_every_command_is_covered_here() -> None:
    found = [[n] if callable(c) else [n, sub] for n, c in COMMANDS.items() for sub in (c if not callable(c) else [""])]
    assert sorted(path for path in found) == sorted(LEAVES)


@pytest.mark.parametrize("words", [[], ["prepare"], *LEAVES], ids=" ".join)
def test_help_is_quick_because_nothing_heavy_is_imported(words: list[str]) -> None:
    code = (
        "import sys; from phnet_monai.cli.main import main\n"
        f"code = main({[*words, '--help']!r})\n"
        f"heavy = [name for name in {HEAVY!r} if name in sys.modules]\n"
        "print('heavy:', heavy); sys.exit(code)"
    )
    done = run_python(code)
    assert done.returncode == 0, done.stderr
    assert "heavy: []" in done.stdout
    assert " ".join(["phnet", *words]) in done.stdout
    assert done.stderr == ""


def test_a_misspelt_flag_is_answered_without_heavy_imports_too() -> None:
    code = (
        "import sys; from phnet_monai.cli.main import main\n"
        "code = main(['infer', 'a', 'b', '--modle', 'c'])\n"
        "sys.exit(code if 'torch' not in sys.modules else 99)"
    )
    done = run_python(code)
    assert done.returncode == 2
    assert done.stderr == "phnet: infer: unknown flag --modle; did you mean --model?\n"


@pytest.mark.parametrize("words", LEAVES, ids=" ".join)
def test_help_explains_every_argument(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    import inspect

    component: Any = COMMANDS
    for word in words:
        component = component[word]
    assert main([*words, "--help"]) == 0
    text = capsys.readouterr().out
    assert "\x1b" not in text
    documented = component.__doc__.partition("Args:")[2]
    for parameter in inspect.signature(component).parameters.values():
        assert f"{parameter.name}: " in documented
        if parameter.kind is parameter.KEYWORD_ONLY:
            assert any(f"--{no}{parameter.name.replace('_', '-')}" in text for no in ("", "[no-]"))
        elif parameter.kind is parameter.POSITIONAL_OR_KEYWORD:
            assert parameter.name.upper() in text


def test_help_shows_choices_and_switches() -> None:
    text = help_text(COMMANDS["prepare"]["busi"], "phnet prepare busi")
    assert "grouped | paper" in text
    assert "--[no-]normals" in text
    assert "--split-seed=SPLIT_SEED" in text


def test_help_in_the_middle_of_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["infer", "in", "--help"]) == 0
    assert "phnet infer INPUT OUT" in capsys.readouterr().out


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"phnet {__version__}\n"


@pytest.mark.parametrize("words", [[], ["prepare"]])
def test_no_command_shows_the_commands_as_an_error(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "COMMAND is one of the following" in captured.err


@pytest.mark.parametrize(
    ("words", "hint"),
    [(["infr"], "infer"), (["prepare", "buzi"], "busi"), (["xyz"], "train"), (["--verson"], "'--verson'")],
)
def test_unknown_command(words: list[str], hint: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    error = capsys.readouterr().err
    assert hint in error
    assert error.count("\n") == 1


def test_python_dash_m(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "phnet_monai", "--version"], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert (done.returncode, done.stdout) == (0, f"phnet {__version__}\n")


@pytest.mark.parametrize(("before", "after"), [(None, "true"), ("false", "false")])
def test_mlflow_tells_nobody_of_its_use_unless_asked(
    before: str | None, after: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_DISABLE_TELEMETRY", raising=False)
    if before is not None:
        monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", before)
    assert main(["--version"]) == 0
    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == after


def test_train_hands_everything_on(calls: Calls, datalist: Path, tmp_path: Path) -> None:
    for name in ("a.json", "b,1.json", "c.json", "start.pt"):
        (tmp_path / name).write_text("{}")
    words = ["train", str(datalist), str(tmp_path / "2024"), "--profile", "smoke", "--method", "sup_only"]
    words += ["--config", f"{tmp_path}/a.json,{tmp_path}/c.json", "--config", f"{tmp_path}/b,1.json", "--seed=7"]
    words += ["--init", f"{tmp_path}/start.pt", "--device", "cpu", "--amp", "off"]
    words += ["--tracking", "mlflow", "--optimizer#lr", "0.01", "--max_epochs=3"]
    assert main(words) == 0
    assert calls == [
        (
            "train_run",
            (str(datalist), str(tmp_path / "2024")),
            {
                "profile": "smoke",
                "method": "sup_only",
                "recipe": "harmonised",
                "config": [f"{tmp_path}/a.json", f"{tmp_path}/c.json", f"{tmp_path}/b,1.json"],
                "seed": 7,
                "init": f"{tmp_path}/start.pt",
                "resume": False,
                "device": "cpu",
                "amp": "off",
                "tracking": "mlflow",
                "overrides": {"optimizer#lr": 0.01, "max_epochs": 3},
                "allow_leak": False,
            },
        )
    ]


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ([], True),
        (["--resume"], False),
        (["--init", "{start}"], False),
        (["--method", "warm_start"], False),
        (["--profile", "paper"], False),
    ],
)
def test_phnet_without_a_start_is_noted(
    more: list[str], told: bool, calls: Calls, datalist: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "start.pt").write_text("")
    words = [word.format(start=tmp_path / "start.pt") for word in more]
    assert main(["train", str(datalist), str(tmp_path / "o"), *words]) == 0
    assert ("--method warm_start`, then `--init START/last.pt`" in capsys.readouterr().err) is told


def test_switch_before_the_paths(calls: Calls, datalist: Path, tmp_path: Path) -> None:
    assert main(["train", "--resume", str(datalist), str(tmp_path / "o")]) == 0
    assert calls[0][1] == (str(datalist), str(tmp_path / "o"))
    assert calls[0][2]["resume"] is True


@pytest.mark.parametrize("name", ["2024", "1e3", "a,b", "None", "ma#sk", "two words", "Übung", "it's", "-"])
def test_awkward_paths_reach_the_job(name: str, calls: Calls, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path(name).write_text("{}")
    assert main(["evaluate", name, name, f"{name}.out", "--part=validation"]) == 0
    options = {"part": "validation", "device": "auto", "batch_size": 8, "which": "teacher", "allow_leak": False}
    assert calls == [("evaluate_run", ([name], name, f"{name}.out"), options)]


def test_several_checkpoints_reach_the_job(calls: Calls, datalist: Path, tmp_path: Path) -> None:
    for name in ("a.pt", "b.pt", "c,1.pt"):
        (tmp_path / name).write_text("")
    a, b, c = (str(tmp_path / name) for name in ("a.pt", "b.pt", "c,1.pt"))
    lines = ([a, b, c, str(datalist), "o"], [f"{a},{b}", c, str(datalist), "o"], ["--checkpoint", a, "--checkpoint", b])
    assert main(["evaluate", *lines[0]]) == 0
    assert main(["evaluate", *lines[1]]) == 0
    assert main(["evaluate", *lines[2], "--checkpoint", c, str(datalist), "o", "--which", "student"]) == 0
    assert [call[1] for call in calls] == [([a, b, c], str(datalist), "o")] * 3
    assert calls[2][2]["which"] == "student"


def test_a_folder_stands_for_its_datalist(calls: Calls, datalist: Path, tmp_path: Path) -> None:
    assert main(["train", str(datalist.parent), str(tmp_path / "o")]) == 0
    assert calls[0][1][0] == str(datalist)


def test_earlier_scores_are_not_replaced_unasked(
    calls: Calls, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a.pt", "list.json", "o/summary.json", "o/report.html"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("{}")
    words = ["evaluate", *(str(tmp_path / name) for name in ("a.pt", "list.json", "o"))]
    assert main(words) == 2
    assert "holds earlier scores. Choose another folder, or replace them with --overwrite." in capsys.readouterr().err
    assert calls == []
    assert main([*words, "--overwrite"]) == 0
    assert not (tmp_path / "o" / "report.html").exists()  # it was of other scores


def test_demo(calls: Calls, tmp_path: Path) -> None:
    assert main(["demo", str(tmp_path / "1e3"), "--seed", "4"]) == 0
    assert calls == [("run_demo", (str(tmp_path / "1e3"),), {"seed": 4})]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train", "nope.json", "o"], "nope.json: no such datalist"),
        (["train", "{list}", "o", "--init", "nope.pt"], "--init: nope.pt"),
        (["train", "{list}", "o", "--config", "nope.json"], "--config: nope.json"),
        (["train", "{list}", "{list}"], "is a file"),
        (["train", "{list}", "{list}/below"], "is a file"),
        (["train", "{list}", "o", "--resume", "--init", "{list}"], "exclude each other"),
        (["train", "{list}", "o", "--profile", "papr"], "did you mean paper"),
        (["train", "{list}", "o", "--sead", "1"], "did you mean --seed"),
        (["evaluate", "nope.pt", "{list}", "o"], "nope.pt: no such model"),
        (["evaluate", "{list},nope.pt", "{list}", "o"], "nope.pt: no such model"),
        (["evaluate", "{list}", "nope.pt", "{list}", "o"], "nope.pt: no such model"),
        (["evaluate", "{list}", "nope", "o"], "nope: no such datalist"),
        (["evaluate", "{list}", "{list}", "o", "--batch-size", "0"], "at least 1"),
        (["evaluate", "{list}", "{list}", "o", "--part", "tests"], "did you mean test"),
        (["demo", "{list}"], "is a file"),
        (["prepare", "busi", "nope", "o"], "nope is not a folder"),
        (["prepare", "busbra", "nope", "o"], "nope is not a folder"),
        (["prepare", "folder", "nope", "o", "--protocol", "random"], "grouped, paper"),
        (["prepare", "folder", "nope", "o", "--folds", "5"], "give both"),
        (["prepare", "busi", "nope", "o", "--folds", "5", "--fold", "6"], "expected 1 to 5"),
    ],
)
def test_mistakes_are_refused_before_any_work(
    words: list[str], message: str, calls: Calls, datalist: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([word.replace("{list}", str(datalist)) for word in words]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith("phnet: ")
    assert error.count("\n") == 1
    assert calls == []


def failing(error: BaseException) -> Any:
    def command() -> int:
        raise error

    return command


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("two\n  lines"), "phnet: two lines\n"),
        (FileNotFoundError(2, "No such file or directory", "x.png"), "phnet: x.png: No such file or directory\n"),
        (FileExistsError("o exists"), "phnet: o exists\n"),
        (PermissionError(13, "Permission denied", "locked/x"), "phnet: locked/x: Permission denied\n"),
    ],
)
def test_user_errors_are_one_line(
    error: Exception, line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("PHNET_DEBUG", raising=False)
    monkeypatch.setitem(COMMANDS, "demo", failing(error))
    assert main(["demo"]) == 2
    assert capsys.readouterr().err == line


def test_debug_shows_where(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("PHNET_DEBUG", "1")
    monkeypatch.setitem(COMMANDS, "demo", failing(ValueError("wrong")))
    assert main(["demo"]) == 2
    error = capsys.readouterr().err
    assert "Traceback" in error
    assert error.endswith("phnet: wrong\n")


def test_interrupt(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(COMMANDS, "demo", failing(KeyboardInterrupt()))
    assert main(["demo"]) == 130
    assert "interrupted" in capsys.readouterr().err


def test_a_defect_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(COMMANDS, "demo", failing(ZeroDivisionError("bug")))
    with pytest.raises(ZeroDivisionError):
        main(["demo"])


def test_a_tracker_that_cannot_be_reached_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    unreachable = type("MlflowException", (Exception,), {"__module__": "mlflow.exceptions"})
    monkeypatch.setitem(COMMANDS, "demo", failing(unreachable("API request failed\n  at http://127.0.0.1:9")))
    assert main(["demo"]) == 2
    assert capsys.readouterr().err == "phnet: API request failed at http://127.0.0.1:9\n"


COMMAND = """
import os, sys
from phnet_monai.cli import main as m

def command() -> int:
    {}

m.COMMANDS['demo'] = command
sys.exit(m.main(['demo']))
"""


def test_output_that_nobody_reads_is_no_error() -> None:
    code = COMMAND.format("sys.stdin.read(); print('x' * 100_000, flush=True)")
    child = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert child.stdin is not None
    assert child.stdout is not None
    assert child.stderr is not None
    child.stdout.close()
    child.stdin.close()  # go
    assert (child.stderr.read(), child.wait()) == (b"", 0)
    child.stderr.close()


def test_another_broken_pipe_is_one() -> None:
    done = run_python(COMMAND.format("r, w = os.pipe(); os.close(r); os.write(w, b'x')"))
    assert (done.returncode, done.stderr) == (2, "phnet: [Errno 32] Broken pipe\n")


def test_names_that_the_terminal_cannot_show_do_not_end_the_job() -> None:
    code = "import sys; from phnet_monai.cli import main as m\n"
    code += "def command() -> int:\n    print('\\u8d85.png'); return 3\n"
    code += "m.COMMANDS['demo'] = command\nsys.exit(m.main(['demo']))"
    done = run_python(code, PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stdout) == (3, "\\u8d85.png\n")


def test_one_line_of_an_error_without_text() -> None:
    assert one_line(ValueError()) == "ValueError"


def test_exit_codes_are_distinct() -> None:
    from phnet_monai.inference.summary import NOTHING_TO_DO, SOME_FAILED

    assert len({0, 1, module.USER_ERROR, SOME_FAILED, NOTHING_TO_DO, module.INTERRUPTED, module.TERMINATED}) == 7
