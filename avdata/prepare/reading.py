"""How other tools read a dataset: the code on its card, which the tests run."""

from collections.abc import Iterator, Sequence

_INTRODUCTION = """\
Every sample has a `json` with its key, labels and frame times; the manifest (`manifest/*.parquet`) has a row for every
requested clip. Run these from the dataset's folder."""

_AVKIT = """\
from avdata.load import Loader, LoaderConfig, TrainView, open_dataset

loader = Loader(open_dataset(".", "{split}"), TrainView(), LoaderConfig(batch_size=2)).arrays()
batch = next(iter(loader))
print(batch.images.shape, batch.log_mel.shape)"""

_WEBDATASET = """\
import webdataset

dataset = webdataset.WebDataset({tars}, shardshuffle=False).decode("rgb8")
for sample in dataset:
    print(sample["__key__"], sample["logmel.npy"].shape{frame_shape}, sample["json"]["labels"])"""

_DATASETS = """\
import os

import datasets

dataset = datasets.load_dataset(os.getcwd(), split="{split}"){cast}
print(dataset[0]["json"]["key"], len(dataset[0]["logmel.npy"]))"""

_CAST = '.cast_column("flac", datasets.Audio(decode=False))  # with torchcodec installed this cast is not needed'

_ENERGON = """\
from megatron.energon import Cooker, DefaultTaskEncoder, WorkerConfig, basic_sample_keys, get_loader, get_train_dataset
from megatron.energon import stateless


@stateless
def cook(sample):
    return {{**basic_sample_keys(sample), **{{name: sample[name] for name in {members}}}}}


class Encoder(DefaultTaskEncoder):
    decoder = None  # the bytes of the members
    cookers = (Cooker(cook),)

    @stateless
    def batch(self, samples):
        return samples


workers = WorkerConfig(rank=0, world_size=1, num_workers=0)
dataset = get_train_dataset(
    ".", dataset_config="crude.yaml", worker_config=workers, batch_size=1, shuffle_buffer_size=None,
    max_samples_per_sequence=None, task_encoder=Encoder(), repeat=False,
)
for batch in get_loader(dataset):
    print(batch[0]["__key__"])"""

_LITDATA = """\
import litdata
import webdataset


def sample_of(tar):
    for sample in webdataset.WebDataset(tar, shardshuffle=False):
        yield {{name: content for name, content in sample.items() if isinstance(content, bytes)}}


if __name__ == "__main__":
    litdata.optimize(sample_of, {tars}, output_dir="../litdata", chunk_bytes="64MB", num_workers=1)
    print(len(litdata.StreamingDataset("../litdata")))"""

_STREAMING = """\
import streaming
import webdataset

members = {members}
with streaming.MDSWriter(out="../mds", columns=dict.fromkeys(["key", *members], "bytes")) as out:
    for sample in webdataset.WebDataset({tars}, shardshuffle=False):
        out.write({{"key": sample["__key__"].encode(), **{{name: sample[name] for name in members}}}})
print(len(streaming.StreamingDataset(local="../mds", batch_size=1)))"""


def is_frame(member: str) -> bool:
    """Whether a member is a stored frame."""
    return member.startswith("frame") and member.endswith(".jpg")


def reading_section(split: str, tars: Sequence[str], members: Sequence[str]) -> Iterator[str]:
    """The paragraphs of the card that show how to read a split.

    Args:
        split: The split that is read.
        tars: Its shards, relative to the folder.
        members: The names of the members that samples have.
    """
    frame = next((name for name in members if is_frame(name)), None)
    values = {
        "split": split,
        "tars": repr(list(tars[:1])),
        "members": repr([name for name in members if name in ("json", "logmel.npy", "flac", frame)]),
        "frame_shape": "" if frame is None else f', sample["{frame}"].shape',
        "cast": _CAST if "flac" in members else "",
    }
    yield _INTRODUCTION
    for name, note, code in (
        ("avkit", "", _AVKIT),
        ("webdataset", "", _WEBDATASET),
        ("Hugging Face datasets", "", _DATASETS),
        ("Megatron-Energon", "It reads the shards in place, without `energon prepare`.", _ENERGON),
        ("litdata", "It reads chunks of its own, which are made once.", _LITDATA),
        ("mosaicml-streaming", "It reads shards of its own, which are made once.", _STREAMING),
    ):
        yield f"### {name}"
        if note:
            yield note
        yield f"```python\n{code.format(**values)}\n```"
