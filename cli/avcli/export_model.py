"""`avkit export-model`: a model's encoder as a program for torch.export or ONNX."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from avcli.download import DOWNLOAD, download_named
from avcli.help import OUTPUT, defaulted
from avcli.options import JSON, MODEL_WEIGHTS, print_json, require_weights

EXAMPLES = """\b
Examples:
  avkit export-model runs/first --to model.pt2
  avkit export-model runs/first --to model.onnx
  avkit export-model deepavfusion-vggsound --to deepavfusion.onnx --download

The program takes a batch of windows of any size and needs no avkit.
"""


def export_model(
    checkpoint: Annotated[
        Path,
        typer.Argument(metavar="CHECKPOINT", help="A run's folder, a checkpoint, or a name of avkit models."),
    ],
    to: Annotated[
        Path,
        typer.Option(metavar="FILE", help="The file: .pt2 for torch.export, .onnx for ONNX.", rich_help_panel=OUTPUT),
    ],
    format: Annotated[str | None, defaulted("[pt2|onnx]", "Its format.", "as the name of --to", OUTPUT)] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an existing file.", rich_help_panel=OUTPUT)
    ] = False,
    weights: MODEL_WEIGHTS = "model",
    fetch: DOWNLOAD = False,
    as_json: JSON = False,
) -> None:
    """Write a model's encoder as a program, compared with the model first."""
    from avmanifest.extras import require_extras

    require_weights(weights)
    require_extras("torch")
    if to.suffix == ".onnx" or format == "onnx":
        require_extras("onnx", "onnxruntime", "onnxscript")
    from avmodel.exporting import export_model as run
    from avmodel.exporting import format_of, require_free

    format_of(to, format)
    require_free(to, overwrite=overwrite)
    if fetch:
        download_named([checkpoint])
    import torch

    from avmodel.evaluate.loading import load_pretrained

    loaded = load_pretrained(checkpoint, torch.device("cpu"), weights=weights)
    done = run(loaded, to, format=format, overwrite=overwrite)
    if as_json:
        print_json(asdict(done) | {"path": str(done.path)})
        return
    typer.echo(f"{done.path}: the encoder of {done.family}, {done.bytes:,} bytes")
    for kind, shapes in (("input", done.inputs), ("output", done.outputs)):
        for name, shape in shapes.items():
            typer.echo(f"  {kind:<7}{name:<15}{' x '.join(map(str, shape))}")
    typer.echo(f"  largest difference from the model: {done.difference:.1e} of the largest output")
