"""`phnet infer`: segment an image or a folder of images."""

from __future__ import annotations


def infer(
    input: str,
    out: str,
    *,
    model: list[str],
    overlays: bool = True,
    probabilities: bool = False,
    threshold: float = 0.5,
    batch_size: int = 8,
    device: str = "auto",
    overwrite: bool = False,
    quiet: bool = False,
) -> int:
    """Segment an image, or all images of a folder and its subfolders.

    Writes OUT/masks/NAME.png (0 and 255, of the image's own size), OUT/overlays/NAME.png and OUT/run.json.
    Where x.jpg and x.png lie in one folder, their results are x.jpg.png and x.png.png. Finished images are
    passed over; a file that cannot be read is reported and does not stop the others. Exit code: 0 all well,
    2 wrong arguments, 3 some files failed, 4 no image found.

    Args:
        input: image (PNG, JPEG, BMP, TIFF) or folder
        out: folder for the results, outside of INPUT
        model: checkpoint written by `phnet train`; of several (a.pt,b.pt, or repeated) the mean probability counts
        overlays: draw the contour on the image
        probabilities: also write OUT/probabilities/NAME.png, 8-bit
        threshold: a pixel is lesion above this probability, between 0 and 1
        batch_size: images per forward pass
        device: auto, cpu, cuda, cuda:1, ...
        overwrite: do finished images again, and replace the results of another model
        quiet: no progress bar, no summary
    """
    import sys

    from phnet_monai.cli.evaluate import checkpoint_files
    from phnet_monai.inference.files import check_paths, find_images

    source, _ = check_paths(input, out)
    models = checkpoint_files(model)
    if not 0 < threshold < 1:
        raise ValueError(f"--threshold must lie between 0 and 1, found {threshold}")
    if batch_size < 1:
        raise ValueError(f"--batch-size must be at least 1, found {batch_size}")
    if not find_images(source):
        print(f"phnet: nothing to do: {input} holds no image (PNG, JPEG, BMP, TIFF)", file=sys.stderr)
        return 4

    from phnet_monai.inference import Predictor, infer_folder

    predictor = Predictor.from_checkpoint(models, device, batch_size=batch_size)
    result = infer_folder(
        input,
        out,
        predictor,
        overlays=overlays,
        probabilities=probabilities,
        threshold=threshold,
        overwrite=overwrite,
        quiet=quiet,
    )
    return result.exit_code
