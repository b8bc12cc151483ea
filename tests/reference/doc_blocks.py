"""What the pages tell a reader to type: code blocks and commands, and a check that what they name exists.

Blocks in a page, by the word behind their fence; `tests/integration/test_docs.py` goes through them in order:

* `bash`: run, with small trainings.
* `python`, `json`: run, or read; with `title="NAME"` written to the file NAME instead.
* `sh`, and blocks that are indented (here `indented`): what takes hours, many GPUs or data that is not here; run in
  miniature, but for the few commands that are listed there with a reason.

Commands that stand in the text are checked: commands, flags, ids, scripts, targets and overlays must exist.
"""

from __future__ import annotations

import functools
import json
import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from phnet_monai.cli.arguments import HelpRequested, UsageError, bind, signature_of
from phnet_monai.cli.main import COMMANDS
from phnet_monai.engines.config_check import find_id
from phnet_monai.engines.run import compose, training_overlays
from phnet_monai.shipped import bundle_folder

ROOT = Path(__file__).parents[2]
FENCED = re.compile(r"^```(\w*)(?: title=\"([^\"]+)\")?\n(.*?)^```", re.DOTALL | re.MULTILINE)
INDENTED = re.compile(r"(?:^ {4,}\S[^\n]*\n)+", re.MULTILINE)
BLOCK = re.compile(f"{FENCED.pattern}|({INDENTED.pattern})", re.DOTALL | re.MULTILINE)
SPAN = re.compile(r"(?<!`)`([^`]+)`(?!`)")
PROGRAMS = ("phnet", "python", "make", "torchrun")
MONAI_FLAGS = {"config_file", "meta_file", "logging_file", "run_id", "tracking", "bundle_root", "filepath"}
OTHERS_COMMANDS = {  # docs/inference.md, "Coming from other predict commands"
    *("save_probabilities", "disable_tta", "continue_prediction"),
    *("output_type", "preview", "statistics", "remove_small_blobs"),
}
OTHER_FLAGS = OTHERS_COMMANDS | {
    "nproc-per-node",
    "nproc_per_node",
    "nnodes",
    "standalone",
    "logdir",
    "help",
    "version",
    "screenshot",
}


@dataclass(frozen=True)
class Block:
    language: str
    title: str | None
    text: str


def pages() -> dict[str, str]:
    """Path -> text of all pages that tell a reader what to type."""
    found = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")]
    found += [*(ROOT / "bundle").glob("*/*.md"), *ROOT.glob("SECURITY.md")]
    return {str(path.relative_to(ROOT)): path.read_text(encoding="utf-8") for path in sorted(found)}


def blocks(page: str) -> list[Block]:
    """The blocks of a page, in order; those that are indented have the language `indented`."""
    found = BLOCK.findall(page)
    return [
        Block("indented", None, indented) if indented else Block(language, title or None, text)
        for language, title, text, indented in found
    ]


def command_lines(block: Block) -> list[str]:
    """The commands of a block: comments out, continued lines joined. Of an indented one only what looks like ours."""
    if block.language not in ("bash", "sh", "indented"):
        return []
    lines = (line.strip() for line in block.text.replace("\\\n", " ").splitlines())
    found = [line for line in lines if line and not line.startswith("#")]
    return found if block.language != "indented" else [line for line in found if line.split()[0] in PROGRAMS]


def named_commands(page: str) -> Iterator[tuple[str, bool]]:
    """(command, whether it is whole) for everything on a page that looks like one of our commands."""
    for block in blocks(page):
        yield from ((line, True) for line in command_lines(block))
    for span in SPAN.findall(BLOCK.sub("", page)):
        words = span.split()
        if words and (words[0] in PROGRAMS or re.match(r"--\w", words[0])):
            yield " ".join(words), False


def check(command: str, *, whole: bool = True) -> None:
    """Refuse a command that cannot be typed so. A command in running text may leave arguments out.

    Raises:
        AssertionError: what does not exist.
    """
    text = command.replace("$BUNDLE", str(bundle_folder()))
    words = [word for word in split(text) if word not in ("...", "…")]
    words = words[: words.index("|")] if "|" in words else words
    while words and re.fullmatch(r"[A-Z_]+=\S*", words[0]):
        words = words[1:]
    program, rest = words[0], words[1:]
    if program.startswith("--"):
        check_flag(program)
    elif program == "phnet":
        check_phnet(rest, whole)
    elif program == "make":
        targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
        assert {word for word in rest if "=" not in word} <= set(targets), f"{command}: no such target"
    elif program == "torchrun":
        assert "-m" in rest or not whole, f"{command}: which module?"
        check_python(rest[rest.index("-m") :] if "-m" in rest else [], whole)
    elif program.startswith("python"):
        check_python(rest, whole)


