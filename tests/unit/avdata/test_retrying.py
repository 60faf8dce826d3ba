"""Waits between attempts."""

import pytest

from avdata.retrying import RetryPolicy
from avmanifest.errors import ConfigError


def test_waits_double_and_end_with_the_attempts() -> None:
    policy = RetryPolicy(attempts=4, wait_s=0.5)
    assert [policy.next_delay_s(made, 0.0) for made in (1, 2, 3, 4, 5)] == [0.5, 1.0, 2.0, None, None]


def test_no_attempt_begins_after_the_total_time() -> None:
    policy = RetryPolicy(attempts=9, wait_s=1.0, total_s=10.0)
    assert policy.next_delay_s(1, 9.0) == 1.0
    assert policy.next_delay_s(1, 9.5) is None
    assert policy.next_delay_s(4, 3.0) is None  # a wait of 8 s


def test_jitter_draws_around_the_wait() -> None:
    drawn = {RetryPolicy(wait_s=4.0, jitter=0.5).delay_s(2) for _ in range(100)}
    assert len(drawn) > 50
    assert all(4.0 <= delay_s <= 12.0 for delay_s in drawn)


@pytest.mark.parametrize("wrong", [{"attempts": 0}, {"wait_s": -1.0}, {"jitter": 1.5}, {"total_s": -1.0}])
def test_a_policy_that_cannot_be_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError):
        RetryPolicy(**wrong)  # type: ignore[arg-type]
