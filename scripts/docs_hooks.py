"""Hooks of the documentation site (`mkdocs.yml`): pages that are made from the code, links that leave `docs/`.

Made pages: the command line (`phnet COMMAND --help`), one page for each room of the package, the model card. Links to
files of the repository outside `docs/` work where the repository is browsed; on the site those to a room lead to its
page, those to the model card to that page, and the others become plain text. A link to a file that does not exist is a
warning, and so is a page that would load anything from elsewhere; `mkdocs build --strict` fails on warnings.
"""

from __future__ import annotations

import html
import posixpath
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from mkdocs.plugins import get_plugin_logger
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("transforms", "losses", "networks", "engines", "handlers", "metrics", "data", "inference", "comparison")
MODEL_CARD, MODEL_CARD_PAGE = "bundle/docs/model_card.md", "model-card.md"
COMMAND_LINE_PAGE = "reference/command-line.md"
LINK = re.compile(r"(!?)\[([^\]\[]*(?:\[[^\]]*\][^\]\[]*)*)\]\(([^)\s]+)\)")
CODE = re.compile(r"(^```[\s\S]*?^```|(?:^ {4}.*\n)+)", re.MULTILINE)
LOADING = {
    "script": "src",
    "img": "src",
    "iframe": "src",
    "source": "src",
    "video": "src",
    "audio": "src",
    "link": "href",
}
HARMLESS_LINKS = {"canonical", "next", "prev", "alternate", "edit"}

log = get_plugin_logger("phnet")


def on_files(files: Files, config: Any, **_: Any) -> Files:
    """Add the pages that are made from the code."""
    for path, text in made_pages().items():
        files.append(File.generated(config, path, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Links that leave `docs/`."""
    return links_of_the_site(markdown, page.file.src_uri)


def on_post_build(config: Any, **_: Any) -> None:
    """Nothing may be loaded from elsewhere: the site is read offline."""
    for file in sorted(Path(config["site_dir"]).rglob("*")):
        if file.suffix == ".html":
            for address in loaded_from_elsewhere(file.read_text(encoding="utf-8")):
                log.warning(f"{file.relative_to(config['site_dir'])} loads {address}")
        elif file.suffix == ".css":
            for address in re.findall(r"url\(\s*['\"]?((?:https?:)?//[^)'\"]+)", file.read_text(encoding="utf-8")):
                log.warning(f"{file.relative_to(config['site_dir'])} loads {address}")


def made_pages() -> dict[str, str]:
    """Path below `docs/` -> Markdown."""
    pages = {f"reference/{room}.md": f"# {room}\n\n::: phnet_monai.{room}\n" for room in ROOMS}
    pages[COMMAND_LINE_PAGE] = command_line_page()
    pages[MODEL_CARD_PAGE] = (ROOT / MODEL_CARD).read_text(encoding="utf-8")
    return pages


def command_line_page() -> str:
    """What `phnet COMMAND --help` prints, for every command."""
    from phnet_monai.cli.main import help_text

    parts = [
        "# Command line\n",
        "What `phnet COMMAND --help` prints. `-` and `_` are the same in a flag's name; a switch is turned off by "
        "`--no-FLAG`. Exit codes: 0 done, 2 a wrong command line, path or value, 3 some files failed, 4 nothing to do, "
        "130 interrupted by Ctrl-C, 143 ended by SIGTERM, 1 a defect.\n",
    ]
    for title, command in commands():
        parts.append(
            f'## {title}\n\n<pre class="help"><code>{html.escape(help_text(command, title).strip())}</code></pre>\n'
        )
    return "\n".join(parts)


def commands() -> Iterator[tuple[str, Any]]:
    """(title, function) of every command, those of groups included: `phnet prepare busi`."""
    from phnet_monai.cli.main import COMMANDS

    for name, command in COMMANDS.items():
        if isinstance(command, dict):
            yield from ((f"phnet {name} {part}", function) for part, function in command.items())
        else:
            yield f"phnet {name}", command


def links_of_the_site(markdown: str, page: str) -> str:
    """`markdown` of the page `page` (its path below `docs/`) with links that leave `docs/` led elsewhere."""

    def lead(match: re.Match[str]) -> str:
        mark, text, target = match.groups()
        path, _, _ = target.partition("#")
        if re.match(r"[a-z]+:|#", target) or not path:
            return match[0]
        place = posixpath.normpath(posixpath.join("docs", posixpath.dirname(page), path))
        if page == MODEL_CARD_PAGE:
            place = posixpath.normpath(posixpath.join(posixpath.dirname(MODEL_CARD), path))
        if place.startswith("docs/") and (ROOT / place).is_file() and Path(place).suffix in (".md", ".png", ".svg"):
            return match[0]
        site_page = page_of(place)
        if site_page is not None:
            here = posixpath.dirname(page)
            return f"{mark}[{text}]({posixpath.relpath(site_page, here) if here else site_page})"
        if not (ROOT / place).exists():
            log.warning(f"{page} has a link to {target}: there is no {place} in the repository")
        return text

    # a link's text may hold code: links are looked for outside of blocks, not outside of spans
    parts = CODE.split(markdown)
    return "".join(part if number % 2 else LINK.sub(lead, part) for number, part in enumerate(parts))


def page_of(place: str) -> str | None:
    """The page of the site that stands for a path of the repository; None: there is none."""
    if place == MODEL_CARD:
        return MODEL_CARD_PAGE
    if place.startswith("docs/") and place.removeprefix("docs/") in made_paths():
        return place.removeprefix("docs/")
    room = re.fullmatch(r"phnet_monai/(\w+)(/.*)?", place)
    if room and room[1] in ROOMS and (ROOT / place).exists():
        return f"reference/{room[1]}.md"
    return None


def made_paths() -> set[str]:
    return {*(f"reference/{room}.md" for room in ROOMS), COMMAND_LINE_PAGE, MODEL_CARD_PAGE}


class _Loads(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        relation = set((values.get("rel") or "").split())
        if tag == "link" and relation & HARMLESS_LINKS:
            return
        address = values.get(LOADING.get(tag, "")) or ""
        if re.match(r"(https?:)?//", address):
            self.found.append(address)


def loaded_from_elsewhere(page: str) -> list[str]:
    """Addresses on other machines that a browser would load with this HTML page (links to click do not count)."""
    parser = _Loads()
    parser.feed(page)
    return parser.found
