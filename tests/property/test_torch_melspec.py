import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from avdata.profiles import profile
from avdata.torch_melspec import apply_gain_db, log_mel

PAPER = profile("paper")
seeds = st.integers(0, 2**32 - 1)


def noise(seconds: float, seed: int) -> torch.Tensor:
    """Noise that swells and fades, so that windows differ in loudness."""
    generator = torch.Generator().manual_seed(seed)
    waveform = torch.randn(round(seconds * 16_000), generator=generator)
    return 0.2 * waveform * torch.linspace(0, 9, len(waveform)).sin().square()


@settings(deadline=None, max_examples=25)
@given(seed=seeds, seconds=st.floats(3.0, 11.0), data=st.data())
def test_any_196_columns_are_the_log_mel_of_their_three_seconds(seed: int, seconds: float, data: st.DataObject) -> None:
    waveform = noise(seconds, seed)
    whole = log_mel(waveform, PAPER)
    start = data.draw(st.integers(0, whole.shape[-1] - 196))
    alone = log_mel(waveform[240 * start : 240 * start + 48_000], PAPER)
    torch.testing.assert_close(whole[:, start : start + 196], alone, atol=1e-5, rtol=0)


@settings(deadline=None, max_examples=25)
@given(seed=seeds, column=st.integers(0, 60))
def test_a_column_depends_on_its_own_samples_alone(seed: int, column: int) -> None:
    waveform = noise(1.0, seed)
    other = noise(1.0, seed + 1)
    begin, end = 240 * column, 240 * column + 1024
    other[begin:end] = waveform[begin:end]
    torch.testing.assert_close(log_mel(waveform, PAPER)[:, column], log_mel(other, PAPER)[:, column], atol=1e-5, rtol=0)


@settings(deadline=None, max_examples=25)
@given(seed=seeds, gain_db=st.floats(-6.0, 6.0), name=st.sampled_from(["paper", "released"]))
def test_gain_on_the_log_mel_is_gain_on_the_waveform(seed: int, gain_db: float, name: str) -> None:
    waveform = noise(3.0, seed)
    found = apply_gain_db(log_mel(waveform, profile(name)), gain_db, profile(name))
    expected = log_mel(waveform * 10 ** (gain_db / 20), profile(name))
    # In a bin with less than 1e-5 of its frame's power, the rounding of a float32 FFT shows.
    loud = expected > expected.amax(dim=-2, keepdim=True) - 5
    torch.testing.assert_close(found[loud], expected[loud], atol=1e-4, rtol=0)
    torch.testing.assert_close(found, expected, atol=1e-2, rtol=0)
