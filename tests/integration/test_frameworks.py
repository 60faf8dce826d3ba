"""The loader in other trainers, as docs/other-trainers.md hands it to them: three steps, then resumed."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.stateful import Stateful

from avdata.load import Batch, DataLoaderLike, TrainView, open_dataset

pytestmark = pytest.mark.filterwarnings("ignore")  # the frameworks' own
STEPS = 8  # of 5 an epoch
STOP = 3


class Tiny(nn.Module):
    """A linear classifier of the mean of the log-mel's bins. It notes the keys of its batches."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.linear = nn.Linear(128, 3)
        self.seen: list[tuple[str, ...]] = []

    def forward(self, log_mel: Tensor, labels: Tensor, keys: tuple[str, ...]) -> dict[str, Tensor]:
        self.seen.append(tuple(keys))
        scores = self.linear(log_mel.float().mean(2) / 10)
        return {"loss": nn.functional.binary_cross_entropy_with_logits(scores, labels.float())}


def as_dict(batch: Batch) -> dict[str, Any]:
    return {"log_mel": batch.gained_log_mel(), "labels": batch.labels, "keys": batch.keys}


def batches(drawn: Path, collate: Any = as_dict, **options: Any) -> DataLoaderLike:
    options = {"batch_size": 4, "num_workers": 2, "seed": 3, **options}
    return open_dataset(drawn).loader(TrainView(image_size=8), **options).as_dataloader(collate)


@pytest.fixture(scope="module")
def expected(drawn: Path) -> tuple[list[tuple[str, ...]], Tensor]:
    """The keys and the weights of a plain loop."""
    model, loader = Tiny(), batches(drawn)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    while len(model.seen) < STEPS:
        for batch in loader:
            optimizer.zero_grad()
            model(**batch)["loss"].backward()
            optimizer.step()
            if len(model.seen) == STEPS:
                break
    return model.seen, model.linear.weight.detach().clone()


def require_same(expected: tuple[list[tuple[str, ...]], Tensor], first: Tiny, second: Tiny) -> None:
    assert len(first.seen) == STOP
    assert first.seen + second.seen == expected[0]
    assert torch.equal(second.linear.weight, expected[1])


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_torchdatas_protocol_of_state(drawn: Path, workers: int) -> None:
    loader = batches(drawn, num_workers=workers)
    assert isinstance(loader, Stateful)
    assert len(loader) == 5
    states, keys = [loader.state_dict()], []
    for _ in range(2):
        for batch in loader:
            states.append(json.loads(json.dumps(loader.state_dict())))
            keys.append(batch["keys"])
    assert len(keys) == 10
    for done in (0, 1, 4, 5, 7, 9):
        again = batches(drawn, num_workers=2 - workers)
        again.load_state_dict(states[done])
        assert len(again) == 5
        rest = 5 - done % 5
        assert [batch["keys"] for batch in again] == keys[done : done + rest]


def test_a_trainer_that_counts_batches_gets_the_next_epoch(drawn: Path) -> None:
    """Lightning leaves an epoch after its last batch without asking for one more."""
    loader = batches(drawn)
    epochs = [{key for _, batch in zip(range(5), loader, strict=False) for key in batch["keys"]} for _ in "ab"]
    assert epochs[0] == epochs[1] == {f"clip-{number:05d}" for number in range(20)}
    assert loader.state_dict()["epoch"] == 1


@pytest.mark.slow
def test_lightning_fits_and_resumes(drawn: Path, tmp_path: Path, expected: tuple) -> None:
    import lightning

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model = Tiny()

        def training_step(self, batch: Batch, number: int) -> Tensor:
            return self.model(**as_dict(batch))["loss"]

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), 0.1)

    def fit(steps: int, checkpoint: Path | None = None) -> tuple[Tiny, Any]:
        trainer = lightning.Trainer(
            max_steps=steps, accelerator="cpu", use_distributed_sampler=False, default_root_dir=tmp_path, logger=False,
            enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        )  # fmt: skip
        module = Module()
        trainer.fit(module, batches(drawn, collate=None), ckpt_path=checkpoint)
        return module.model, trainer

    first, trainer = fit(STOP)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    second, _ = fit(STEPS, tmp_path / "last.ckpt")
    require_same(expected, first, second)


def test_accelerate_fits_and_resumes(drawn: Path, tmp_path: Path, expected: tuple) -> None:
    from accelerate import Accelerator

    def fit(steps: int, *, resume: bool) -> Tiny:
        accelerator = Accelerator(cpu=True)
        loader = open_dataset(drawn).loader(
            TrainView(image_size=8),
            batch_size=4, num_workers=2, seed=3,
            rank=accelerator.process_index, world_size=accelerator.num_processes,
        ).as_dataloader(as_dict)  # fmt: skip
        tiny = Tiny()
        optimizer = torch.optim.SGD(tiny.parameters(), 0.1)
        model, optimizer, loader = accelerator.prepare(tiny, optimizer, loader)
        accelerator.register_for_checkpointing(loader)
        if resume:
            accelerator.load_state(str(tmp_path / "state"))
        while len(tiny.seen) < steps:
            for batch in loader:
                optimizer.zero_grad()
                accelerator.backward(model(**batch)["loss"])
                optimizer.step()
                if len(tiny.seen) == steps:
                    break
        accelerator.save_state(str(tmp_path / "state"))
        return tiny

    first = fit(STOP, resume=False)
    second = fit(STEPS - STOP, resume=True)
    require_same(expected, first, second)


@pytest.mark.slow
def test_hugging_faces_trainer_fits_and_resumes(drawn: Path, tmp_path: Path, expected: tuple) -> None:
    from transformers import Trainer, TrainerCallback, TrainingArguments

    class SaveLoader(TrainerCallback):
        def __init__(self, loader: DataLoaderLike) -> None:
            self.loader = loader

        def on_save(self, args: Any, state: Any, control: Any, **others: Any) -> None:
            path = Path(args.output_dir, f"checkpoint-{state.global_step}", "loader.json")
            path.write_text(json.dumps(self.loader.state_dict()))

    class AvkitTrainer(Trainer):
        def __init__(self, *arguments: Any, loader: DataLoaderLike, **others: Any) -> None:
            super().__init__(*arguments, callbacks=[SaveLoader(loader)], **others)
            self.loader = loader

        def get_train_dataloader(self) -> DataLoaderLike:
            return self.loader

    def fit(steps: int, checkpoint: Path | None = None) -> Tiny:
        arguments = TrainingArguments(
            output_dir=str(tmp_path), max_steps=steps, save_steps=STOP, per_device_train_batch_size=4, use_cpu=True,
            ignore_data_skip=True, report_to=[], disable_tqdm=True, lr_scheduler_type="constant", learning_rate=0.1,
            optim="sgd", weight_decay=0.0, max_grad_norm=0.0,
        )  # fmt: skip
        loader = batches(drawn)
        if checkpoint is not None:
            loader.load_state_dict(json.loads((checkpoint / "loader.json").read_text()))
        tiny = Tiny()
        AvkitTrainer(tiny, arguments, loader=loader).train(resume_from_checkpoint=checkpoint and str(checkpoint))
        return tiny

    first = fit(STOP)
    second = fit(STEPS, tmp_path / f"checkpoint-{STOP}")
    require_same(expected, first, second)
