"""Fine-tuning: the encoder and linear heads trained together, tested over several windows, or frames, of each clip."""

from dataclasses import replace

from jaxtyping import Float
from torch import Tensor

from avmodel.configs.augment import AugmentConfig
from avmodel.configs.optim import OptimConfig
from avmodel.distributed import require_precision
from avmodel.evaluate.data import EvalDataConfig, open_splits, scoring_view
from avmodel.evaluate.evaluation import Evaluation, class_report, seen, settings_of, trivial_baselines
from avmodel.evaluate.features import label_matrix
from avmodel.evaluate.finetune.training import FinetuneConfig, predict, scores_of, trained
from avmodel.evaluate.heads import ALL
from avmodel.evaluate.loaded import untrained
from avmodel.evaluate.result import Result, scored

VARIED = AugmentConfig(roll=1024, noise=0.44849, mask_bins=48, mask_columns=192)  # CAV-MAE's: see avmodel.presets.data


def cav_mae() -> FinetuneConfig:
    """CAV-MAE's recipe for VGGSound: waveforms mixed, SpecAug, roll and noise; all ten frames tested.

    The weights tested are the mean of the last eight epochs'.
    """
    optim = OptimConfig(
        optimizer="adam",
        lr=1e-4,
        betas=(0.95, 0.999),
        weight_decay=5e-7,
        warmup=0.0,
        ramp=0.0,
        drops=epoch_starts(2, 10),
    )
    return FinetuneConfig(
        data=EvalDataConfig(frames=10),
        optim=optim,
        head_lr=10.0,
        batch_size=48,
        epochs=10,
        drop_path=0.0,
        mixup=10.0,
        mixup_probability=0.5,
        mixup_of="waveform",
        augment=VARIED,
        class_balanced=True,
        max_gain_db=0.0,
        min_area=1.0,
        flip_probability=0.0,
        averaged_epochs=8,
        average="probabilities",
    )


def avsiam() -> FinetuneConfig:
    """AVSiam-Base's for VGGSound: CAV-MAE's with steps that see, hear or both, and the paper's rates."""
    recipe = cav_mae()
    optim = replace(recipe.optim, lr=5e-5, drops=epoch_starts(2, 15), drop_factor=0.75)
    return replace(
        recipe, optim=optim, batch_size=128, epochs=15, averaged_epochs=1, mixed=True, missing=("audio", "image")
    )


def epoch_starts(first: int, epochs: int) -> tuple[float, ...]:
    """The beginnings of all epochs from `first` on, as shares of the run."""
    return tuple(epoch / epochs for epoch in range(first, epochs))


def finetune(config: FinetuneConfig, run: Evaluation) -> Result:
    """Train on the training split, test on the test split, once a seed.

    Raises as `open_splits`; AvkitError for a loss that isn't finite.
    """
    require_precision(config.precision, run.world.device)
    train, test = open_splits(config.data, run.test, run.train)
    labels = label_matrix(test.dataset)
    asked = labels.any(dim=1)
    modes = [None, *config.missing]

    def tested(one: Evaluation, seed: int, folder: str) -> dict[str, Float[Tensor, "n c"]]:
        classifier = trained(config, one, train, test, seed, one.out / folder)
        found: dict[str, Tensor] = {}
        for mode in modes:
            view = scoring_view(config.data, one.loaded)
            logits = predict(config, classifier, one, test, view, mode=mode)
            found |= {row if mode is None else f"{row}, {mode} only": x for row, x in logits.items()}
        return found

    logits = [tested(run, seed, f"seed-{seed}") for seed in config.seeds]
    runs = [scores_of(found, labels, asked, multi_label=test.multi_label) for found in logits]
    known = trivial_baselines(label_matrix(train.dataset), labels[asked], multi_label=test.multi_label)
    baselines = {name: scored([found]) for name, found in known.items()}
    if config.random_weights:
        drawn = [
            scores_of(
                tested(run.of(untrained(run.loaded, seed)), seed, f"random-seed-{seed}"),
                labels,
                asked,
                multi_label=test.multi_label,
            )
            for seed in config.seeds
        ]
        baselines |= {f"random weights, {row}": scored([found[row] for found in drawn]) for row in drawn[0]}
    return Result(
        task="fine-tuning",
        headline=(ALL, "map" if test.multi_label else "accuracy"),
        unit="%",
        scores={row: scored([found[row] for found in runs]) for row in runs[0]},
        baselines=baselines,
        mode="finetuned, mixed modality" if config.mixed else f"finetuned, {config.data.mode}",
        view=seen(scoring_view(config.data, run.loaded)),
        data={"train": train.described(), "test": test.described()},
        checkpoint=run.loaded.origin,
        settings=settings_of(config),
        seeds=config.seeds,
        notes=(*train.notes, *test.notes),
        extra=class_report(logits[0][ALL][asked], labels[asked], test.dataset.classes, multi_label=test.multi_label),
    )
