"""Progress bars: on a terminal, on stderr, and nowhere else."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from phnet_monai.cli.main import main


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """`shown(True, "infer", ...)`: what a command that ends well writes on stderr, a terminal or a file."""

    def run(terminal: bool, *words: Any) -> str:
        stream = Terminal() if terminal else io.StringIO()
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stderr", stream)
            assert main([str(word) for word in words]) == 0, stream.getvalue()
        assert "%|" not in capsys.readouterr().out
        return stream.getvalue()

    return run


@pytest.mark.parametrize("command", ["infer", "rank"])
def test_folders(shown: Callable[..., str], command: str, model: Path, pictures: Path, tmp_path: Path) -> None:
    words = [command, pictures, "--model", model, "--device", "cpu"]
    on_terminal = shown(True, *words[:2], tmp_path / "terminal", *words[2:])
    assert "100%|" in on_terminal
    assert "4/4" in on_terminal
    assert shown(True, *words[:2], tmp_path / "quiet", *words[2:], "--quiet") == ""
    assert "%|" not in shown(False, *words[:2], tmp_path / "file", *words[2:])


def test_training_and_its_data(shown: Callable[..., str], labeled_folder: Callable[..., Path], tmp_path: Path) -> None:
    prepare = ["prepare", "folder", labeled_folder(24)]
    told = shown(True, *prepare, tmp_path / "data", "--labeled", "4")
    assert "reading:" in told
    assert "0/24" in told  # it may be done before the next time that the bar is drawn
    assert shown(True, *prepare, tmp_path / "quiet", "--labeled", "4", "--quiet") == ""
    train = ["train", tmp_path / "data"]
    options = ["--profile", "smoke", "--method", "sup_only", "--device", "cpu"]
    on_terminal = shown(True, *train, tmp_path / "terminal", *options)
    assert "train: 100%|" in on_terminal
    assert "4/4" in on_terminal
    assert "epoch=2, loss=" in on_terminal
    assert "%|" not in shown(False, *train, tmp_path / "file", *options)
