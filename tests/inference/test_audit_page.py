"""`audit.html`: what is on it, and that no name of a file breaks it."""

from __future__ import annotations

import html
import re
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from phnet_monai.data import CHECKS, Audit, Finding
from phnet_monai.inference.audit_page import MOST_CARDS, MOST_MEMBERS, write_audit_page

HOSTILE = "<script>alert(1)</script>&\"'.png"


def _audit(folder: Path, *findings: Finding, **more: Any) -> Audit:
    return Audit(str(folder), str(folder), "folder", 9, 9, {"-": 9}, {"-": 9}, findings, **more)


def _page(folder: Path, audit: Audit, **options: Any) -> str:
    write_audit_page(folder / "audit.html", audit, created=datetime(2026, 1, 2, 3, 4), **options)
    return (folder / "audit.html").read_text(encoding="utf-8")


def _pictures(folder: Path, count: int) -> tuple[str, ...]:
    names = tuple(f"{number}.png" for number in range(count))
    for number, name in enumerate(names):
        Image.fromarray(np.full((30, 40), 5 * number, np.uint8)).save(folder / name)
    return names


def test_every_kind_of_finding_has_its_place(tmp_path: Path) -> None:
    page = _page(tmp_path, _audit(tmp_path, *(Finding(name, ("none.png",), f"text of {name}") for name in CHECKS)))
    for name, check in CHECKS.items():
        assert f'id="{name}"' in page
        assert f'href="#{name}"' in page
        assert check.advice in html.unescape(page)
        assert f"text of {name}" in page


def test_nothing_found(tmp_path: Path) -> None:
    page = _page(tmp_path, _audit(tmp_path))
    assert "Nothing was found." in page
    assert "<details" not in page


def test_names_cannot_break_out(tmp_path: Path) -> None:
    findings = [Finding("duplicates", (HOSTILE, "b.png"), HOSTILE), Finding("no-mask", (HOSTILE,), HOSTILE)]
    page = _page(tmp_path, _audit(tmp_path, *findings))
    assert "<script" not in page
    (policy,) = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]*)"', page)
    assert "script-src 'none'" in html.unescape(policy)
    assert "default-src 'none'" in html.unescape(policy)
    assert not re.search(r"https?:", page)


def test_bytes_that_are_no_text_are_shown(tmp_path: Path) -> None:
    page = _page(tmp_path, _audit(tmp_path, Finding("broken", ("\udce9.png",), "\udce9 is broken")))
    assert "�" in page


def test_large_groups_are_cut_short(tmp_path: Path) -> None:
    names = _pictures(tmp_path, MOST_MEMBERS + 2)
    page = _page(tmp_path, _audit(tmp_path, Finding("duplicates", names, "alike")))
    assert page.count("data:image/jpeg") == MOST_MEMBERS
    assert "2 more" in page
    assert all(name in page for name in names)


def test_many_images_of_a_kind_are_named_only(tmp_path: Path) -> None:
    names = _pictures(tmp_path, MOST_CARDS + 3)
    page = _page(tmp_path, _audit(tmp_path, *(Finding("marks", (name,), "1", {"boxes": []}) for name in names)))
    assert page.count("data:image/jpeg") == MOST_CARDS
    assert "3 more as text" in page
    assert all(name in page for name in names)


def test_groups_are_all_shown(tmp_path: Path) -> None:
    names = _pictures(tmp_path, 2)
    page = _page(tmp_path, _audit(tmp_path, *[Finding("duplicates", names, "alike")] * (MOST_CARDS + 3)))
    assert page.count("data:image/jpeg") == 2 * (MOST_CARDS + 3)


def test_a_file_that_is_gone_leaves_its_place(tmp_path: Path) -> None:
    (name,) = _pictures(tmp_path, 1)
    page = _page(tmp_path, _audit(tmp_path, Finding("duplicates", (name, "gone.png"), "alike")))
    assert page.count("data:image/jpeg") == 1
    assert "no picture" in page


def test_without_pictures_all_are_named(tmp_path: Path) -> None:
    names = _pictures(tmp_path, 2)
    miss = Finding("duplicates", names, "similarity 0.330")
    page = _page(tmp_path, _audit(tmp_path, Finding("duplicates", names, "alike"), near_misses=(miss,)), pictures=False)
    assert "data:image/jpeg" not in page
    assert page.count("0.png, 1.png") == 2
    assert "similarity 0.330" in page


@pytest.mark.parametrize(("check", "alert"), [("broken", True), ("duplicates", False)])
def test_what_is_refused_is_marked(tmp_path: Path, check: str, alert: bool) -> None:
    page = _page(tmp_path, _audit(tmp_path, Finding(check, ("a.png",), "text")))
    assert ('class="tile alert"' in page) is alert


def test_equal_input_gives_equal_bytes(tmp_path: Path) -> None:
    audit = _audit(tmp_path, Finding("duplicates", _pictures(tmp_path, 2), "alike"))
    assert _page(tmp_path, audit) == _page(tmp_path, audit)
