"""The report pages in headless Chromium: order, filters, switches, keyboard, phones, silence.

Skipped with a message where selenium, chromium or chromedriver are absent.
"""

from __future__ import annotations

import json
import runpy
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image

from phnet_monai.data import Audit, Finding, make_phantom
from phnet_monai.inference.audit_page import write_audit_page
from phnet_monai.inference.report import write_evaluation_report, write_report

webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")

from selenium.webdriver.chrome.service import Service  # noqa: E402
from selenium.webdriver.common.action_chains import ActionChains  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(
    not (CHROMIUM and DRIVER), reason="chromium or chromedriver is not installed (Debian: chromium, chromium-driver)"
)

SAMPLES = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("report_samples.py"))))
COUNT = 30
BENCHMARK = SimpleNamespace(**runpy.run_path(str(Path(__file__).parents[2] / "scripts" / "benchmark_report.py")))


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (*BENCHMARK.FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(executable_path=DRIVER))
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pages")
    hostile = SAMPLES.record(SAMPLES.HOSTILE, SAMPLES.frame(3, uncertainty=0.001), outputs=("masks/#1 ?.png",))
    found = {name: folder / f"{name}.html" for name in ("infer", "evaluation")}
    write_report(
        found["infer"],
        [*SAMPLES.records(COUNT), hostile],
        title="Ward 3",
        settings={"model": "m.pt", "digest": "0123456789abcdef" * 8},
        failed=[SAMPLES.failed("broken.dcm", "no pixels; " + "long" * 60)],
    )
    write_evaluation_report(
        found["evaluation"], SAMPLES.cards(), title="Test part", settings={}, summary=SAMPLES.summary()
    )
    return found


@pytest.fixture
def infer(browser: Any, pages: dict[str, Path]) -> Iterator[Any]:
    yield from opened(browser, pages["infer"])


@pytest.fixture
def evaluation(browser: Any, pages: dict[str, Path]) -> Iterator[Any]:
    yield from opened(browser, pages["evaluation"])


@pytest.fixture
def audit(browser: Any, tmp_path: Path) -> Iterator[Any]:
    """The page of `phnet audit` with a long list, long names and a group of three."""
    names = [f"benign/{'very long name ' * 4}({number}).png" for number in range(3)]
    for seed, name in enumerate(names):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(make_phantom((150, 200), seed=seed)[0]).save(tmp_path / name)
    group = Finding("duplicates", tuple(names), "similarity from 0.50", {"classes": ["benign"] * 3})
    marked = Finding("marks", (names[0],), "1", {"boxes": [[20, 30, 40, 60]]})
    bare = [Finding("no-mask", (f"{'unbroken' * 12}_{number}.png",), "no mask") for number in range(40)]
    found = Audit(str(tmp_path), str(tmp_path), "busi", 43, 3, {"benign": 43}, {}, (group, marked, *bare))
    write_audit_page(tmp_path / "audit.html", found)
    yield from opened(browser, tmp_path / "audit.html")


def opened(browser: Any, page: Path) -> Iterator[Any]:
    """The page, freshly loaded at 1280 pixels; afterwards nothing may have been complained of, or asked for."""
    resize(browser, 1280, 900)
    browser.get_log("browser"), browser.get_log("performance")
    browser.get(page.as_uri())
    yield browser
    assert browser.get_log("browser") == []
    asked = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    urls = [event["params"]["request"]["url"] for event in asked if event["method"] == "Network.requestWillBeSent"]
    assert [url for url in urls if not url.startswith(("file://", "data:", "chrome://"))] == []
    assert sum(url.startswith("file://") for url in urls) == 1


def resize(browser: Any, width: int, height: int, *, scheme: str = "light") -> None:
    size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})


def one(browser: Any, selector: str) -> Any:
    return browser.find_element(By.CSS_SELECTOR, selector)


def every(browser: Any, selector: str) -> list[Any]:
    return browser.find_elements(By.CSS_SELECTOR, selector)


def button(browser: Any, text: str, within: str = ".bar") -> Any:
    return next(b for b in every(browser, f"{within} button") if b.text.startswith(text))


def rows(browser: Any) -> list[str]:
    """Names of the rows that are shown."""
    script = "return [...document.querySelectorAll('#rows tr')].filter(r => !r.hidden).map(r => r.cells[0].textContent)"
    return browser.execute_script(script)


