"""Laws of the order of samples, of its split over ranks, and of the random numbers."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from avdata.dataset import Part
from avdata.load.order import (
    EpochOrder,
    LoaderState,
    OrderConfig,
    Stream,
    batch_positions,
    check_ranks,
    epoch_order,
    even_counts,
    mixed_order,
    num_batches,
    random_bits,
    sample_counts,
    sample_draws,
    uniform,
)
from avmanifest.errors import CheckpointError, ConfigError

SHARDS = st.lists(st.integers(1, 30), min_size=1, max_size=12)
ORDERS = st.builds(OrderConfig, block_samples=st.integers(1, 40), window_samples=st.integers(1, 200))
WORLDS = (1, 2, 3, 8)


def shard_numbers(sizes: list[int]) -> np.ndarray:
    return np.repeat(np.arange(len(sizes)), sizes)


def blocks_of(shard_of: np.ndarray, block_samples: int) -> list[tuple[int, int]]:
    """Each sample's block, counted by hand."""
    seen: dict[int, int] = {}
    blocks = []
    for shard in shard_of.tolist():
        blocks.append((shard, seen.get(shard, 0) // block_samples))
        seen[shard] = seen.get(shard, 0) + 1
    return blocks


@settings(max_examples=60, deadline=None)
@given(SHARDS, st.integers(0, 2**62), st.integers(0, 1000), ORDERS)
def test_an_epoch_has_each_sample_once(sizes: list[int], seed: int, epoch: int, config: OrderConfig) -> None:
    order = epoch_order(shard_numbers(sizes), seed, epoch, config)
    assert sorted(order.tolist()) == list(range(sum(sizes)))
    assert np.array_equal(order, epoch_order(shard_numbers(sizes), seed, epoch, config))


@settings(max_examples=60, deadline=None)
@given(SHARDS, st.integers(0, 2**62), ORDERS, st.data())
def test_positions_can_be_asked_for_in_any_order(sizes: list[int], seed: int, config: OrderConfig, data) -> None:
    shard_of = shard_numbers(sizes)
    weights = data.draw(st.sampled_from([None, 1.0 + np.arange(len(shard_of))]))
    whole = epoch_order(shard_of, seed, 3, config, weights)
    order = EpochOrder(shard_of.astype(np.uint16), seed, 3, config, weights)
    assert len(order) == len(whole)
    for _ in range(4):
        positions = np.array(data.draw(st.lists(st.integers(0, len(whole) - 1), max_size=20)), np.int64)
        assert np.array_equal(order[positions], whole[positions])


@settings(max_examples=60, deadline=None)
@given(SHARDS, st.integers(0, 2**31), ORDERS)
def test_samples_of_a_window_come_from_few_blocks(sizes: list[int], seed: int, config: OrderConfig) -> None:
    shard_of = shard_numbers(sizes)
    order = epoch_order(shard_of, seed, 0, config)
    blocks = blocks_of(shard_of, config.block_samples)
    last_use = {blocks[sample]: place for place, sample in enumerate(order.tolist())}
    first_use = {blocks[sample]: place for place, sample in reversed(list(enumerate(order.tolist())))}
    longest = config.window_samples + config.block_samples
    assert all(last_use[block] - first_use[block] < longest for block in last_use)


def test_one_window_mixes_all_shards_and_epochs_and_seeds_differ() -> None:
    shard_of = shard_numbers([50] * 8)
    order = epoch_order(shard_of, 0, 0, OrderConfig())
    neighbors = np.abs(np.diff(shard_of[order]))
    assert (neighbors > 0).mean() > 0.75  # 7 of 8 in a perfect shuffle
    orders = [epoch_order(shard_of, seed, epoch, OrderConfig()).tolist() for seed in range(3) for epoch in range(3)]
    assert len({tuple(found) for found in orders}) == 9
    fixed = np.mean([np.mean(np.array(a) == np.array(b)) for a in orders for b in orders if a is not b])
    assert fixed < 0.02  # 1 in 400 by chance


def test_without_shuffle_the_order_is_the_datasets_own() -> None:
    order = epoch_order(shard_numbers([3, 4]), 5, 6, OrderConfig(shuffle=False))
    assert order.tolist() == list(range(7))


def test_each_place_of_a_window_is_equally_likely() -> None:
    shard_of = shard_numbers([4, 4])
    places = np.array([np.argsort(epoch_order(shard_of, seed, 0, OrderConfig())) for seed in range(2000)])
    counts = np.stack([np.bincount(column, minlength=8) for column in places.T])
    assert np.abs(counts - 250).max() < 5 * np.sqrt(250 * 7 / 8)


def test_the_order_of_earlier_versions() -> None:
    """A checkpoint's position means something only as long as this order stays."""
    shard_of = shard_numbers([5, 3, 4])
    config = OrderConfig(block_samples=2, window_samples=6)
    weights = np.arange(1.0, 13.0)
    assert epoch_order(shard_of, 7, 2, config).tolist() == GOLDEN["order"]
    assert epoch_order(shard_of, 7, 2, config, weights).tolist() == GOLDEN["weighted"]
    assert random_bits(1, 2, 3, np.arange(2)).tolist() == GOLDEN["bits"]


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 60), st.integers(1, 7), st.sampled_from(WORLDS), st.data())
def test_ranks_share_what_is_left_of_an_epoch(total: int, batch_size: int, world: int, data: st.DataObject) -> None:
    position = data.draw(st.integers(0, total))
    for tail in ("drop", "pad"):
        count = num_batches(total - position, batch_size, world, tail)  # type: ignore[arg-type]
        firsts = [position + batch_size * world * number for number in range(count)]
        own: list[int] = []
        for rank in range(world):
            for first in firsts:
                places, valid = batch_positions(first, total, batch_size, rank, world)
                assert len(places) == batch_size
                assert ((places >= 0) & (places < total)).all()
                own.extend(places[valid].tolist())
        assert len(set(own)) == len(own)
        left = set(range(position, total)) - set(own)
        if tail == "pad":
            assert not left
        else:
            assert len(own) == count * batch_size * world
            assert len(left) < batch_size * world
            assert not left or min(left) > max(own, default=-1)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 40), st.integers(1, 5))
