"""Check the bundle by the model zoo's rules and pack it as the zoo distributes bundles.

    python scripts/package_bundle.py dist
    python scripts/package_bundle.py dist --schema meta_schema_20240725.json       # without a network
    python scripts/package_bundle.py dist --label                                  # for MONAI Label: docs/serving.md

Writes `dist/NAME_vVERSION.zip` with one folder NAME: configs, documents, licence, models with their SHA-256, and
`large_files.yml`. The same bundle gives the same bytes on every machine: files are sorted, dated 1980, and not
compressed (weights do not shrink). If a rule fails, nothing is written.
"""

from __future__ import annotations

import argparse
import json
import logging
import re
import shutil
import sys
import tempfile
import warnings
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bundle_rules import RuleError, check_bundle, read_json

from phnet_monai.engines.run import compose, overlay_files
from phnet_monai.files import atomic_writer, sha256_of

PROJECT = Path(__file__).resolve().parents[1]
CHANGELOG = PROJECT / "CHANGELOG.md"
NAME = "breast_ultrasound_phnet_segmentation"
PACKED = (
    "LICENSE",
    "configs/**/*.json",
    "configs/logging.conf",
    "docs/*.md",
    "docs/*.json",
    "docs/*.txt",
    "models/README.md",
    "models/SHA256SUMS",
    "models/model.pt",
    "models/model.safetensors",
)
LARGE = 25_000_000
"""Bytes from which the zoo wants a file to be downloaded from elsewhere."""
LABEL_OVERLAYS = {
    "train.json": ("profiles/cpu", "options/monai_label"),
    "inference.json": ("options/monai_label_inference",),
}


def package(
    source: Path,
    out: Path,
    *,
    name: str = NAME,
    changelog: Path = CHANGELOG,
    schema: Path | None = None,
    overlays: Mapping[str, Sequence[str]] | None = None,
    url: str | None = None,
    large: int = LARGE,
) -> Path:
    """Check and pack the bundle in `source`.

    Args:
        source: the bundle's folder; what a run left in it stays behind.
        out: folder for the zip.
        name: of the bundle: letters, digits and underscores.
        changelog: CHANGELOG.md of the project.
        schema: MONAI's metadata schema as a file; None: downloaded.
        overlays: by name of a config; laid into it, for tools that read no overlays.
        url: where files of more than `large` bytes can be downloaded; they are left out of the zip and listed in
            `large_files.yml` with their SHA-256.

    Raises:
        RuleError: a rule fails, or a file is too large and no `url` is given; nothing is written then.
    """
    if not re.fullmatch(r"[A-Za-z0-9_]+", name):
        raise RuleError(f"name {name!r}: expected letters, digits and underscores, as the model zoo's names")
    if not (source / "configs").is_dir():
        raise RuleError(f"{source}: no bundle (it has no folder configs)")
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work) / name
        stage(source, folder, overlays)
        entries = large_files(folder, url, large)
        for rule in check_bundle(folder, changelog=changelog, schema=schema):
            print(f"ok: {rule}")
        (folder / "large_files.yml").write_text(large_files_text(entries), encoding="utf-8", newline="\n")
        for entry in entries:
            (folder / entry["path"]).unlink()
        version = read_json(folder / "configs" / "metadata.json")["version"]
        target = out / f"{name}_v{version}.zip"
        with atomic_writer(target) as stream:
            write_zip(folder, stream)
    return target


def stage(source: Path, target: Path, overlays: Mapping[str, Sequence[str]] | None = None) -> None:
    """The bundle as it is packed: the wanted files only, JSON in the zoo's form (four spaces, an entry a line)."""
    files = sorted({path for pattern in PACKED for path in source.glob(pattern) if path.is_file()})
    for path in files:
        copy = target / path.relative_to(source)
        copy.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".json":
            write_config(copy, read_json(path))
        else:
            shutil.copyfile(path, copy)
    for name, laid in (overlays or {}).items():
        config = target / "configs" / name
        write_config(config, compose(config, overlay_files(laid)).get())


def write_config(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=4, ensure_ascii=False) + "\n", encoding="utf-8", newline="\n")


def large_files(folder: Path, url: str | None, large: int) -> list[dict[str, str]]:
    """Entries of `large_files.yml`."""
    found = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.stat().st_size > large]
    if found and url is None:
        sizes = ", ".join(f"{path.relative_to(folder)} ({path.stat().st_size / 1e6:.1f} MB)" for path in found)
        raise RuleError(f"{sizes}: larger than {large / 1e6:g} MB; upload it, and give its folder by --url")
    names = [path.relative_to(folder).as_posix() for path in found]
    return [
        {"path": name, "url": f"{str(url).rstrip('/')}/{name}", "hash_val": sha256_of(path), "hash_type": "sha256"}
        for name, path in zip(names, found, strict=True)
    ]


def large_files_text(entries: list[dict[str, str]]) -> str:
    """YAML. The empty list is written, so that it can be told from a forgotten file."""
    if not entries:
        return "large_files: []\n"
    rows = [
        "\n".join(f"{'  - ' if not place else '    '}{key}: {json.dumps(value)}" for place, (key, value) in items)
        for items in (list(enumerate(entry.items())) for entry in entries)
    ]
    return "\n".join(["large_files:", *rows, ""])


def write_zip(folder: Path, stream: Any) -> None:
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as archive:
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            entry = zipfile.ZipInfo(path.relative_to(folder.parent).as_posix(), date_time=(1980, 1, 1, 0, 0, 0))
            entry.create_system, entry.external_attr = 3, 0o100644 << 16
            archive.writestr(entry, path.read_bytes())


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder for the zip")
    parser.add_argument("--bundle", type=Path, default=PROJECT / "bundle", help="default: that of this checkout")
    parser.add_argument("--name", help=f"default: {NAME}, with _label for --label")
    parser.add_argument("--schema", type=Path, help="MONAI's metadata schema as a file; default: download it")
    parser.add_argument("--label", action="store_true", help="train.json and inference.json as MONAI Label takes them")
    parser.add_argument("--url", help="folder from which files over 25 MB can be downloaded")
    args = parser.parse_args(words)
    logging.disable(logging.WARNING)  # MONAI's checks tell what they were asked
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="parsing config_file")  # these configs are ours
            path = package(
                args.bundle,
                args.out,
                name=args.name or (f"{NAME}_label" if args.label else NAME),
                schema=args.schema,
                overlays=LABEL_OVERLAYS if args.label else None,
                url=args.url,
            )
    except (RuleError, OSError) as error:
        print(f"package_bundle: {error}", file=sys.stderr)
        return 2
    finally:
        logging.disable(logging.NOTSET)
    print(f"{path}: {path.stat().st_size} bytes, sha256 {sha256_of(path)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