def cards(browser: Any) -> list[str]:
    script = (
        "return [...document.querySelectorAll('#cards article')].filter(c => !c.hidden)"
        ".map(c => c.querySelector('h3').textContent.trim())"
    )
    return browser.execute_script(script)


def column(browser: Any, key: str) -> list[str]:
    """Cells of the rows that are shown, failed files left out."""
    script = (
        "const heads = [...document.querySelectorAll('.data thead button')];"
        "const at = heads.findIndex(b => b.dataset.column === arguments[0]);"
        "return [...document.querySelectorAll('#rows tr:not(.failed)')].filter(r => !r.hidden)"
        ".map(r => r.cells[at].textContent)"
    )
    return browser.execute_script(script, key)


def focused(browser: Any) -> str:
    return browser.execute_script("return document.activeElement.id || document.activeElement.className")


def inside(browser: Any, selector: str) -> bool:
    """Whether the top of an element lies in the window, below the bar."""
    script = (
        "const box = document.querySelector(arguments[0]).getBoundingClientRect();"
        "const bar = document.querySelector('.bar').getBoundingClientRect();"
        "return box.top >= Math.max(0, bar.top <= 0 ? bar.bottom : 0) - 1 && box.top < innerHeight"
    )
    return browser.execute_script(script, selector)


# ---- order


def test_the_page_opens_least_certain_first(infer: Any) -> None:
    values = [float(text) for text in column(infer, "uncertainty")]
    assert values == sorted(values, reverse=True)
    assert rows(infer)[-1] == "broken.dcm"
    assert cards(infer) == rows(infer)[:-1]


@pytest.mark.parametrize("key", ["uncertainty", "area_px", "lesions", "confidence"])
def test_a_head_sorts_both_ways_and_what_is_unknown_stays_last(infer: Any, key: str) -> None:
    head = one(infer, f".data [data-column={key}]")
    seen = set()
    for _ in range(2):
        head.click()
        texts = column(infer, key)
        known = [float(text.replace(",", "")) for text in texts if text != "–"]
        descending = one(infer, f"th:has([data-column={key}])").get_attribute("aria-sort") == "descending"
        assert known == sorted(known, reverse=descending)
        assert "–" not in texts[: len(known)]
        assert rows(infer)[-1] == "broken.dcm"
        assert cards(infer) == rows(infer)[:-1]
        assert len(every(infer, "[aria-sort]")) == 1
        seen.add(descending)
    assert seen == {True, False}


def test_names_are_sorted_as_people_do(infer: Any) -> None:
    one(infer, ".data [data-column=name]").click()
    found = rows(infer)
    assert found[0] == "broken.dcm"
    assert found[2:5] == ["set/img_000.png", "set/img_001.png", "set/img_002.png"]


def test_the_choice_of_orders_and_the_heads_agree(infer: Any) -> None:
    def chosen() -> str:
        return infer.execute_script("return document.querySelector('#order').selectedOptions[0].textContent.trim()")

    assert chosen() == "Least certain first"
    next(option for option in every(infer, "#order option") if option.text == "Largest area first").click()
    assert one(infer, "[aria-sort] button").get_attribute("data-column") == "area_px"
    areas = [int(text.replace(",", "")) for text in column(infer, "area_px")]
    assert areas == sorted(areas, reverse=True)
    one(infer, ".data [data-column=confidence]").click()
    assert chosen() == "By table column"


# ---- filters


def test_kinds_are_filtered(infer: Any) -> None:
    total = COUNT + 2
    button(infer, "With lesion").click()
    assert "0" not in column(infer, "lesions")
    assert len(rows(infer)) == len(cards(infer)) == COUNT - COUNT // 3 + 1
    assert one(infer, "#count").text == f"{COUNT - COUNT // 3 + 1} of {total} shown"
    button(infer, "Without").click()
    assert set(column(infer, "lesions")) == {"0"}
    assert [b.text for b in every(infer, "[data-filter][aria-pressed=true]")] == [f"Without {COUNT // 3}"]
    button(infer, "Failed").click()
    assert rows(infer) == ["broken.dcm"]
    assert cards(infer) == []
    assert "no picture" in one(infer, "#empty").text
    one(infer, "#empty button").click()
    assert len(rows(infer)) == total
    assert not one(infer, "#empty").is_displayed()


