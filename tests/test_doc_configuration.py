"""docs/configuration.md against the configs: every id is explained, none that does not exist, defaults as they are."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from monai.utils import optional_import

ROOT = Path(__file__).parents[1]
CONFIGS = ROOT / "bundle" / "configs"
PAGE = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
NAMES = ("train", "evaluate", "inference")
MENDING = "docs/configuration.md"


def config(name: str) -> dict[str, Any]:
    return json.loads((CONFIGS / f"{name}.json").read_text(encoding="utf-8"))


def section(title: str) -> str:
    """The text below a heading `## title`."""
    return re.split(r"^## ", PAGE.split(f"## {title}\n")[1], maxsplit=1, flags=re.MULTILINE)[0]


def rows(title: str) -> dict[str, list[str]]:
    """First cell, without its backticks -> the other cells, of all tables of a section."""
    lines = [line for line in section(title).splitlines() if line.startswith("| `")]
    cells = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
    names = [first.strip("`") for first, *_ in cells]
    assert len(set(names)) == len(names), "an id stands in two rows"
    return {name: rest for name, (_, *rest) in zip(names, cells, strict=True)}


def ids(node: dict[str, Any], prefix: str = "") -> Iterator[str]:
    """Ids that a reader may want to change: all at the top, below it those that do not only connect components."""
    for name, value in node.items():
        wiring = prefix and isinstance(value, str) and value.startswith(("@", "$@"))
        if name != "_target_" and not wiring:
            yield f"{prefix}{name}"
            if isinstance(value, dict) and name != "handlers":
                yield from ids(value, f"{prefix}{name}#")


def default(content: dict[str, Any], name: str) -> Any:
    """The value at an id, or the default of that argument of the component."""
    node: Any = content
    for part in name.split("#"):
        if part in node:
            node = node[part]
        else:
            module, _, target = node["_target_"].rpartition(".")
            found, exists = optional_import(module, name=target)
            assert exists, node["_target_"]
            node = inspect.signature(found).parameters[part].default
            assert node is not inspect.Parameter.empty
    return node


def shown(value: Any) -> str:
    """How a default stands in its cell."""
    if isinstance(value, dict):
        return f"`{value['_target_'].rpartition('.')[2]}`" if "_target_" in value else "parts"
    if isinstance(value, list) and any(isinstance(entry, dict) for entry in value):
        return "list"
    return f"`{json.dumps(value)}`".replace("|", "\\|")


@pytest.mark.parametrize("name", NAMES)
def test_every_id_is_explained(name: str) -> None:
    documented = rows(f"Ids of {name}.json")
    wanted = set(ids(config(name))) if name == "train" else set(config(name))
    assert sorted(wanted - set(documented)) == [], f"add rows to {MENDING}"


@pytest.mark.parametrize("name", NAMES)
def test_defaults_are_those_of_the_config(name: str) -> None:
    wrong = {}
    for key, (cell, unit, _meaning) in rows(f"Ids of {name}.json").items():
        expected = shown(default(config(name), key))  # KeyError: there is no such id any more
        if cell != expected or not unit:
            wrong[key] = f"{cell} instead of {expected}"
    assert wrong == {}, f"mend {MENDING}"


def test_profiles_are_as_shown() -> None:
    profiles = {name: json.loads((CONFIGS / "profiles" / f"{name}.json").read_text()) for name in profile_names()}
    table = rows("Profiles")
    assert set(table) == {key for profile in profiles.values() for key in profile}
    for key, cells in table.items():
        expected = [f"`{json.dumps(profile[key])}`" if key in profile else "" for profile in profiles.values()]
        assert cells == expected, key


def profile_names() -> list[str]:
    head = next(line for line in section("Profiles").splitlines() if line.startswith("| id"))
    names = re.findall(r"`(\w+)`", head)
    assert sorted(names) == sorted(path.stem for path in (CONFIGS / "profiles").glob("*.json"))
    return names


def test_every_folder_of_overlays_is_named() -> None:
    named = {name.rstrip("/") for name in rows("Overlays that are shipped")}
    assert named == {path.name for path in CONFIGS.iterdir() if path.is_dir()}
