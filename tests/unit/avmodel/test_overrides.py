"""`--set`: what each text becomes, and what an impossible one is answered with."""

import pytest

from avmanifest.errors import ConfigError
from avmodel.configs.run import RunConfig
from avmodel.overrides import flatten, override

RUN = RunConfig(name="any")


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("optim.lr=3e-4", 3e-4),
        ("optim.lr=none", None),
        ("optim.clip_grad=1", 1.0),
        ("optim.betas=0.9, 0.95", (0.9, 0.95)),
        ("steps=100", 100),
        ("steps=None", None),
        ("compile=true", True),
        ("compile=no", False),
        ("model.image_size=(112,112)", (112, 112)),
        ("model.fusion_layers=late", "late"),
        ("model.fusion_layers=8,9,11", (8, 9, 11)),
        ("model.fusion_layers=11", (11,)),
        ("data.exclude=silent,still", ("silent", "still")),
        ("data.probe_split=none", None),
        ("image_weights=a=b.pth", "a=b.pth"),
    ],
)
def test_a_setting_becomes_its_fields_type(setting: str, value: object) -> None:
    changed = dict(flatten(override(RUN, [setting])))
    key = setting.partition("=")[0]
    assert changed[key] == value
    assert type(changed[key]) is type(value)
    assert {k: v for k, v in changed.items() if k != key} == {k: v for k, v in flatten(RUN) if k != key}


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("steps", "expected key=value"),
        ("stepz=1", "unknown setting 'stepz'; known: name, model.size"),
        ("model.sise=tiny", "unknown setting 'model.sise'"),
        ("model=tiny", "unknown setting 'model'"),
        ("seed.x=1", "unknown setting 'seed.x'"),
        ("steps=1e3", "steps='1e3' is not a whole number or none"),
        ("seed=none", "seed='none' is not a whole number"),
        ("optim.lr=fast", "optim.lr='fast' is not a number or none"),
        ("compile=maybe", "compile='maybe' is not true or false"),
        ("model.image_size=224", r"model.image_size='224' is not numbers such as"),
        ("model.image_size=a,b", "model.image_size='a,b' is not"),
    ],
)
def test_what_fits_nothing_is_refused(setting: str, said: str) -> None:
    with pytest.raises(ConfigError) as refused:
        override(RUN, [setting])
    assert said in str(refused.value)


def test_a_value_that_the_config_refuses_is_a_config_error() -> None:
    with pytest.raises(ConfigError, match=r"unknown fusion 'dens'; known: dense, factorized, token"):
        override(RUN, ["model.fusion=dens"])
    with pytest.raises(ConfigError, match=r"image_mask_ratio=0\.999 leaves nothing to see"):
        override(RUN, ["model.image_mask_ratio=0.999"])
    with pytest.raises(ConfigError, match=r"audio_mask_ratio=0\.0 leaves nothing to see or to predict"):
        override(RUN, ["model.audio_mask_ratio=0.0"])
    with pytest.raises(ConfigError, match="device_batch_size=0"):
        override(RUN, ["device_batch_size=0"])


def test_settings_of_one_config_are_judged_together_and_the_last_counts() -> None:
    run = override(RUN, ["model.decoder_embed_dim=96", "model.decoder_num_heads=5", "model.decoder_num_heads=6"])
    assert (run.model.decoder_embed_dim, run.model.decoder_num_heads) == (96, 6)
