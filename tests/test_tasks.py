"""Tasks in processes: order, needs, failures, kills."""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from phnet_monai.tasks import Task, run_tasks

HERE = Path(__file__).stem


# what the tasks do, in processes of their own


def note(path: str, text: str) -> None:
    with open(path, "a", encoding="utf-8") as file:
        file.write(f"{text}\n")


def fail(message: str) -> None:
    raise ValueError(message)


def defect() -> None:
    raise ZeroDivisionError


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def load_with_a_process() -> None:
    """As a training with loader processes does."""
    child = multiprocessing.get_context("spawn").Process(target=int)
    child.start()
    child.join()
    assert child.exitcode == 0


def write_pid_and_wait(path: str) -> None:
    Path(path).write_text(str(os.getpid()))
    while True:
        time.sleep(0.01)


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Child processes import this file by its bare name."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent))


def task(name: str, function: str = "note", needs: tuple[str, ...] = (), **arguments) -> Task:
    return Task(name, f"{HERE}:{function}", arguments, frozenset(needs))


def test_a_task_may_have_processes_of_its_own() -> None:
    outcome = run_tasks([task("loads", "load_with_a_process")], jobs=1, progress=False)
    assert outcome.errors == {}
    assert outcome.done == ["loads"]


@pytest.mark.parametrize("jobs", [0, 2])
def test_needs_come_first(jobs: int, tmp_path: Path) -> None:
    log = tmp_path / "log"
    tasks = [
        task("cell", needs=("start",), path=str(log), text="cell"),
        task("start", needs=("data",), path=str(log), text="start"),
        task("data", path=str(log), text="data"),
    ]
    seen: list[str] = []
    outcome = run_tasks(tasks, jobs=jobs, progress=False, on_done=lambda done: seen.append(done.name))
    assert log.read_text().split() == ["data", "start", "cell"]
    assert outcome.done == seen == ["data", "start", "cell"]
    assert outcome.errors == {}
    assert outcome.skipped == []


@pytest.mark.parametrize("jobs", [0, 1])
def test_a_failure_stops_only_what_needs_it(jobs: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = tmp_path / "log"
    tasks = [
        task("bad", "fail", message="no\nsuch thing"),
        task("child", needs=("bad",), path=str(log), text="child"),
        task("grandchild", needs=("child",), path=str(log), text="grandchild"),
        task("other", path=str(log), text="other"),
    ]
    outcome = run_tasks(tasks, jobs=jobs, progress=False)
    assert outcome.errors == {"bad": "no such thing"}
    assert outcome.skipped == ["child", "grandchild"]
    assert outcome.done == ["other"]
    assert log.read_text() == "other\n"
    assert "bad: no such thing" in capsys.readouterr().err


def test_a_log_file_gets_a_line_per_task(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = str(tmp_path / "log")
    first = Task("first", f"{HERE}:note", {"path": log, "text": "1"}, steps=10)
    tasks = [
        first,
        task("bad", "fail", message="no"),
        Task("last", f"{HERE}:note", {"path": log, "text": "2"}, steps=10),
    ]
    run_tasks(tasks, jobs=1)
    lines = [line for line in capsys.readouterr().err.splitlines() if line]
    assert re.fullmatch(r"done: first \(1 of 3, about \d\d:\d\d left\)", lines[0]), lines
    assert lines[1:] == ["bad: no", "done: last (2 of 3)"]
    run_tasks([first], jobs=1, progress=False)
    assert capsys.readouterr().err == ""


def test_a_defect_is_shown_with_its_traceback() -> None:
    error = run_tasks([task("bug", "defect")], progress=False).errors["bug"]
    assert "ZeroDivisionError" in error
    assert "in defect" in error


def test_an_error_longer_than_a_pipe_holds_ends_all_the_same() -> None:
    error = run_tasks([task("long", "fail", message="x" * 1_000_000 + " end")], progress=False).errors["long"]
    assert error.endswith("x end")
    assert len(error) < 10_000


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL")
def test_a_killed_process_is_a_failure() -> None:
    error = run_tasks([task("gone", "die")], progress=False).errors["gone"]
    assert "ended with code -9" in error


def test_no_process_is_left_when_the_comparison_is_interrupted(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"

    def interrupt(_: Task) -> None:
        while not (pid_file.is_file() and pid_file.read_text()):
            time.sleep(0.01)
        raise KeyboardInterrupt

    tasks = [
        task("long", "write_pid_and_wait", path=str(pid_file)),
        task("short", path=str(tmp_path / "log"), text="x"),
    ]
    with pytest.raises(KeyboardInterrupt):
        run_tasks(tasks, jobs=2, progress=False, on_done=interrupt)
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid_file.read_text()), 0)


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL")
def test_no_process_outlives_a_killed_comparison(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    code = (
        "from phnet_monai.tasks import Task, run_tasks\n"
        "if __name__ == '__main__':\n"
        f"    run_tasks([Task('long', '{HERE}:write_pid_and_wait', {{'path': {str(pid_file)!r}}})], progress=False)\n"
    )
    (tmp_path / "script.py").write_text(code)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    parent = subprocess.Popen([sys.executable, str(tmp_path / "script.py")], env=environment)
    while not (pid_file.is_file() and pid_file.read_text()):
        assert parent.poll() is None
        time.sleep(0.01)
    parent.kill()
    parent.wait()
    child = int(pid_file.read_text())
    while _is_running(child):  # hangs, and so fails, if the child goes on
        time.sleep(0.01)


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    stat = Path(f"/proc/{pid}/stat")
    return not stat.is_file() or stat.read_text().rpartition(")")[2].split()[0] != "Z"


def test_steps_come_from_the_history(tmp_path: Path) -> None:
    one = Task("a", "x:y", {}, steps=20, folder=tmp_path)
    assert one.steps_done() == 0
    rows = [json.dumps({"epoch": epoch, "iteration": 8 * epoch}) for epoch in (1, 2)]
    (tmp_path / "history.jsonl").write_text("\n".join(rows) + '\n{"epoch": 3, "iter')
    assert one.steps_done() == 16
    (tmp_path / "history.jsonl").write_text("\n".join(rows) + '\n{"epoch": 3, "train": {"loss": 1}')
    assert one.steps_done() == 16
    assert Task("a", "x:y", {}, steps=10, folder=tmp_path).steps_done() == 10
