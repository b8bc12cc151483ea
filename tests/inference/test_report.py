"""The report pages as files: nothing escapes its place, nothing refers outside, figures and order are right."""

from __future__ import annotations

import base64
import hashlib
import io
import math
import os
import re
import runpy
import tracemalloc
from collections.abc import Iterator
from datetime import datetime, timezone
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import unquote_to_bytes
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from phnet_monai.inference.report import (
    RESEARCH_ONLY,
    evaluation_tiles,
    interval_text,
    write_evaluation_report,
    write_report,
)
from phnet_monai.inference.report_colours import HARDNESS_COLOURS, STRONGEST, hardness_png
from phnet_monai.inference.report_items import file_url, outline_path, record_items
from phnet_monai.inference.report_page import TEMPLATES, settings_rows
from phnet_monai.inference.report_plots import (
    PlotPoint,
    agreement,
    bland_altman,
    dice_by_size,
    linear_axis,
    log_axis,
    point_groups,
)

SAMPLES = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("report_samples.py"))))
VOID = {"meta", "col", "link", "img", "input", "br", "wbr", "path", "circle", "rect", "line", "stop", "image"}
WHEN = datetime(2024, 5, 6, 7, 8, tzinfo=timezone.utc)


class Page(HTMLParser):
    """Elements as (tag, attributes, text below it), in order of their start; unbalanced tags are an error."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str], list[str]]] = []
        self._open: list[tuple[str, list[str]]] = []
        self.feed(text)
        self.close()
        assert not self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found: list[str] = []
        self.elements.append((tag, {name: value or "" for name, value in attrs}, found))
        if tag not in VOID:
            self._open.append((tag, found))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}, []))

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self._open.pop()[0] == tag

    def handle_data(self, data: str) -> None:
        for _, found in self._open:
            found.append(data)

    def all(self, tag: str, name: str = "", value: str = "") -> list[tuple[dict[str, str], str]]:
        """(attributes, text) of the elements of a tag whose attribute has this word."""
        return [
            (attributes, " ".join("".join(text).split()))
            for found, attributes, text in self.elements
            if found == tag and (not name or value in attributes.get(name, "").split())
        ]

    def texts(self, tag: str, name: str = "", value: str = "") -> list[str]:
        return [text for _, text in self.all(tag, name, value)]


def infer_page(path: Path, records: Any, **more: Any) -> Page:
    write_report(path, records, **({"title": "Ward 3", "settings": {}, "created": WHEN} | more))
    return Page(path.read_text(encoding="utf-8"))


def evaluation_page(path: Path, cards: Any, **more: Any) -> Page:
    given = {"title": "Test part", "settings": {}, "summary": SAMPLES.summary(), "created": WHEN} | more
    write_evaluation_report(path, cards, **given)
    return Page(path.read_text(encoding="utf-8"))


def names(page: Page) -> list[str]:
    """Names of the rows, in order; cards have the same."""
    rows = page.texts("th", "scope", "row")
    return [text for text in rows if text.endswith((".png", ".dcm"))]


def card_names(page: Page) -> list[str]:
    return page.texts("h3")


def tiles(page: Page) -> dict[str, str]:
    found = [text for _, text in page.all("div", "class", "tile")]
    labels = page.texts("dt")[: len(found)]
    return {label: text.removeprefix(label) for label, text in zip(labels, found, strict=True)}


@pytest.fixture
def page_file(tmp_path: Path) -> Path:
    return tmp_path / "report.html"


# ---- hostile names, policy, references


def hostile_page(kind: str, path: Path) -> Page:
    name = SAMPLES.HOSTILE
    if kind == "infer":
        record = SAMPLES.record(name, SAMPLES.frame(1), outputs=(f"masks/{name}",))
        failed = [SAMPLES.failed("x'\"><img src=x onerror=alert(2)>.dcm", "</script><script>alert(3)</script>")]
        extra = {"title": "<b>Ward</b>", "settings": {"<i>": "</style><script>"}, "notes": ["<u>note</u>"]}
        return infer_page(path, [record], failed=failed, **extra)
    cards = [SAMPLES.card(name, 1, dice=0.5, group="<b>a</b>"), SAMPLES.card("b.png", 2, dice=0.6, group="b")]
    return evaluation_page(path, cards, settings={"<i>": "</style><script>"})


@pytest.mark.parametrize("kind", ["infer", "evaluation"])
def test_hostile_names_stay_text(kind: str, page_file: Path) -> None:
    page = hostile_page(kind, page_file)
    assert len(page.all("script")) == len(page.all("style")) == 1
    assert SAMPLES.HOSTILE in names(page)
    assert SAMPLES.HOSTILE in card_names(page)[0]
    assert {"b", "i", "u"}.isdisjoint(tag for tag, _, _ in page.elements)
    assert len(page.all("img")) == len(page.all("article"))
    for _, attributes, _ in page.elements:
        assert not any(name.startswith("on") or name == "style" for name in attributes)


@pytest.mark.parametrize("kind", ["infer", "evaluation"])
def test_the_policy_lets_only_the_page_s_own_script_and_style_run(kind: str, page_file: Path) -> None:
    page = hostile_page(kind, page_file)
    ((policy, _),) = page.all("meta", "http-equiv", "Content-Security-Policy")
    rules = dict(rule.split(" ", 1) for rule in policy["content"].split("; "))
    assert rules["default-src"] == "'none'"
    assert rules["img-src"] == "data:"
    for tag in ("style", "script"):
        ((_, _, content),) = (element for element in page.elements if element[0] == tag)
        digest = base64.b64encode(hashlib.sha256("".join(content).encode()).digest()).decode()
        assert rules[f"{tag}-src"] == f"'sha256-{digest}'"
    order = [tag for tag, _, _ in page.elements]
    assert order.index("meta") < order.index("style") < order.index("script")


@pytest.mark.parametrize("kind", ["infer", "evaluation"])
def test_nothing_refers_outside(kind: str, page_file: Path) -> None:
    page = hostile_page(kind, page_file)
    addresses = [
        value
        for _, attributes, _ in page.elements
        for name, value in attributes.items()
        if name in ("href", "src", "srcset", "action", "data", "poster", "xlink:href", "formaction")
    ]
    assert len(addresses) > 4
    assert all(value.startswith(("data:", "#", "./")) for value in addresses)
    style, script = ((TEMPLATES / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    assert not re.search(r"url\(|@import|//", re.sub(r"/\*.*?\*/", "", style))
    assert not re.search(r"fetch|XMLHttp|WebSocket|import\(|sendBeacon|innerHTML|eval", script)
    assert "http" not in re.sub(r"http-equiv", "", page_file.read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    "name", ["masks/a b.png", "masks/#1?.png", "masks/100%.png", "masks/Übersicht/乳腺.png", "masks/a,b;c&d='e'.png"]
)
def test_links_lead_to_the_file(name: str, page_file: Path) -> None:
    page = infer_page(page_file, [SAMPLES.record("x.png", SAMPLES.frame(1), outputs=(name,))])
    ((attributes, text),) = page.all("a", "target", "_blank")
    assert text == "Mask of x.png"
    assert "noopener" in attributes["rel"]
    address = attributes["href"]
    assert not re.search(r"[#?\s]", address)
    assert unquote_to_bytes(address.removeprefix("./")) == name.encode()


def test_no_name_is_taken_for_an_address_elsewhere() -> None:
    assert file_url("javascript:alert(1)") == "./javascript%3Aalert%281%29"
    assert file_url("//host/x.png") == ".///host/x.png"


def test_names_that_are_no_text_survive(page_file: Path) -> None:
    name = os.fsdecode(b"masks/\xff.png")
    page = infer_page(page_file, [SAMPLES.record("\udcff.png", SAMPLES.frame(1), outputs=(name,))])
    assert page.all("a", "target", "_blank")[0][0]["href"] == "./masks/%FF.png"
    assert "�" in names(page)[0]


# ---- content of the page of `phnet infer`


def test_figures_of_the_summary(page_file: Path) -> None:
    two = SAMPLES.frame(3, uncertainty=0.2)
    two["lesions"] *= 2
    records = [
        SAMPLES.record("a.png", SAMPLES.frame(1, uncertainty=0.9)),
        SAMPLES.record("b.png", two),
        SAMPLES.record("c.png", SAMPLES.frame(2, uncertainty=0.3, found=False)),
    ]
    page = infer_page(page_file, records, failed=[SAMPLES.failed("d.png"), SAMPLES.failed("e.dcm")])
    found = tiles(page)
    assert found["Images"] == "3"
    assert "Frames" not in found
    assert found["Lesions"].startswith("3in 2 images")
    assert found["Without lesion"].startswith("1of 3")
    assert found["Median uncertainty"].startswith("0.300")
    assert found["Failed"].startswith("2")
    assert page.texts("p", "id", "count") == ["5 shown"]


def test_least_certain_first_failed_last(page_file: Path) -> None:
    records = [
        SAMPLES.record(name, SAMPLES.frame(1, uncertainty=value))
        for name, value in (("low.png", 0.1), ("high.png", 0.8), ("b.png", 0.5), ("a.png", 0.5))
    ]
    page = infer_page(page_file, [SAMPLES.failed("broken.dcm"), *records])
    assert card_names(page) == ["high.png", "a.png", "b.png", "low.png"]
    assert names(page) == [*card_names(page), "broken.dcm"]


def test_failed_files_are_listed_with_their_reason(page_file: Path) -> None:
    page = infer_page(
        page_file, [SAMPLES.record("a.png", SAMPLES.frame(1))], failed=[SAMPLES.failed("b.dcm", "no pixels")]
    )
    assert page.texts("details", "class", "failures") == ["1 failed file b.dcm no pixels"]
    assert page.texts("tr", "class", "failed") == ["b.dcmfailed: no pixels"]
    assert "Failed 1" in page.texts("button")
    fine = infer_page(page_file, [SAMPLES.record("a.png", SAMPLES.frame(1))])
    assert not fine.all("details", "class", "failures")
    assert not [text for text in fine.texts("button") if text.startswith("Failed")]


def test_frames_of_one_file_are_rows_and_have_their_own_pictures(page_file: Path) -> None:
    frames = [SAMPLES.frame(n, number=n, uncertainty=n / 10) for n in (1, 2, 3)]
    outputs = (
        "frames/s/overlays/0001.jpg",
        "frames/s/overlays/0002.jpg",
        "frames/s/overlays/0003.jpg",
        "masks/s.dcm",
    )
    page = infer_page(page_file, [SAMPLES.record("s.dcm", *frames, outputs=outputs)])
    assert card_names(page) == ["s.dcm frame 3", "s.dcm frame 2", "s.dcm frame 1"]
    links = [attributes["href"] for attributes, _ in page.all("a", "target", "_blank")]
    assert links == [f"./{name}" for n in (3, 2, 1) for name in (f"frames/s/overlays/000{n}.jpg", "masks/s.dcm")]
    assert "Frame" in page.texts("th", "scope", "col")
    found = tiles(page)
    assert (found["Images"], found["Frames"]) == ("1", "3")


def test_millimetres_stand_where_the_spacing_is_known(page_file: Path) -> None:
    plain = infer_page(page_file, [SAMPLES.record("a.png", SAMPLES.frame(1))])
    assert "Area mm²" not in plain.texts("th", "scope", "col")
    pair = [SAMPLES.record("a.png", SAMPLES.frame(1)), SAMPLES.record("b.png", SAMPLES.frame(2, mm=0.1))]
    page = infer_page(page_file, pair)
    head = page.texts("th", "scope", "col")
    assert "Area mm²" in head
    area = pair[1]["frames"][0]["lesion_pixels"] / 100
    row = page.texts("tr", "id", "row-2")[0]
    assert f"{area:,.1f}" in row


def test_confidence_is_the_mean_over_the_pixels_of_all_lesions() -> None:
    frame = SAMPLES.frame(1)
    frame["lesions"] = [SAMPLES.lesion(300, confidence=0.9), SAMPLES.lesion(100, number=2, confidence=0.5)]
    (item,) = record_items(SAMPLES.record("a.png", frame))
    assert item["values"]["confidence"] == pytest.approx(0.8)
    (empty,) = record_items(SAMPLES.record("a.png", SAMPLES.frame(1, found=False)))
    assert empty["values"]["confidence"] is None


def test_settings_notes_and_time_are_told(page_file: Path) -> None:
    settings = {"model": "m.pt", "sizes": [160, 200], "tta": False, "post": {"holes": True}, "spacing": None}
    page = infer_page(page_file, [], settings=settings, notes=["One note."])
    assert settings_rows(settings) == [
        ("model", "m.pt"),
        ("sizes", "160, 200"),
        ("tta", "no"),
        ("post.holes", "yes"),
        ("spacing", "–"),
    ]
    assert {"post.holes", "tta"} <= set(page.texts("dt"))
    text = " ".join(page.texts("body"))
    assert "Model m.pt" in text
    assert RESEARCH_ONLY in text
    assert "One note." in text
    assert datetime.fromisoformat(page.all("time")[0][0]["datetime"]) == WHEN
    own = infer_page(page_file, [], notes=["Research use only; not a medical device."])
    assert RESEARCH_ONLY not in " ".join(own.texts("body"))


def test_a_run_without_any_image_gives_a_page(page_file: Path) -> None:
    page = infer_page(page_file, [])
    assert tiles(page)["Images"] == "0"
    assert tiles(page)["Median uncertainty"].startswith("–")
    assert not page.all("article")


def test_outlines_are_written_at_their_place() -> None:
    square = [[0.25, 0.5], [0.75, 0.5], [0.75, 1.0], [0.25, 1.0]]
    assert outline_path([square], 128, 256) == "M256 256L768 256L768 512L256 512Z"
    assert outline_path([square], 1280, 2560) == "M256 256L768 256L768 512L256 512Z"
    assert outline_path([square, square], 2, 4) == 2 * "M4 4L12 4L12 8L4 8Z"
    assert outline_path([], 10, 10) == ""


def test_records_are_read_one_at_a_time(page_file: Path) -> None:
    def many() -> Iterator[dict[str, Any]]:
        template = SAMPLES.record("a.png", SAMPLES.frame(1))
        for number in range(120):
            frame = template["frames"][0] | {"thumbnail": base64.b64encode(os.urandom(30_000)).decode()}
            yield template | {"image": f"{number}.png", "frames": [frame]}

    write_report(page_file, [], title="", settings={})  # templates are compiled once
    tracemalloc.start()
    write_report(page_file, many(), title="", settings={})
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert page_file.stat().st_size > 120 * 40_000
    assert peak < 2_000_000


def test_a_page_is_there_whole_or_not_at_all(page_file: Path) -> None:
    page_file.write_text("before")

    def broken() -> Iterator[dict[str, Any]]:
        yield SAMPLES.record("a.png", SAMPLES.frame(1))
        raise OSError("disk gone")

    with pytest.raises(OSError, match="disk gone"):
        write_report(page_file, broken(), title="", settings={})
    assert page_file.read_text() == "before"
    assert os.listdir(page_file.parent) == [page_file.name]


def test_the_same_records_give_the_same_file(tmp_path: Path) -> None:
    for name in ("a.html", "b.html"):
        infer_page(tmp_path / name, SAMPLES.records(5))
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()


# ---- content of the page of `phnet evaluate --report`


def test_worst_dice_first_then_false_alarms_then_the_clean(page_file: Path) -> None:
    page = evaluation_page(page_file, SAMPLES.cards())
    expected = ["missed.png", "poor.png", "good.png", "alarm large.png", "alarm small.png", "clean.png"]
    assert card_names(page) == names(page) == expected
    assert page.texts("span", "class", "pill") == [
        "missed",
        "Dice 0.400",
        "Dice 0.900",
        "false lesion",
        "false lesion",
        "no lesion",
    ]
    assert page.texts("span", "class", "alert") == ["missed", "false lesion", "false lesion"]
    buttons = page.texts("button")
    assert {"All 6", "With lesion 3", "Without 3", "Missed 1", "False lesion 3"} <= set(buttons)


def test_both_outlines_are_drawn(page_file: Path) -> None:
    page = evaluation_page(page_file, SAMPLES.cards())
    assert len(page.all("path", "class", "truth")) == 3
    assert len(page.all("path", "class", "prediction")) == 4
    assert "Annotation" in page.texts("button")
    infer = infer_page(page_file, SAMPLES.records(3))
    assert not infer.all("path", "class", "truth")
    assert "Annotation" not in infer.texts("button")


def test_figures_of_an_evaluation(page_file: Path) -> None:
    page = evaluation_page(page_file, SAMPLES.cards())
    found = tiles(page)
    assert found["Images"] == "63 with lesion"
    assert found["Pooled Dice"] == "0.61095 % 0.420 to 0.750"
    assert found["Dice per image"] == "0.433± 0.451; 95 % 0.100 to 0.850"
    assert found["Missed"] == "1of 3 with lesion"
    assert found["False lesions"] == "0.67per image"
    assert found["False alarms"] == "67 %of 3 without lesion"
    assert "HD95, median" not in found
    assert "normal3––––" in [text.replace(" ", "") for text in page.texts("tr")]
    assert "benign30.6100.4330.3501" in [text.replace(" ", "") for text in page.texts("tr")]


def test_a_summary_without_intervals_and_lesions_is_told() -> None:
    nan = math.nan
    summary = {"images": 2, "images_without_lesion": 2, "pooled_dice": nan, "pooled_dice_ci": (nan, nan), "missed": 0}
    found = {tile.label: tile for tile in evaluation_tiles(summary)}
    assert found["Pooled Dice"].value == "–"
    assert found["Pooled Dice"].note == ""
    assert found["False alarms"].value == "– %"
    assert not found["Missed"].alert
    assert interval_text(None) == ""


def test_plots_can_be_left_out_and_need_a_lesion(page_file: Path) -> None:
    assert len(evaluation_page(page_file, SAMPLES.cards()).all("figure")) == 2
    assert not evaluation_page(page_file, SAMPLES.cards(), plots=False).all("figure")
    clean = [SAMPLES.card("a.png", 1, dice=None, found=False, truth=False)]
    assert not evaluation_page(page_file, clean).all("figure")
    assert len(evaluation_page(page_file, SAMPLES.cards()[:1]).all("figure")) == 2


def test_marks_lead_to_their_cards(page_file: Path) -> None:
    page = evaluation_page(page_file, SAMPLES.cards())
    marks = [attributes for attributes, _ in page.all("a") if "aria-label" in attributes]
    assert sorted(attributes["href"] for attributes in marks) == sorted(2 * ["#card-1", "#card-2", "#card-3"])
    assert [attributes["tabindex"] for attributes in marks] == 2 * ["0", "-1", "-1"]
    cards = {attributes["id"] for attributes, _ in page.all("article")}
    assert {attributes["href"][1:] for attributes in marks} <= cards


# ---- plots


def points(*rows: tuple[float, float, float], group: str | None = None) -> list[PlotPoint]:
    """(annotated, predicted, Dice) each, in frames of 10,000 pixels."""
    return [PlotPoint(n, f"{n}.png", group, t, p, t / 10_000, d) for n, (t, p, d) in enumerate(rows, start=1)]


def test_bias_and_limits_of_agreement() -> None:
    found = agreement([100, 200, 300], [110, 190, 330])
    assert (found.images, found.bias) == (3, 10)
    assert found.high - found.bias == pytest.approx(1.96 * 20)  # differences 10, -10, 30
    assert found.bias - found.low == pytest.approx(1.96 * 20)
    assert math.isnan(agreement([5], [7]).low)
    with pytest.raises(ValueError, match="at least one image"):
        agreement([], [])


def test_points_lie_where_their_values_are() -> None:
    plot = bland_altman(points((100, 100, 1), (1000, 600, 0.7), (2000, 2500, 0.8)))
    root = ElementTree.fromstring(plot.svg)
    places = [
        tuple(map(float, re.findall(r"[\d.]+", path.attrib["transform"])))
        for path in root.iter("path")
        if "transform" in path.attrib
    ]
    x = linear_axis([0, 100, 800, 2250], 86, 468)
    assert [place[0] for place in places] == pytest.approx([x.place(100), x.place(800), x.place(2250)], abs=0.06)
    zero = next(float(line.attrib["y1"]) for line in root.iter("line") if line.attrib["class"] == "zero")
    assert places[0][1] == pytest.approx(zero, abs=0.06)
    assert places[2][1] < zero < places[1][1]
    assert "Bias +33 px" in plot.caption


def test_dice_by_size_tells_the_mean_of_each_group() -> None:
    plot = dice_by_size(points((100, 100, 0.5), (200, 100, 0.7), (900, 100, 0.9), (4000, 100, 1.0)))
    assert "small 0.600 (2 images), medium 0.900 (1 image), large 1.000 (1 image)" in plot.caption
    root = ElementTree.fromstring(plot.svg)
    assert [line.attrib["class"] for line in root.iter("line")].count("bias") == 3
    assert [line.attrib["class"] for line in root.iter("line")].count("divide") == 2


@pytest.mark.parametrize("draw", [bland_altman, dice_by_size])
def test_plots_are_named_and_hold_any_name(draw: Any) -> None:
    hostile = [PlotPoint(1, SAMPLES.HOSTILE, "<b>", 50, 60, 0.005, 0.5), PlotPoint(2, "x", "c", 50, 60, 0.005, 0.5)]
    root = ElementTree.fromstring(draw(hostile).svg)
    ids = {element.attrib.get("id"): element for element in root.iter()}
    title, text = root.attrib["aria-labelledby"].split()
    assert ids[title].text
    assert ids[text].text
    assert SAMPLES.HOSTILE in next(root.iter("a")).attrib["aria-label"]
    assert not [element for element in root.iter() if element.tag in ("script", "b")]


def test_classes_are_told_apart_up_to_four() -> None:
    assert point_groups(points((1, 1, 1), group="a")) == []
    assert point_groups(points((1, 1, 1), group="b") + points((1, 1, 1), group="a")) == ["a", "b"]
    assert point_groups([PlotPoint(1, "x", str(n), 1, 1, 0.1, 1) for n in range(5)]) == []


@pytest.mark.parametrize("values", [[0], [0, 0.4], [-3, 9], [0, 1_234_567], [0, 1e-3]])
def test_linear_axes_hold_their_values_and_have_few_marks(values: list[float]) -> None:
    axis = linear_axis(values, 0, 100)
    assert 2 <= len(axis.ticks) <= 8
    assert all(-1e-6 <= axis.place(value) <= 100 + 1e-6 for value in values)


def test_logarithmic_axes_are_marked_at_round_numbers() -> None:
    axis = log_axis([0.3, 40], 0, 100)
    assert axis.ticks == pytest.approx([0.5, 1, 2, 5, 10, 20])
    assert axis.place(10) - axis.place(1) == pytest.approx(axis.place(1) - axis.place(0.1))


# ---- colours


def rgb(colour: str) -> np.ndarray:
    return np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255


def luminance(colour: str) -> float:
    """Relative luminance as WCAG defines it."""
    channels = rgb(colour)
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


def contrast(a: str, b: str) -> float:
    bright, dark = sorted((luminance(a), luminance(b)), reverse=True)
    return (bright + 0.05) / (dark + 0.05)


def themes() -> dict[str, dict[str, str]]:
    """Colours of the style sheet: light, and dark where it says otherwise."""
    style = (TEMPLATES / "page.css").read_text(encoding="utf-8")
    blocks = [
        dict(re.findall(r"--([a-z0-9-]+): (#[0-9a-f]{6})", block))
        for block in re.findall(r":root \{.*?\}", style, re.S)
    ]
    return {"light": blocks[0], "dark": blocks[0] | blocks[1]}


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_text_has_the_contrast_of_level_aa(theme: str) -> None:
    colours = themes()[theme]
    pairs = [(text, ground) for text in ("text", "muted", "accent") for ground in ("page", "surface", "sunk")]
    pairs += [("text", "accent-soft"), ("accent", "accent-soft"), ("alert", "alert-soft"), ("caution", "caution-soft")]
    pairs += [("alert", "surface"), ("alert", "sunk"), ("muted", "accent-soft")]
    low = {pair: round(contrast(colours[pair[0]], colours[pair[1]]), 2) for pair in pairs}
    assert {pair: value for pair, value in low.items() if value < 4.5} == {}
    marks = [(f"group{n}", "surface") for n in range(4)] + [("accent", "page")]  # graphics: 3 to 1
    assert all(contrast(colours[a], colours[b]) >= 3 for a, b in marks)


def test_hardness_gets_lighter_and_stronger_step_by_step() -> None:
    brightness = [luminance(colour) for colour in HARDNESS_COLOURS]
    assert brightness == sorted(brightness)
    levels = np.repeat(np.arange(16, dtype=np.uint8) * 17, 16)
    picture = Image.open(io.BytesIO(base64.b64decode(hardness_png(levels.tobytes(), 16)))).convert("RGBA")
    pixels = np.asarray(picture)
    assert pixels.shape == (16, 16, 4)
    assert (pixels == pixels[:, :1]).all()
    opacity = pixels[:, 0, 3].astype(int)
    assert opacity[0] == 0
    assert opacity[-1] == round(255 * STRONGEST)
    assert (np.diff(opacity) > 0).all()
    np.testing.assert_allclose(pixels[-1, 0, :3], rgb(HARDNESS_COLOURS[-1]) * 255, atol=0.6)


def test_hardness_pictures_are_small_and_checked() -> None:
    noise = np.random.default_rng(0).integers(0, 256, 256, dtype=np.uint8).tobytes()
    assert len(hardness_png(noise, 16)) < 500
    with pytest.raises(ValueError, match="expected 16 x 16 bytes, found 5"):
        hardness_png(b"12345", 16)
    one = Image.open(io.BytesIO(base64.b64decode(hardness_png(b"\xff", 1))))
    assert one.size == (1, 1)