def test_text_filters_by_name_and_reason(infer: Any) -> None:
    search = one(infer, "#search")
    search.send_keys("IMG_01")
    assert sorted(rows(infer)) == [f"set/img_01{n}.png" for n in range(10)]
    assert sorted(cards(infer)) == sorted(rows(infer))
    button(infer, "Without").click()
    assert sorted(rows(infer)) == [f"set/img_0{n}.png" for n in (11, 14, 17)]
    search.clear()
    search.send_keys("no pixels")
    assert rows(infer) == []
    button(infer, "All").click()
    assert rows(infer) == ["broken.dcm"]


def test_a_filter_outlives_a_new_order(infer: Any) -> None:
    button(infer, "With lesion").click()
    shown = set(rows(infer))
    one(infer, ".data [data-column=area_px]").click()
    assert set(rows(infer)) == set(cards(infer)) == shown


# ---- layers


def layer_is_shown(browser: Any, name: str, at: int = 0) -> bool:
    script = "return getComputedStyle(document.querySelectorAll(arguments[0])[arguments[1]]).display !== 'none'"
    return browser.execute_script(script, f"#cards .picture .{name}", at)


def pressed(browser: Any, layer: str) -> set[str]:
    return {b.get_attribute("aria-pressed") for b in every(browser, f"#cards [data-layer={layer}]")}


def test_layers_are_switched_on_all_images(infer: Any) -> None:
    assert layer_is_shown(infer, "prediction")
    assert not layer_is_shown(infer, "hardness")
    assert not one(infer, ".legend").is_displayed()
    button(infer, "Hardness").click()
    button(infer, "Contour").click()
    assert layer_is_shown(infer, "hardness", at=COUNT)
    assert one(infer, ".legend").is_displayed()
    assert not layer_is_shown(infer, "prediction")
    assert pressed(infer, "hardness") == {"true"}
    assert pressed(infer, "prediction") == {"false"}


def test_layers_are_switched_on_one_image(infer: Any) -> None:
    one(infer, "#card-1 [data-layer=hardness]").click()
    assert layer_is_shown(infer, "hardness", at=0)
    assert not layer_is_shown(infer, "hardness", at=1)
    assert one(infer, "#card-1 [data-layer=hardness]").get_attribute("aria-pressed") == "true"
    assert one(infer, "#card-2 [data-layer=hardness]").get_attribute("aria-pressed") == "false"


def test_the_hardness_map_covers_the_image_and_the_outline_lies_on_it(infer: Any) -> None:
    button(infer, "Hardness").click()
    boxes = infer.execute_script(
        "const box = s => { const b = document.querySelector('#card-1 .picture ' + s).getBoundingClientRect();"
        " return [b.left, b.top, b.right, b.bottom]; };"
        "return [box('img'), box('.hardness'), box('.prediction')]"
    )
    image, hardness, outline = boxes  # 160 x 120 fills the 4:3 box
    assert hardness == pytest.approx(image, abs=1)
    assert image[0] <= outline[0] <= outline[2] <= image[2]
    assert image[1] <= outline[1] <= outline[3] <= image[3]


def test_truth_is_a_layer_of_evaluations(evaluation: Any) -> None:
    assert layer_is_shown(evaluation, "truth")
    button(evaluation, "Annotation").click()
    assert not layer_is_shown(evaluation, "truth")
    assert layer_is_shown(evaluation, "prediction")


# ---- from the table to the images and back


def test_a_row_leads_to_its_card_and_back(infer: Any) -> None:
    last = COUNT + 1
    link = one(infer, f"#row-{last} a")
    infer.execute_script("arguments[0].scrollIntoView({block: 'center'})", link)
    link.click()
    assert focused(infer) == f"card-{last}"
    assert inside(infer, f"#card-{last}")
    assert one(infer, f"#card-{last}").get_attribute("aria-current") == "true"
    one(infer, f"#card-{last} .back").click()
    assert infer.execute_script("return document.activeElement.closest('tr').id") == f"row-{last}"
    assert inside(infer, f"#row-{last}")


def test_a_click_beside_the_name_does_the_same(infer: Any) -> None:
    one(infer, "#row-3 td").click()
    assert focused(infer) == "card-3"
    assert len(every(infer, "#rows [aria-current]")) == 1


def test_a_mark_of_a_plot_leads_to_its_card_even_if_filtered_out(evaluation: Any) -> None:
    button(evaluation, "Without").click()
    mark = one(evaluation, '.plot a[href="#card-2"]')
    ActionChains(evaluation).scroll_to_element(mark).click(mark).perform()
    assert focused(evaluation) == "card-2"
    assert inside(evaluation, "#card-2")
    assert "poor.png" in cards(evaluation)


# ---- keyboard