def split(command: str) -> list[str]:
    """The words of one command as a shell makes them. A `#` inside a word (`--apa#threshold`) begins no comment."""
    words = shlex.split(command)
    comment = next((number for number, word in enumerate(words) if word.startswith("#")), len(words))
    return words[:comment]


def check_python(words: list[str], whole: bool) -> None:
    if not words:
        return
    if words[0] == "-c":
        compile(words[1], "a page", "exec")
    elif words[:2] == ["-m", "phnet_monai"]:
        check_phnet(words[2:], whole)
    elif words[:3] == ["-m", "monai.bundle", "run"]:
        if whole or words[3:]:
            check_bundle_run(words[3:])
    elif words[0].startswith("scripts/"):
        check_script(words[0], words[1:])


def check_phnet(words: list[str], whole: bool) -> dict[str, Any]:
    """The bound arguments of a command of ours."""
    component: Any = COMMANDS
    path = ["phnet"]
    while isinstance(component, Mapping):
        if not words or words[0] in ("--help", "--version") or words[0].isupper():
            assert words or not whole, f"{' '.join(path)}: which command?"
            return {}
        assert words[0] in component, f"there is no command {' '.join([*path, words[0]])!r}"
        path.append(words[0])
        component, words = component[words[0]], words[1:]
    try:
        values = bind(signature_of(component, " ".join(path)), words)
    except HelpRequested:
        return {}
    except UsageError as error:
        if whole or not re.search(" missing| needs a value", str(error)):
            raise AssertionError(f"{' '.join([*path, *words])}: {error}") from error
        values = {}
    if path[-1] in ("train", "compare"):
        check_training(path[-1], values)
    return values


def check_training(command: str, values: dict[str, Any]) -> None:
    """Names of profile, method and overlays, and every id, unless they are placeholders."""
    method = values.get("method", "phnet")
    given = [name for entry in values.get("config") or [] for name in entry.split(",")]
    own = [name for name in given if name.endswith(".json") and not Path(name).is_file()]
    config = [name for name in given if name not in own and not re.search(r"\b[A-Z]{2,}\b", name)]
    profile = values.get("profile", "cpu")
    recipe = "harmonised" if command == "compare" else values.get("recipe", "harmonised")
    method = "phnet" if method.isupper() else method
    named = {name for name in values if name not in signature_of(COMMANDS[command], command).parameters}
    parser = compose(
        bundle_folder() / "configs" / "train.json", training_overlays(profile, method, recipe=recipe, config=config)
    )
    for name in sorted(named):
        if not (own and name.startswith("method_handler#")):  # the page's own component is checked where it is run
            find_id(parser.get(), name, command)


def check_bundle_run(words: list[str]) -> None:
    flags = dict(zip(words[::2], words[1::2], strict=True))
    assert all(flag.startswith("--") for flag in flags), words
    files = flags["--config_file"].strip("[]").replace("'", "").split(",")
    assert all(Path(file).is_file() for file in files), files
    parser = compose(Path(files[0]))  # MONAI lets a profile bring ids that only other configs have
    for flag in flags:
        if flag[2:] not in MONAI_FLAGS:
            find_id(parser.get(), flag[2:], "python -m monai.bundle run")


def check_script(script: str, words: list[str]) -> None:
    path = ROOT / script
    assert path.is_file(), f"there is no {script}"
    if path.suffix == ".py":
        unknown = {word.partition("=")[0] for word in words if word.startswith("--")} - script_flags(path)
        assert not unknown, f"{script} has no {', '.join(sorted(unknown))}"


def script_flags(path: Path) -> set[str]:
    return set(re.findall(r"add_argument\(\s*\"(--[\w-]+)\"", path.read_text(encoding="utf-8")))


def check_flag(word: str) -> None:
    """A flag that stands alone in a text: of any command or script of ours, or an id."""
    name = word.partition("=")[0]
    if re.search(r"[A-Z]", name) or name in known_flags():
        return
    find_id(_config("train"), name[2:], "a page")


@functools.cache
def known_flags() -> frozenset[str]:
    flags = {f"--{name}" for name in (*OTHER_FLAGS, *MONAI_FLAGS)}
    for command in _functions(COMMANDS):
        for name in signature_of(command, "").parameters:
            dashed = name.replace("_", "-")
            flags |= {f"--{name}", f"--{dashed}", f"--no-{dashed}"}
    for script in (ROOT / "scripts").glob("*.py"):
        flags |= script_flags(script)
    return frozenset(flags)


def _functions(group: Mapping[str, Any]) -> Iterator[Any]:
    for command in group.values():
        yield from _functions(command) if isinstance(command, Mapping) else [command]


@functools.cache
def _config(name: str) -> dict[str, Any]:
    return json.loads((bundle_folder() / "configs" / f"{name}.json").read_text(encoding="utf-8"))


__all__ = ["Block", "blocks", "check", "check_phnet", "command_lines", "named_commands", "pages", "split"]
