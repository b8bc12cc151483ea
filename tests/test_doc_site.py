"""The documentation site: it builds strictly, loads nothing from elsewhere, and finds what is wrong."""

from __future__ import annotations

import importlib
import os
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("mkdocs", reason="the site needs the extra `docs`")

ROOT = Path(__file__).parents[1]
HOOKS = SimpleNamespace(**runpy.run_path(str(ROOT / "scripts" / "docs_hooks.py")))
LIMIT = 150_000  # bytes of a picture


def build(root: Path, site: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(site)],
        cwd=root,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    done = build(ROOT, folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_pages_load_nothing_from_elsewhere(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    assert len(pages) > 20
    for page in pages:
        text = page.read_text(encoding="utf-8")
        assert HOOKS.loaded_from_elsewhere(text) == []
        assert "fonts.googleapis" not in text


@pytest.mark.parametrize("room", HOOKS.ROOMS)
def test_public_names_are_in_the_reference(room: str, site: Path) -> None:
    page = (site / "reference" / f"{room}.html").read_text(encoding="utf-8")
    names = importlib.import_module(f"phnet_monai.{room}").__all__
    missing = [name for name in names if f'id="phnet_monai.{room}.{name}"' not in page]
    assert [
        name for name in missing if name not in ("OPERATIONS", "IMAGE_SUFFIXES", "CHECKS")
    ] == []  # lists without docstring


def test_command_line_page_has_every_command_and_flag(site: Path) -> None:
    page = (site / "reference" / "command-line.html").read_text(encoding="utf-8")
    for title, _ in HOOKS.commands():
        assert title in page
    for flag in ("--min-area-mm2=MIN_AREA_MM2", "--[no-]overlays", "--split-seed=SPLIT_SEED"):
        assert flag in page


def test_pictures_are_small_and_shown(site: Path) -> None:
    page = (ROOT / "docs" / "method.md").read_text(encoding="utf-8")
    pictures = {path.name for path in (ROOT / "docs" / "pictures").iterdir()}
    assert pictures == set(re.findall(r"\]\(pictures/([\w.]+)\)", page))
    for name in pictures:
        file = ROOT / "docs" / "pictures" / name
        assert file.stat().st_size < LIMIT
        assert re.findall(r"href=\"(?!data:)|https?://(?!www\.w3\.org/2000/svg)", file.read_text()) == []
    assert all(text.strip() for text in re.findall(r"!\[(.*?)\]", page))  # a description of each


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("[a](#home)", ""),  # nothing is wrong
        ("[a](no_such_page.md)", "no_such_page.md"),
        ("[a](index.md#no-such-part)", "no-such-part"),
        ("[a](../phnet_monai/handlers/no_such.py)", "phnet_monai/handlers/no_such.py"),
        ("![a](pictures/no_such.svg)", "no_such.svg"),
        ("::: phnet_monai.no_such_room", "no_such_room"),
        ('<img src="https://example.org/a.png">', "loads https://example.org/a.png"),
    ],
)
def test_what_is_wrong_is_found(text: str, found: str, tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    shutil.copytree(ROOT / "scripts", tmp_path / "scripts")
    settings = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    hooks = "hooks:\n  - scripts/docs_hooks.py\n"
    assert hooks in settings
    settings = settings.split("\nnav:\n")[0] + "\nnav:\n  - Home: index.md\n"
    # the made pages take seconds, and only the links are at stake
    (tmp_path / "scripts" / "few_pages.py").write_text(
        "from docs_hooks import on_page_markdown, on_post_build  # noqa: F401\n", encoding="utf-8"
    )
    (tmp_path / "mkdocs.yml").write_text(
        settings.replace(hooks, "hooks:\n  - scripts/few_pages.py\n"), encoding="utf-8"
    )
    (tmp_path / "docs" / "stylesheets").mkdir()
    (tmp_path / "docs" / "stylesheets" / "extra.css").write_text("")
    (tmp_path / "docs" / "index.md").write_text(f"# Home\n\n{text}\n", encoding="utf-8")
    done = build(tmp_path, tmp_path / "site")
    assert (done.returncode != 0) == bool(found), done.stdout + done.stderr
    assert found in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("link", "led"),
    [
        ("[a](../phnet_monai/engines/step.py)", "[a](reference/engines.md)"),
        ("[a](../bundle/docs/model_card.md)", "[a](model-card.md)"),
        ("[`b`](../bundle/configs/methods/sup_only.json)", "`b`"),
        ("[a](results/busi)", "a"),
        ("[a](methods.md#ablations)", "[a](methods.md#ablations)"),
        ("[a](reference/data.md)", "[a](reference/data.md)"),
        ("[a](https://monai.io)", "[a](https://monai.io)"),
        ("![a](pictures/mix.svg)", "![a](pictures/mix.svg)"),
        ("```\n[a](../bundle/docs/model_card.md)\n```", "```\n[a](../bundle/docs/model_card.md)\n```"),
    ],
)
def test_links_that_leave_the_docs(link: str, led: str) -> None:
    assert HOOKS.links_of_the_site(link, "inference.md") == led


def test_pictures_can_be_made_again(tmp_path: Path) -> None:
    """By the command of the page, with one step in place of its training."""
    figures = runpy.run_path(str(ROOT / "scripts" / "method_figures.py"))
    made = figures["draw_all"](tmp_path / "out", tmp_path / "work", epochs=1, steps=1, images=12)
    assert {path.name for path in made} == {path.name for path in (ROOT / "docs" / "pictures").iterdir()}
    for path in made:
        text = path.read_text(encoding="utf-8")
        assert text.startswith("<svg")
        assert path.stat().st_size < LIMIT