def test_the_first_stop_leads_past_the_head(infer: Any) -> None:
    ActionChains(infer).send_keys(Keys.TAB).perform()
    assert focused(infer) == "skip"
    assert infer.execute_script("return document.activeElement.getBoundingClientRect().left >= 0")
    ActionChains(infer).send_keys(Keys.ENTER).perform()
    assert focused(infer) == "list"


def test_everything_that_can_be_clicked_can_be_reached_and_shows_focus(infer: Any) -> None:
    ActionChains(infer).send_keys(*[Keys.TAB] * 3).perform()
    seen, hidden = [], []
    for _ in range(24):
        text, outline = infer.execute_script(
            "const e = document.activeElement;return [e.id || e.textContent.trim(), getComputedStyle(e).outlineStyle]"
        )
        seen.append(text)
        hidden += [text] if outline == "none" else []
        ActionChains(infer).send_keys(Keys.TAB).perform()
    assert hidden == []
    assert {"search", "order", "Contour", "Hardness", "Uncert."} <= set(seen)


@pytest.mark.parametrize("key", [Keys.ENTER, Keys.SPACE])
def test_heads_and_switches_answer_keys(infer: Any, key: str) -> None:
    one(infer, ".data [data-column=area_px]").send_keys(key)
    assert one(infer, "[aria-sort] button").get_attribute("data-column") == "area_px"
    assert infer.execute_script("return document.activeElement.dataset.column") == "area_px"
    button(infer, "Hardness").send_keys(key)
    assert pressed(infer, "hardness") == {"true"}


def test_arrows_move_between_the_marks_of_a_plot(evaluation: Any) -> None:
    first = one(evaluation, ".plot a[tabindex='0']")
    evaluation.execute_script("arguments[0].focus()", first)
    ActionChains(evaluation).send_keys(Keys.ARROW_RIGHT).perform()
    here = evaluation.switch_to.active_element
    assert here != first
    assert [a.get_attribute("tabindex") for a in every(evaluation, ".plots figure:first-child a")].count("0") == 1
    target = evaluation.execute_script("return arguments[0].getAttribute('href')", here)
    ActionChains(evaluation).send_keys(Keys.ENTER).perform()
    assert f"#{focused(evaluation)}" == target


def test_an_image_is_enlarged_stepped_through_and_closed_by_keys(infer: Any) -> None:
    order = cards(infer)
    one(infer, "#card-1 .picture").send_keys(Keys.ENTER)
    viewer = one(infer, "#viewer")
    assert viewer.is_displayed()
    assert one(infer, "#viewer-title").text.startswith(order[0])
    ActionChains(infer).send_keys(Keys.ARROW_RIGHT).perform()
    assert one(infer, "#viewer-title").text.startswith(order[1])
    button(infer, "Hardness", within="#viewer").click()
    assert one(infer, "#card-2 [data-layer=hardness]").get_attribute("aria-pressed") == "true"
    assert button(infer, "Hardness", within="#viewer").get_attribute("aria-pressed") == "true"
    ActionChains(infer).send_keys(Keys.ESCAPE).perform()
    assert not viewer.is_displayed()
    assert infer.execute_script("return document.activeElement.closest('article').id") == "card-2"


def test_the_focus_is_back_before_the_next_key(infer: Any) -> None:
    """Not only when the browser tells that the dialog was closed, which a busy machine does later."""
    one(infer, "#card-1 .picture").send_keys(Keys.ENTER)
    ActionChains(infer).send_keys(Keys.ARROW_RIGHT).perform()
    focused_at_once = infer.execute_script(
        "const key = new KeyboardEvent('keydown', {key: 'Escape', bubbles: true, cancelable: true});"
        "document.querySelector('#viewer').dispatchEvent(key);"
        "return document.activeElement.closest('article')?.id"
    )
    assert focused_at_once == "card-2"
    assert not one(infer, "#viewer").is_displayed()


def test_the_viewer_closed_by_the_browser_itself_gives_the_focus_back(infer: Any) -> None:
    one(infer, "#card-1 .picture").send_keys(Keys.ENTER)
    ActionChains(infer).send_keys(Keys.ARROW_RIGHT).perform()
    focused_at_last = infer.execute_async_script(
        "const done = arguments[0], viewer = document.querySelector('#viewer');"
        "viewer.addEventListener('close', () => done(document.activeElement.closest('article')?.id));"
        "viewer.close()"
    )
    assert focused_at_last == "card-2"


