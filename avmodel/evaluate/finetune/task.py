"""Fine-tuning: the encoder and linear heads trained together, tested over several windows, or frames, of each clip."""

from jaxtyping import Float
from torch import Tensor

from avmodel.evaluate.class_scores import class_report, trivial_baselines
from avmodel.evaluate.data import open_splits, scoring_view
from avmodel.evaluate.evaluation import Evaluation, describe_view
from avmodel.evaluate.features import label_matrix
from avmodel.evaluate.finetune.config import FinetuneConfig
from avmodel.evaluate.finetune.training import predict, scores_of, trained
from avmodel.evaluate.heads import ALL
from avmodel.evaluate.result import Result, score_rows
from avmodel.precision import require_precision


def finetune(config: FinetuneConfig, run: Evaluation) -> Result:
    """Train on the training split, test on the test split, once a seed.

    Raises as `open_splits`; DivergedError for a loss that isn't finite.
    """
    require_precision(config.precision, run.world.device)
    train, test = open_splits(config.data, run.test, run.train)
    labels = label_matrix(test.dataset)
    has_label = labels.any(dim=1)
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
    runs = [scores_of(found, labels, has_label, multi_label=test.multi_label) for found in logits]
    trivial = trivial_baselines(label_matrix(train.dataset), labels[has_label], multi_label=test.multi_label)
    random_runs = [
        scores_of(tested(one, seed, f"random-seed-{seed}"), labels, has_label, multi_label=test.multi_label)
        for one, seed in run.with_random_weights(config)
    ]
    return run.result(
        config,
        task="fine-tuning",
        headline=(ALL, "map" if test.multi_label else "accuracy"),
        scores=score_rows(runs),
        baselines=score_rows([trivial]) | score_rows(random_runs, "random weights, "),
        mode="finetuned, mixed modality" if config.mixed else f"finetuned, {config.data.mode}",
        view=describe_view(scoring_view(config.data, run.loaded)),
        data={"train": train.described(), "test": test.described()},
        notes=(*train.notes, *test.notes),
        extra=class_report(
            logits[0][ALL][has_label], labels[has_label], test.dataset.classes, multi_label=test.multi_label
        ),
    )
