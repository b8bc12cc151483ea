"""What several commands take: models and datalists, by their paths. Cheap to import."""

from __future__ import annotations

from pathlib import Path


def model_files(entries: list[str] | None) -> list[str]:
    """The models to use: each entry is one or, where there is nothing of that name, several joined by commas; without
    any, and for `default`, the model that comes with the package.

    Raises:
        ValueError: an empty name.
        FileNotFoundError: one of them is not there.
    """
    if entries is None:
        from phnet_monai.inference.models import default_model

        return [str(default_model())]
    if not all(entry.strip() for entry in entries):
        raise ValueError(
            "--model is empty (a variable that is not set?); leave it out for the model that comes with phnet"
        )
    parts = [part for entry in entries for part in ([entry] if Path(entry).exists() else entry.split(","))]
    files = [shipped_or_given(part) for part in parts]
    for file in files:
        if not Path(file).exists():
            raise FileNotFoundError(
                f"{file}: no such model; give a checkpoint of `phnet train`, a bundle folder, an exported file, or "
                "`default` for the model that comes with phnet"
            )
    return files


def shipped_or_given(model: str) -> str:
    """The shipped model's file for `default`, where nothing of that name lies here; else `model` itself."""
    if model != "default" or Path(model).exists():
        return model
    from phnet_monai.inference.models import default_model

    return str(default_model())


def datalist_file(path: str) -> str:
    """The datalist meant by `path`: the file itself, or `datalist.json` in that folder.

    Raises:
        FileNotFoundError: there is none.
    """
    file = Path(path) / "datalist.json" if Path(path).is_dir() else Path(path)
    if not file.is_file():
        raise FileNotFoundError(f"{file}: no such datalist; make one with `phnet prepare`")
    return str(file)
