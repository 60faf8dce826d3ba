"""`avkit convert`: convert a published checkpoint."""

from pathlib import Path
from typing import Annotated

import typer

from avcli.download import DOWNLOAD, download_named
from avcli.help import SETTINGS, defaulted
from avmanifest.errors import ConfigError

EXAMPLES = """\b
Examples:
  avkit convert checkpoint_latest.pth --out weights/deepavfusion_vggsound.safetensors
  avkit convert deepavfusion-vggsound --out weights/deepavfusion_vggsound.safetensors
  avkit convert as_cav_mae_base.pth --family cavmae --out weights/cavmae.safetensors
  avkit convert vgg_ft.pth --family cavmae --classes vggsound=class_labels_indices_vgg.csv --out weights/cavmae-vgg
  avkit convert as_ft_audio.pth --family cavmae --classes audioset --several --mode audio --out weights/cavmae-as-audio
  avkit evaluate linear-probe weights/deepavfusion_vggsound.safetensors --data data/vggsound
  avkit evaluate finetune weights/cavmae-vgg --data data/vggsound --preset cav-mae --set train=false
  avkit apply weights/cavmae-vgg clip.mp4 --task classify --out out

A fine-tuned checkpoint (--classes) becomes a folder, a pretrained one a file.
"""

_FINETUNED = "A fine-tuned checkpoint"  # heading of the options


def convert(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="A published checkpoint (.pth), or its name in avkit models.")
    ],
    out: Annotated[
        Path,
        typer.Option(
            metavar="FILE|FOLDER",
            help="The .safetensors file, or with --classes the folder, to write.",
        ),
    ],
    family: Annotated[
        str | None, defaulted("FAMILY", "Its family, such as cavmae. A wrong one is answered with all.", "deepavfusion")
    ] = None,
    accept_unknown: Annotated[
        bool,
        typer.Option("--accept-unknown", help="Accept a file whose size and sha256 are not those of a released one."),
    ] = False,
    classes: Annotated[
        str | None,
        typer.Option(
            metavar="CLASSES",
            help="Its classes in order, those of a recipe (audioset) or of RECIPE=FILE, a "
            "CSV with the column display_name or a name a line.",
            rich_help_panel=_FINETUNED,
        ),
    ] = None,
    mode: Annotated[
        str | None,
        defaulted(
            "[audio-visual|audio|image]", "With --classes: what it was fine-tuned with.", "audio-visual", _FINETUNED
        ),
    ] = None,
    several: Annotated[
        bool,
        typer.Option(
            "--several", help="With --classes: a clip may have several, as in AudioSet.", rich_help_panel=_FINETUNED
        ),
    ] = False,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="SETTING=VALUE",
            help="A setting of the model that the weights' shapes don't determine, such as decoder_num_heads=8. "
            "Repeatable.",
            rich_help_panel=SETTINGS,
        ),
    ] = None,
    fetch: DOWNLOAD = False,
) -> None:
    """Convert a published checkpoint to .safetensors. No code from the file is run."""
    from avcli.options import given
    from avmodel.registry.fetch import classes_path
    from avmodel.registry.named import located, named_entry

    if fetch:
        download_named([file])
    entry, file = named_entry(file), located(file)
    if entry is not None:
        if not entry.family:
            raise ConfigError(f"{entry.name}: the ViT of one modality: nothing to convert. Name it in --set as it is.")
        family, settings = family or entry.family, [*entry.settings, *(settings or [])]
        if entry.classes and classes is None:
            classes = f"{entry.classes}={classes_path(file)}" if entry.classes_url else entry.classes
            mode, several = mode or entry.mode, several or entry.several
    if classes is None:
        if mode is not None or several:
            raise ConfigError("--mode and --several are of a fine-tuned checkpoint: give its --classes, too")
        from avmodel.weights.convert import convert as run

        published = run(file, out, accept_unknown=accept_unknown, settings=settings or [], **given(family=family))
    else:
        if family is None or accept_unknown:
            raise ConfigError("--classes: give the --family of the fine-tuned checkpoint, and no --accept-unknown")
        from avmodel.evaluate.finetune.imported import convert_classifier

        published = convert_classifier(
            file, out, family=family, classes=classes, several=several, settings=settings or [], **given(mode=mode)
        )
    typer.echo(f"{file}: {published.name}, license: {published.license}", err=True)
    typer.echo(out)