def test_all_worlds_hand_out_the_same_sequence(total: int, batch_size: int) -> None:
    for world in WORLDS:
        steps = num_batches(total, batch_size, world, "pad")
        step = batch_size * world
        told = [
            places[valid].tolist()
            for number in range(steps)
            for column in [[batch_positions(step * number, total, batch_size, r, world) for r in range(world)]]
            for row in range(batch_size)
            for places, valid in [(np.array([c[0][row] for c in column]), np.array([c[1][row] for c in column]))]
        ]
        assert [place for part in told for place in part] == list(range(total))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(0.01, 100), min_size=1, max_size=80), st.integers(0, 2**31), st.integers(0, 5))
def test_weights_decide_how_often_a_sample_comes(weights: list[float], seed: int, epoch: int) -> None:
    counts = sample_counts(np.array(weights), seed, epoch)
    expected = np.array(weights) * len(weights) / sum(weights)
    assert counts.sum() == len(weights)
    assert (np.abs(counts - expected) < 1 + 1e-6).all()


def test_over_many_epochs_each_sample_gets_its_weight() -> None:
    weights = np.array([0.1, 1.0, 0.5, 2.4])
    mean = np.mean([sample_counts(weights, 0, epoch) for epoch in range(4000)], axis=0)
    assert mean == pytest.approx(weights, abs=0.05)


@settings(max_examples=40, deadline=None)
@given(SHARDS, st.integers(0, 2**31), ORDERS, st.data())
def test_a_weighted_epoch_is_as_long_and_holds_the_counts(
    sizes: list[int], seed: int, config: OrderConfig, data: st.DataObject
) -> None:
    shard_of = shard_numbers(sizes)
    weights = np.array(data.draw(st.lists(st.floats(0.1, 10), min_size=len(shard_of), max_size=len(shard_of))))
    order = epoch_order(shard_of, seed, 3, config, weights)
    assert np.array_equal(np.bincount(order, minlength=len(weights)), sample_counts(weights, seed, 3))


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 40), st.integers(1, 100), st.integers(0, 2**62), st.integers(0, 50), st.integers(1, 30))
def test_over_any_epochs_in_a_row_the_samples_of_a_part_come_equally_often(
    samples: int, drawn: int, seed: int, first: int, epochs: int
) -> None:
    counts = [even_counts(samples, drawn, seed, epoch) for epoch in range(first, first + epochs)]
    assert all(one.sum() == drawn for one in counts)
    together = np.sum(counts, axis=0)
    assert together.min() == epochs * drawn // samples
    assert together.max() == -(-epochs * drawn // samples)


PARTS = st.lists(st.tuples(SHARDS, st.integers(1, 200), st.booleans()), min_size=1, max_size=4)


@settings(max_examples=60, deadline=None)
@given(PARTS, st.integers(0, 2**31), st.integers(0, 9), ORDERS, st.booleans())
def test_a_mixture_has_the_samples_of_each_part_evenly(
    drawn: list[tuple[list[int], int, bool]], seed: int, epoch: int, config: OrderConfig, weighted: bool
) -> None:
    parts = [Part(str(number), sum(sizes), count) for number, (sizes, count, _) in enumerate(drawn)]
    shard_of = shard_numbers([size for sizes, _, _ in drawn for size in sizes])
    weights = [np.arange(1.0, 1 + sum(sizes)) if uneven else np.ones(sum(sizes)) for sizes, _, uneven in drawn]
    order = mixed_order(shard_of, parts, seed, epoch, config, np.concatenate(weights) if weighted else None)
    assert len(order) == sum(part.drawn for part in parts)
    again = mixed_order(shard_of, parts, seed, epoch, config, np.concatenate(weights) if weighted else None)
    assert np.array_equal(order, again)
    part_of = np.repeat(np.arange(len(parts)), [part.samples for part in parts])
    counts = np.split(np.bincount(order, minlength=len(shard_of)), np.cumsum([part.samples for part in parts])[:-1])
    for part, own, weight in zip(parts, counts, weights, strict=True):
        expected = part.drawn * weight / weight.sum() if weighted else np.full(part.samples, part.drawn / part.samples)
        assert own.sum() == part.drawn
        assert (np.abs(own - expected) < 1 + 1e-6).all()
    for number, part in enumerate(parts):
        so_far = np.cumsum(part_of[order] == number) - np.arange(1, len(order) + 1) * part.drawn / len(order)
        assert so_far.max(initial=0) - so_far.min(initial=0) < 2 + 2 * len(parts)


def test_without_shuffle_the_parts_of_a_mixture_follow_each_other() -> None:
    parts = [Part("a", 3, 6), Part("b", 4, 4)]
    order = mixed_order(shard_numbers([3, 4]), parts, 5, 6, OrderConfig(shuffle=False))
    assert order.tolist() == [0, 1, 2, 0, 1, 2, 3, 4, 5, 6]


def test_the_order_of_a_mixture_of_earlier_versions() -> None:
    parts = [Part("a", 5, 4), Part("b", 7, 10)]
    config = OrderConfig(block_samples=2, window_samples=6)
    assert mixed_order(shard_numbers([5, 3, 4]), parts, 7, 2, config).tolist() == GOLDEN["mixed"]


def test_copies_of_a_sample_lie_in_different_blocks() -> None:
    shard_of, weights = shard_numbers([100] * 4), np.ones(400)
    weights[:4] = 60.0
    order = epoch_order(shard_of, 0, 0, OrderConfig(block_samples=10, window_samples=10), weights)
    runs = np.split(order, range(10, len(order), 10))
    assert np.mean([len(set(run.tolist())) == len(run) for run in runs]) > 0.5
    assert not (np.diff(order) == 0).mean() > 0.05


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**63), st.integers(0, 10_000), st.lists(st.integers(0, 2**40), min_size=1, max_size=9))
def test_a_samples_numbers_depend_on_its_position_alone(seed: int, epoch: int, positions: list[int]) -> None:
    together = sample_draws(seed, epoch, np.array(positions), 5)
    alone = [sample_draws(seed, epoch, np.array([position]), 5)[0] for position in positions]
    assert np.array_equal(together, np.stack(alone))
    assert ((together >= 0) & (together < 1)).all()