def test_the_enlarged_picture_is_closed_by_its_button_and_stops_at_the_ends(infer: Any) -> None:
    one(infer, "#card-1 .picture").click()
    title = one(infer, "#viewer-title").text
    button(infer, "‹ Previous", within="#viewer").click()
    assert one(infer, "#viewer-title").text == title
    one(infer, "#viewer [data-act=close]").click()
    assert not one(infer, "#viewer").is_displayed()


# ---- screens


@pytest.mark.parametrize("width", [360, 390, 768, 1280, 1920])
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("kind", ["infer", "evaluation"])
def test_no_page_is_wider_than_its_screen(
    browser: Any, pages: dict[str, Path], kind: str, scheme: str, width: int
) -> None:
    for page in opened(browser, pages[kind]):
        resize(page, width, 800, scheme=scheme)
        page.execute_script("document.querySelectorAll('details').forEach(d => d.open = true)")
        assert page.execute_script("return document.documentElement.scrollWidth <= innerWidth")
        cut = page.execute_script(
            "return [...document.querySelectorAll('.facts div, .tile')]"
            ".filter(e => e.scrollWidth > e.clientWidth + 1).map(e => e.textContent)"
        )
        assert cut == []
        ground = page.execute_script("return getComputedStyle(document.body).backgroundColor")
        assert (sum(map(int, ground.strip("rgb()").split(","))) < 200) == (scheme == "dark")


def test_buttons_are_large_enough_for_fingers(infer: Any) -> None:
    resize(infer, 360, 800)
    heights = infer.execute_script(
        "return [...document.querySelectorAll('.bar button, .data thead button, #card-1 button')]"
        ".map(b => b.getBoundingClientRect().height)"
    )
    assert min(heights) >= 24  # WCAG 2.2, level AA


def test_paper_gets_everything(infer: Any) -> None:
    infer.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    assert not one(infer, ".bar").is_displayed()
    assert infer.execute_script(
        "const s = document.querySelector('.list .scroll'); return s.scrollHeight <= s.clientHeight + 2"
    )
    assert (
        infer.execute_script("return getComputedStyle(document.querySelector('.card')).contentVisibility") == "visible"
    )
    infer.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})


def test_without_script_all_is_there(browser: Any, pages: dict[str, Path]) -> None:
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        browser.get(pages["infer"].as_uri())
        assert len(every(browser, "#rows tr")) == COUNT + 2
        assert one(browser, "#card-1 .picture").is_displayed()
    finally:
        browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})


def test_hostile_names_do_nothing(infer: Any) -> None:
    assert SAMPLES.HOSTILE in rows(infer)
    assert infer.execute_script("return document.scripts.length") == 1
    link = one(infer, f"#card-{COUNT + 1} footer a")
    assert link.get_attribute("href").endswith("/masks/%231%20%3F.png")


@pytest.mark.parametrize("width", [1280, 390])
def test_the_audit_fits_its_window(audit: Any, width: int) -> None:
    resize(audit, width, 800)
    assert audit.execute_script("return document.documentElement.scrollWidth") <= width
    pictures = every(audit, "#duplicates figure img")
    assert len(pictures) == 3
    assert all(picture.size["width"] > 100 for picture in pictures)


def test_the_audit_by_keyboard(audit: Any) -> None:
    def press(*keys: str) -> str:
        ActionChains(audit).send_keys(*keys).perform()
        return audit.switch_to.active_element.text

    assert press(Keys.TAB) == "Skip to the list of findings"
    press(Keys.ENTER)
    assert press(Keys.TAB) == "Near-duplicates"
    press(Keys.ENTER)
    assert audit.current_url.endswith("#duplicates")
    assert press(Keys.TAB).startswith("Near-duplicates")  # the section's head
    press(Keys.SPACE)
    assert one(audit, "#duplicates").get_attribute("open") is None


def test_the_box_lies_on_the_mark(audit: Any) -> None:
    """150 x 200 pixels are shown as they are; the box is two pixels outside of the mark."""
    box = one(audit, "#marks rect")
    assert [float(box.get_attribute(name)) for name in ("x", "y", "width", "height")] == [28, 18, 34, 24]


def test_the_benchmark_finds_what_it_clicks(tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    write_report(page, list(BENCHMARK.records(3)), title="3 phantoms", settings={})
    times = BENCHMARK.browse(page)
    assert list(times) == ["load", *BENCHMARK.STEPS]
    assert all(value > 0 for value in times.values())
