"""`phnet audit`, and the refusal of leaking datalists by the commands that use them."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest
from PIL import Image

from phnet_monai.cli.main import main
from phnet_monai.data import write_phantoms


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """24 scans; 2 is the darker copy of 1."""
    made = write_phantoms(tmp_path / "own data", 24, seed=0, size_range=(150, 160))
    first, second = (made / "images" / f"phantom_{number:04d}.png" for number in (1, 2))
    Image.open(first).point(lambda value: int(0.7 * value)).save(second)
    (made / "masks" / second.name).write_bytes((made / "masks" / first.name).read_bytes())
    return made


def test_findings_are_printed_and_written(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "1e3"
    assert main(["audit", str(folder), str(out), "--quiet"]) == 0
    captured = capsys.readouterr()
    assert "1 x near-duplicates" in captured.out
    assert "images/phantom_0001.png, images/phantom_0002.png" in captured.out
    assert str(out / "audit.html") in captured.out
    assert captured.err == ""
    data = json.loads((out / "audit.json").read_text())
    assert (data["images"], data["refused"], data["checks"]["duplicates"]["count"]) == (24, False, 1)
    assert "1 x near-duplicates" in (out / "audit.txt").read_text()
    page = (out / "audit.html").read_text()
    assert page.count("data:image/jpeg") == 2
    assert not re.search(r"https?://", page)


def test_without_out_nothing_is_written(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(tmp_path.rglob("*"))
    assert main(["audit", str(folder), "--quiet"]) == 0
    assert sorted(tmp_path.rglob("*")) == before
    assert "near-duplicates" in capsys.readouterr().out


def test_pictures_can_be_left_out(folder: Path, tmp_path: Path) -> None:
    assert main(["audit", str(folder), str(tmp_path / "out"), "--no-pictures", "--quiet"]) == 0
    page = (tmp_path / "out" / "audit.html").read_text()
    assert "data:image/jpeg" not in page
    assert "phantom_0001.png" in page


def test_links_that_lead_nowhere_and_odd_names_are_findings(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "images" / "gone.png").symlink_to("nowhere")
    (folder / "images" / "circle.png").symlink_to("circle.png")
    odd = os.fsdecode(b"od\xffd.png")
    for kind in ("images", "masks"):
        (folder / kind / odd).write_bytes((folder / kind / "phantom_0003.png").read_bytes())
    assert main(["audit", str(folder), str(tmp_path / "o"), "--quiet"]) == 3  # broken files
    text = (tmp_path / "o" / "audit.txt").read_text(encoding="utf-8")
    assert "images/gone.png" in text
    assert "images/circle.png" in text
    assert "od\\udcffd.png" in text
    assert (tmp_path / "o" / "audit.html").is_file()
    capsys.readouterr()


def test_what_prepare_refuses_gives_code_3(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "images" / "phantom_0005.png").write_bytes(b"")
    assert main(["audit", str(folder), str(tmp_path / "out"), "--quiet"]) == 3
    assert "! 1 x broken files" in capsys.readouterr().out
    assert (tmp_path / "out" / "audit.html").is_file()


def test_a_report_is_not_replaced_unasked(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "audit.json").write_text("mine")
    assert main(["audit", str(folder), str(tmp_path / "out"), "--quiet"]) == 2
    assert "audit.json exists" in capsys.readouterr().err
    assert (tmp_path / "out" / "audit.json").read_text() == "mine"
    assert main(["audit", str(folder), str(tmp_path / "out"), "--quiet", "--overwrite"]) == 0
    assert (tmp_path / "out" / "audit.json").read_text() != "mine"


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["none"], 2, "none: expected the folder of a dataset, or a datalist"),
        (["empty"], 4, "nothing to do: empty holds no image"),
        (["empty", "file"], 2, "file is a file, expected a folder for the results"),
        (["empty", "--layout", "bus"], 2, "did you mean busi"),
        (["empty", "--layout", "busi"], 2, "empty is not BUSI"),
        (["empty", "--layout", "busi", "--masks", "empty"], 2, "masks are given for the layout busi"),
    ],
)
def test_mistakes(
    words: list[str],
    code: int,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    Path("file").touch()
    assert main(["audit", *words]) == code
    assert message in capsys.readouterr().err


@pytest.fixture
def leaking(folder: Path, tmp_path: Path) -> Path:
    """A datalist whose test part was given an image of the labeled one."""
    assert main(["prepare", "folder", str(folder), str(tmp_path / "list"), "--labeled", "6", "--quiet"]) == 0
    path = tmp_path / "list" / "datalist.json"
    content = json.loads(path.read_text())
    groups = [entry["group_id"] for part in ("labeled", "unlabeled", "validation", "test") for entry in content[part]]
    content["test"].append(next(entry for entry in content["labeled"] if groups.count(entry["group_id"]) == 1))
    path.write_text(json.dumps(content))
    return path


def test_audit_tells_of_the_leak(leaking: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["audit", str(leaking.parent), "--quiet"]) == 3
    out = capsys.readouterr().out
    assert "! 1 x one scan on two sides of the split" in out
    assert "are one file" in out


def test_train_refuses_a_leak_before_any_work(
    leaking: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", str(leaking), str(tmp_path / "run"), "--profile", "smoke"]) == 2
    error = capsys.readouterr().err
    assert "1 scans lie on two sides of the split" in error
    assert "--allow-leak" in error
    assert not (tmp_path / "run").exists()


def test_evaluate_refuses_a_leak_before_it_loads_the_network(
    leaking: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "no network.pt").write_bytes(b"")
    words = ["evaluate", str(tmp_path / "no network.pt"), str(leaking), str(tmp_path / "scores")]
    assert main(words) == 2
    assert "lie on two sides" in capsys.readouterr().err
    assert main([*words, "--allow-leak"]) == 2
    error = capsys.readouterr().err
    assert "no network.pt" in error
    assert not (tmp_path / "scores").exists()


def test_allowed_leaks_are_trained_on_with_a_warning(
    leaking: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    words = ["train", str(leaking), str(tmp_path / "run"), "--profile", "smoke", "--method", "sup_only", "--device=cpu"]
    assert main([*words, "--allow-leak", "--max_epochs", "1", "--epoch_length", "1"]) == 0
    assert caplog.text.count("Allowed by --allow-leak; scores are too high") == 1
    assert (tmp_path / "run" / "last.pt").is_file()


def test_compare_refuses_a_leaking_datalist_of_an_earlier_run(
    folder: Path, leaking: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    split = tmp_path / "work" / "data" / "6__seed0"
    split.mkdir(parents=True)
    content = json.loads(leaking.read_text())
    for part in ("labeled", "unlabeled", "validation", "test"):
        for entry in content[part]:
            for key in ("image", "label", "hidden_label"):
                if key in entry:
                    entry[key] = str((leaking.parent / entry[key]).resolve())
    (split / "datalist.json").write_text(json.dumps(content))
    words = ["compare", str(folder), str(tmp_path / "out"), "--work", str(tmp_path / "work"), "--methods", "sup_only"]
    assert main([*words, "--labeled", "6", "--seeds", "0", "--profiles", "smoke", "--quiet"]) == 2
    assert "lie on two sides" in capsys.readouterr().err
    assert not (tmp_path / "out" / "results").exists()


def test_prepare_says_what_protocol_paper_costs(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(3, 13):  # twins enough that any random split parts some of them
        for kind in ("images", "masks"):
            content = (folder / kind / f"phantom_{number:04d}.png").read_bytes()
            (folder / kind / f"phantom_{number + 10:04d}.png").write_bytes(content)
    out = tmp_path / "paper"
    words = ["prepare", "folder", str(folder), str(out), "--protocol", "paper", "--labeled", "6", "--quiet"]
    assert main(words) == 0
    assert "phnet: warning: protocol paper:" in capsys.readouterr().err
    assert json.loads((out / "datalist.json").read_text())["meta"]["leak_allowed"] == "protocol paper"
    assert main(["audit", str(out), "--quiet"]) == 0
    assert "one scan on two sides of the split, allowed" in capsys.readouterr().out