def test_the_numbers_are_uniform_and_streams_independent() -> None:
    index = np.arange(100_000)
    draws = [uniform(seed, epoch, stream, index) for seed in (0, 1) for epoch in (0, 1) for stream in Stream]
    for one in draws:
        assert np.abs(np.histogram(one, 20, (0, 1))[0] - 5000).max() < 5 * np.sqrt(5000)
        assert abs(np.corrcoef(one[:-1], one[1:])[0, 1]) < 0.02
    assert np.abs(np.corrcoef(draws) - np.eye(len(draws))).max() < 0.02


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"epoch": 0, "position": 0, "seed": 0},
        {"epoch": 0, "position": 0, "seed": 0, "plan_hash": "a", "rank": 0},
        {"epoch": 0, "position": True, "seed": 0, "plan_hash": "a"},
        {"epoch": 0, "position": 1.0, "seed": 0, "plan_hash": "a"},
        {"epoch": -1, "position": 0, "seed": 0, "plan_hash": "a"},
        {"epoch": 0, "position": -1, "seed": 0, "plan_hash": "a"},
        {"epoch": 0, "position": 0, "seed": 0, "plan_hash": None},
    ],
)
def test_what_is_not_a_state_is_refused(values: dict[str, object]) -> None:
    with pytest.raises(CheckpointError, match="loader state"):
        LoaderState.from_dict(values)


@given(st.integers(0, 2**40), st.integers(0, 2**40), st.integers(0, 2**40), st.text(max_size=9))
def test_a_state_is_its_four_values(epoch: int, position: int, seed: int, plan_hash: str) -> None:
    state = LoaderState(epoch=epoch, position=position, seed=seed, plan_hash=plan_hash)
    assert LoaderState.from_dict(state.as_dict()) == state
    assert state.as_dict() == {"epoch": epoch, "position": position, "seed": seed, "plan_hash": plan_hash}


def test_ranks_and_tails_that_cannot_be_are_refused() -> None:
    check_ranks(7, 8, "pad")
    for rank, world in [(-1, 2), (2, 2), (0, 0)]:
        with pytest.raises(ConfigError, match=f"rank={rank} of world_size={world}"):
            check_ranks(rank, world, "drop")
    with pytest.raises(ConfigError, match="unknown tail 'wrap'; known: drop, pad"):
        check_ranks(0, 1, "wrap")
    with pytest.raises(ConfigError, match="block_samples=0"):
        OrderConfig(block_samples=0)


GOLDEN = {
    "order": [10, 11, 6, 9, 8, 5, 3, 2, 7, 1, 0, 4],
    "weighted": [9, 7, 5, 11, 6, 10, 3, 11, 10, 4, 8, 9],
    "mixed": [6, 10, 0, 3, 11, 5, 9, 7, 1, 8, 11, 2, 5, 7],
    "bits": [7411069501230509898, 265502844850039927],
}
