"""No page names a command, flag, id, script or overlay that does not exist (run: tests/integration/test_docs.py)."""

from __future__ import annotations

import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest

DOCS = SimpleNamespace(**runpy.run_path(str(Path(__file__).parent / "reference" / "doc_blocks.py")))
PAGES = DOCS.pages()
COMMANDS = [(page, command, whole) for page, text in PAGES.items() for command, whole in DOCS.named_commands(text)]


@pytest.mark.parametrize(
    ("page", "command", "whole"), COMMANDS, ids=[f"{page}: {command[:60]}" for page, command, _ in COMMANDS]
)
def test_what_a_page_names_exists(page: str, command: str, whole: bool) -> None:
    DOCS.check(command, whole=whole)


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        ("phnet infer scans out --tresholds 0.4", "unknown flag"),
        ("phnet infer scans", "OUT missing"),
        ("phnet segment scans out", "there is no command 'phnet segment'"),
        ("phnet train data out --apa#treshold 0.8", "did you mean 'apa#threshold'"),
        ("phnet train data out --config ablations/table2_IV", "ablation 'table2_IV' does not exist"),
        ("python -m phnet_monai train data out --method phnets", "method 'phnets' does not exist"),
        ("torchrun --nproc-per-node 8 -m phnet_monai infer scans out --gpus 8", "unknown flag"),
        ("python scripts/benchmark_steps.py", "there is no scripts/benchmark_steps.py"),
        ("python scripts/benchmark_step.py --profil cpu", "has no --profil"),
        ("make demonstration", "no such target"),
        ("--min-area-mm3", "does not exist"),
        ("--apa#treshold 0.8", "does not exist"),
        (
            "python -m monai.bundle run --config_file \"['$BUNDLE/configs/train.json']\" --max_epoch 3",
            "does not exist",
        ),
    ],
)
def test_what_does_not_exist_is_found(command: str, reason: str) -> None:
    with pytest.raises((AssertionError, ValueError), match=reason):
        DOCS.check(command)


@pytest.mark.parametrize(
    "command",
    [
        "phnet train DATALIST OUT --method NAME",
        "phnet evaluate CHECKPOINT ... DATALIST OUT",
        "phnet COMMAND --help",
        "phnet --version",
        "--config ablations/NAME",
        "--no-overlays",
        "--max_epochs 2",
    ],
)
def test_placeholders_and_flags_alone_are_right(command: str) -> None:
    DOCS.check(command, whole=False)


def test_blocks_are_told_apart() -> None:
    page = (
        'Text `phnet infer` and `--flip`.\n\n```python title="a.py"\nx = 1\n```\n\n'
        "    phnet export a.pt b.onnx\n    text\n\n```bash\n# comment\nphnet rank a \\\n  b\n```\n"
    )
    found = [(block.language, block.title) for block in DOCS.blocks(page)]
    assert found == [("python", "a.py"), ("indented", None), ("bash", None)]
    found = [(command.split(), whole) for command, whole in DOCS.named_commands(page)]
    assert found == [
        (["phnet", "export", "a.pt", "b.onnx"], True),
        (["phnet", "rank", "a", "b"], True),
        (["phnet", "infer"], False),
        (["--flip"], False),
    ]
