"""`SHA256SUMS` beside shipped weights: read, checked whenever weights are read, kept true by exports."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from phnet_monai.inference.models import load_model
from phnet_monai.networks import CheckpointError, PHNet, export_state_dict, load_checkpoint, read_checkpoint
from phnet_monai.networks.digests import SUMS, check_digest, read_digests, record_digests

NETWORK = {"decoder": "plain_unet", "unet_features": [2, 2, 2, 2, 2], "head_channels": 2, "embedding_size": None}


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """A checkpoint `models/model.pt` with its digest beside it."""
    folder = tmp_path / "models"
    folder.mkdir()
    network = PHNet(**NETWORK)
    info = {"network": network.arguments, "input": {"size": 32, "pad_value": 0.33}}
    torch.save({"student": network.state_dict(), "info": info}, folder / "model.pt")
    record_digests(folder, ["model.pt"])
    return folder / "model.pt"


def damage(path: Path) -> None:
    """Another value in one byte, which leaves a file that torch reads without complaint, or a zip error."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_the_file_is_sha256sums(weights: Path) -> None:
    told = hashlib.sha256(weights.read_bytes()).hexdigest()
    assert (weights.parent / SUMS).read_text() == f"{told}  model.pt\n"
    assert read_digests(weights.parent) == {"model.pt": told}
    tool = shutil.which("sha256sum")
    if tool is not None:
        subprocess.run([tool, "--check", "--strict", SUMS], cwd=weights.parent, check=True, capture_output=True)


def test_intact_weights_are_read(weights: Path) -> None:
    assert isinstance(load_checkpoint(weights)[0], PHNet)
    assert read_digests(weights.parent.parent) == {}


@pytest.mark.parametrize("way", ["read", "file", "bundle"])
def test_changed_weights_are_refused_by_every_reader(weights: Path, way: str) -> None:
    damage(weights)
    message = f"{weights}: its SHA-256 is .* but SHA256SUMS beside it says .* take its line out of .*{SUMS}"
    with pytest.raises(CheckpointError, match=message):
        {"read": read_checkpoint, "file": load_model, "bundle": lambda file: load_model(file.parent.parent)}[way](
            weights
        )


def test_a_changed_program_is_refused_before_it_is_opened(weights: Path) -> None:
    path = weights.with_name("model.ts")
    torch.jit.save(torch.jit.script(torch.nn.Identity()), path)
    record_digests(path.parent, [path.name])
    damage(path)
    with pytest.raises(CheckpointError, match="SHA-256"):
        load_model(path, device="cpu")


def test_files_that_are_not_listed_pass(weights: Path) -> None:
    other = weights.with_name("other.pt")
    shutil.copy(weights, other)
    check_digest(other)
    record_digests(weights.parent, ["other.pt"])
    assert sorted(read_digests(weights.parent)) == ["model.pt", "other.pt"]


def test_an_export_keeps_the_list_true(weights: Path, tmp_path: Path) -> None:
    source = tmp_path / "source.pt"
    shutil.copy(weights, source)
    before = read_digests(weights.parent)
    export_state_dict(source, weights)
    after = read_digests(weights.parent)
    assert before != after == {"model.pt": hashlib.sha256(weights.read_bytes()).hexdigest()}
    export_state_dict(source, tmp_path / "elsewhere" / "model.pt")
    assert not (tmp_path / "elsewhere" / SUMS).exists()


@pytest.mark.parametrize("line", ["abc  model.pt", "model.pt", "0" * 64])
def test_a_broken_list_is_named(weights: Path, line: str) -> None:
    (weights.parent / SUMS).write_text(f"{'0' * 64}  a.pt\n{line}\n")
    with pytest.raises(CheckpointError, match=r"SHA256SUMS, line 2: found .* expected 64 hex digits"):
        read_checkpoint(weights)
