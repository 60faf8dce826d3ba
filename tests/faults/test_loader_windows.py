"""Windows of log-mels are read without the rest: what is read is compared with the hashes of its blocks."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from avdata.audit.dataset import open_audit_dataset
from avdata.audit.verify import verify
from avdata.dataset import Dataset, each_frame, select, unite
from avdata.load import (
    BatchArray,
    CacheConfig,
    EvalView,
    FunctionView,
    Loader,
    LoaderConfig,
    StoredSample,
    open_dataset,
)
from avdata.load.reader import ShardReader, ThreadMemory
from avdata.shards import MEL_BLOCK_BYTES, block_hashes, members_of, pack_npy, pack_npy_columns
from avmanifest.errors import DamagedMember, ManifestError, ShardError
from avmanifest.layout import Layout
from avmanifest.schema import CLIP_SCHEMA
from avmanifest.table import read_table
from tests.faults.bit_faults import flip
from tests.faults.test_loader_integrity import place_of, rewrite
from tests.shards import draw_dataset

VIEW = EvalView(image_size=8)
COLUMNS = 329  # of 5 s: six blocks, the last one of 9 columns


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_dataset(tmp_path_factory.mktemp("windows") / "set", 8, 4, num_frames=2, mel=("paper", "released"))


@pytest.fixture
def damaged(tmp_path: Path) -> Path:
    """A dataset that may be damaged."""
    return draw_dataset(tmp_path / "set", 4, 4, num_frames=1)


def window(dataset: Dataset, number: int, first: int, count: int, name: str = "paper") -> np.ndarray:
    """Columns of the log-mel of a sample."""
    out = np.zeros((128, count), np.float16)
    with ShardReader(dataset.shards, CacheConfig()) as reader, reader.leases() as leases:
        sample = StoredSample(dataset, reader, leases, ThreadMemory(), number, dataset.keys[number].as_py())
        sample.copy_mel(name, first, out)
    return out


def without_blocks(dataset: Dataset) -> Dataset:
    """A dataset that is read as one whose manifest has no hashes of blocks."""
    return replace(dataset, mel_blocks={})


def test_a_row_has_the_hash_of_every_block_of_its_log_mels(root: Path) -> None:
    layout = Layout(root)
    for shard in layout.shards("train"):
        tar = layout.tar(shard).read_bytes()
        for row in read_table(layout.clips(shard), CLIP_SCHEMA).to_pylist():
            mels = [member for member in members_of(row) if member.name.startswith("logmel")]
            assert [member.name for member in mels] == ["logmel.npy", "logmel-released.npy"]
            for member in mels:
                content = tar[member.offset : member.offset + member.size]
                assert member.blocks == block_hashes(content)
                assert len(member.blocks or ()) == -(-(member.size - 128) // MEL_BLOCK_BYTES)


@pytest.mark.parametrize(
    ("first", "count"), [(0, 1), (0, 64), (63, 2), (64, 64), (1, 192), (137, 192), (320, 9), (0, COLUMNS)]
)
@pytest.mark.parametrize("name", ["paper", "released"])
def test_a_window_is_the_same_as_from_the_whole_log_mel(root: Path, first: int, count: int, name: str) -> None:
    dataset = open_dataset(root)
    first = min(first, 320 - count) if name == "released" and count < 320 else first
    count = min(count, 320)
    for number in (0, 5):
        whole = window(without_blocks(dataset), number, first, count, name)
        assert np.array_equal(window(dataset, number, first, count, name), whole)


def test_selected_united_and_single_frames_keep_their_hashes(root: Path) -> None:
    dataset = open_dataset(root)
    chosen = select(dataset, np.arange(8) % 3 == 1)
    both = unite([without_blocks(dataset), chosen, dataset])
    assert both.mel_blocks["paper"][:8].tolist() == [-1] * 8
    for number in range(len(both)):
        origin = int(both.keys[number].as_py()[-5:])
        assert np.array_equal(window(both, number, 70, 100), window(dataset, origin, 70, 100))
    frames = each_frame(chosen, masked=False)
    assert np.array_equal(window(frames, 3, 70, 100), window(chosen, 1, 70, 100))


def test_damage_inside_the_blocks_of_a_window_is_refused_and_outside_is_not_read(damaged: Path) -> None:
    path, offset, _ = place_of(damaged, "clip-00001", "logmel.npy")
    before = window(open_dataset(damaged), 1, 64, 64)
    flip(path, 8 * (offset + 128 + 3 * MEL_BLOCK_BYTES + 5))
    dataset = open_dataset(damaged)
    assert np.array_equal(window(dataset, 1, 64, 64), before)
    for first, count in ((192, 64), (191, 2), (0, COLUMNS)):
        with pytest.raises(DamagedMember, match=r"clip-00001\.logmel\.npy: damaged: its 16384 bytes at byte \d+ of"):
            window(dataset, 1, first, count)
    with pytest.raises(DamagedMember, match=r"clip-00001\.logmel\.npy"):
        window(without_blocks(dataset), 1, 64, 64)


def test_every_bit_of_a_window_counts(damaged: Path) -> None:
    path, offset, size = place_of(damaged, "clip-00000", "logmel.npy")
    dataset, chance = open_dataset(damaged), np.random.default_rng(0)
    for bit in chance.integers(8 * 128, 8 * size, 60).tolist():
        flip(path, 8 * offset + bit)
        with pytest.raises(DamagedMember):
            window(dataset, 0, 0, COLUMNS)
        flip(path, 8 * offset + bit)
    window(dataset, 0, 0, COLUMNS)


def test_a_shard_that_shrinks_while_it_is_open_is_an_error(damaged: Path) -> None:
    """Shards are read, not mapped: a mapped file that gets shorter would end the process."""
    config = LoaderConfig(batch_size=1, num_workers=0, prefetch_batches=1)
    batches = Loader(open_dataset(damaged), VIEW, config).arrays()
    next(batches)
    with (damaged / "train/00000.tar").open("r+b") as file:
        file.truncate(2048)
    with pytest.raises(ShardError, match=r"truncated at byte 2048, before the end of clip-\d+\."):
        next(batches)


def test_several_windows_are_copied_from_one_reading(root: Path) -> None:
    def three(sample: StoredSample, draws: Sequence[float], row: Mapping[str, np.ndarray]) -> None:
        for number, first in enumerate((0, 100, 200)):
            sample.copy_mel("paper", first, row["mels"][number])

    view = FunctionView(function=three, arrays=(BatchArray("mels", (3, 128, 100), np.float16, (0, 2, 1)),))
    dataset = open_dataset(root)
    config = LoaderConfig(batch_size=8, num_workers=0)
    (one,), (other,) = (Loader(data, view, config).arrays() for data in (dataset, without_blocks(dataset)))
    assert np.array_equal(one.arrays["mels"], other.arrays["mels"])


def changed(change: Callable[[list[int]], list[int] | None]) -> Callable[[pa.Table], pa.Table]:
    """A change of the hashes of blocks of the first row."""
    place = CLIP_SCHEMA.get_field_index("mel_block_xxh3")
    field = CLIP_SCHEMA.field(place)

    def of_table(table: pa.Table) -> pa.Table:
        first, *rest = table.column("mel_block_xxh3").to_pylist()
        return table.set_column(place, field, pa.array([change(first), *rest], field.type))

    return of_table


@pytest.mark.parametrize("change", [lambda hashes: hashes[1:], lambda hashes: [*hashes, 1], lambda hashes: []])
def test_a_row_with_too_few_or_too_many_block_hashes_is_refused(damaged: Path, change: Callable[..., list]) -> None:
    rewrite(damaged, changed(change))
    with pytest.raises(ManifestError, match="clip-00000: mel_block_xxh3 must have 6 hashes"):
        open_dataset(damaged)
    with pytest.raises(ManifestError, match="hashes in mel_block_xxh3"):
        members_of(read_table(Layout(damaged).manifest("train"), CLIP_SCHEMA).to_pylist()[0])


def test_a_row_without_block_hashes_is_read_as_a_whole(damaged: Path) -> None:
    before = window(open_dataset(damaged), 0, 70, 100)
    rewrite(damaged, changed(lambda hashes: None))
    dataset = open_dataset(damaged)
    assert dataset.mel_blocks["paper"].tolist() == [-1, 0, 6, 12]
    assert np.array_equal(window(dataset, 0, 70, 100), before)
    assert verify(open_audit_dataset(str(damaged)), deep=True).faults == []


def test_a_wrong_block_hash_is_found_by_verify(damaged: Path) -> None:
    rewrite(damaged, changed(lambda hashes: [hashes[0] ^ 1, *hashes[1:]]))
    (fault,) = verify(open_audit_dataset(str(damaged)), deep=True).faults
    assert "logmel.npy: its row has other hashes of its 6 blocks (mel_block_xxh3)" in str(fault)


def test_log_mels_that_are_not_stored_by_columns_have_no_blocks() -> None:
    mel = np.zeros((128, 100), np.float16)
    assert block_hashes(pack_npy(mel)) is None
    assert block_hashes(pack_npy_columns(mel.astype(np.float32))) is None
    assert len(block_hashes(pack_npy_columns(mel)) or ()) == 2
    row = {"key": "a", "members": [{"name": "logmel.npy", "offset": 512, "size": 128}], "mel_block_xxh3": []}
    assert members_of(row)[0].blocks == ()
