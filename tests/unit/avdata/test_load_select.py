from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from avdata.load import EvalView, Loader, LoaderConfig, evaluation_config, open_dataset, relabel, select
from avmanifest.errors import ConfigError
from tests.shards import CLASSES, sample_key

VIEW = EvalView(window_s=1.0, columns=48, image_size=16)


@settings(max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(kept=st.sets(st.integers(0, 19), min_size=1))
def test_selected_samples_are_read_as_before(drawn: Path, kept: set[int]) -> None:
    whole = open_dataset(drawn)
    part = select(whole, np.isin(np.arange(20), list(kept)))
    config = evaluation_config(LoaderConfig(batch_size=20, num_workers=0))
    (everything,) = Loader(whole, VIEW, config)
    (chosen,) = Loader(part, VIEW, config)
    rows = sorted(kept)
    valid = chosen.valid
    assert [key for key, counts in zip(chosen.keys, valid.tolist(), strict=True) if counts] == [
        sample_key(row) for row in rows
    ]
    assert (chosen.images[valid] == everything.images[rows]).all()
    assert (chosen.log_mel[valid] == everything.log_mel[rows]).all()
    assert (chosen.labels[valid] == everything.labels[rows]).all()


def test_nothing_selected_is_an_error(drawn: Path) -> None:
    with pytest.raises(ConfigError, match="no sample is left"):
        select(open_dataset(drawn), np.zeros(20, bool))


def test_new_labels_are_for_the_keys_that_have_them(drawn: Path) -> None:
    found = relabel(
        open_dataset(drawn), {sample_key(4): [CLASSES[2], CLASSES[0]], sample_key(1): [], "other": [CLASSES[0]]}
    )
    assert found.keys.to_pylist() == [sample_key(1), sample_key(4)]
    assert np.diff(found.label_start).tolist() == [0, 2]
    assert [found.classes[label] for label in found.label_ids] == [CLASSES[2], CLASSES[0]]
    with pytest.raises(ConfigError, match="'whale'"):
        relabel(open_dataset(drawn), {sample_key(4): ["whale"]})
