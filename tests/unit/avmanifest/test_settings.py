"""Settings: what each text becomes, what an impossible one is answered with, and what --explain and TOML say."""

import math
import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import pytest

from avdata.prepare.config import (
    BreakerConfig,
    DownloadConfig,
    HttpOptions,
    Retry,
    SampleConfig,
    Supervision,
    SynthConfig,
    YoutubeOptions,
)
from avdata.retrying import RetryPolicy
from avmanifest.errors import ConfigError
from avmanifest.settings import (
    NOT_A_SETTING,
    Bounds,
    Reader,
    Setting,
    declared,
    explain,
    flatten,
    override,
    read_toml,
    to_toml,
    value_of,
    with_values,
)
from avmodel.configs.apply import TASKS as APPLY_TASKS
from avmodel.configs.run import RunConfig
from avmodel.evaluate.separation.config import SeparationConfig
from avmodel.evaluate.tasks import TASKS, task_config
from avmodel.presets import presets, run_config

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
        ("checkpoint_activations=true", True),
        ("checkpoint_activations=no", False),
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
        ("stepz=1", "unknown setting 'stepz'; did you mean steps?"),
        ("model.sise=tiny", "unknown setting 'model.sise'"),
        ("model=tiny", "unknown setting 'model'"),
        ("seed.x=1", "unknown setting 'seed.x'"),
        ("steps=1e3", "steps='1e3' is not a whole number or none"),
        ("seed=none", "seed='none' is not a whole number"),
        ("optim.lr=fast", "optim.lr='fast' is not a number or none"),
        ("checkpoint_activations=maybe", "checkpoint_activations='maybe' is not true or false"),
        ("model.image_size=224", r"model.image_size='224' is not numbers such as"),
        ("model.image_size=a,b", "model.image_size='a,b' is not"),
    ],
)
def test_what_fits_nothing_is_refused(setting: str, said: str) -> None:
    with pytest.raises(ConfigError) as refused:
        override(RUN, [setting])
    assert said in str(refused.value)


def test_a_value_that_the_config_refuses_is_a_config_error() -> None:
    with pytest.raises(ConfigError, match=r"model\.fusion='dens' is not .*, token; did you mean dense\?"):
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


def per_minute(text: str) -> float:
    number, slash, unit = text.partition("/")
    if (slash, unit) != ("/", "min"):
        raise ValueError
    return 60 * float(number)


@dataclass(frozen=True, slots=True, kw_only=True)
class Inner:
    width: Annotated[int, "Pixels of a picture."] = 4
    sizes: tuple[int, int] = (1, 2)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outer:
    """One field of each kind that configs have."""

    secret: Annotated[object, NOT_A_SETTING] = None
    rate: Annotated[float | None, "Files an hour.", Reader(read=per_minute, form="5/min")] = None
    kind: Annotated[str, "What it is.", ("one", "other")] = "one"
    folder: Path | None = None
    names: tuple[str, ...] = ()
    retry: Retry = Retry.NONE
    share: float = 1e-08
    on: bool = False
    inner: Inner = field(default_factory=Inner)
    words: tuple[str, ...] | None = None
    absent: Inner | None = None


CHANGED = Outer(
    rate=120.0, kind="other", folder=Path("a b/c"), names=('x,"y"', "ä\\\x7f\n"), retry=Retry.ALL, on=True,
    inner=Inner(width=5, sizes=(3, 4)), absent=Inner(width=6),
)  # fmt: skip


@pytest.mark.parametrize(
    "config", [Outer(), CHANGED, RUN, *map(run_config, presets())], ids=lambda one: type(one).__name__
)
def test_a_toml_file_read_back_gives_the_equal_config(config: Any, tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_text(to_toml(config), encoding="utf-8")
    base = replace(config, absent=None) if isinstance(config, Outer) else config
    assert with_values(base, read_toml(base if config is not CHANGED else Outer, tmp_path / "run.toml")) == config


def test_explain_and_toml_say_type_choices_description_and_default() -> None:
    said = explain(CHANGED)
    assert said.startswith("general: One field of each kind that configs have.\n  rate=120.0\n      Files an hour.\n")
    assert "\n\ninner:\n" in said
    assert "  inner.width=5\n      Pixels of a picture.\n      Unit: pixels. Value: a whole number. Default: 4." in said
    assert "  kind=other\n      What it is.\n      Choices: one, other. Default: one." in said
    assert all(len(line) <= 60 for line in explain(RUN, 60).splitlines() if not line.startswith("  image_weights"))
    assert "width = 5                           # a whole number; Pixels of a picture." in to_toml(CHANGED).splitlines()
    assert "secret" not in explain(CHANGED) + to_toml(CHANGED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Proxied:
    """Addresses that may hold a password."""

    proxy: str | None = None
    mirrors: tuple[str, ...] = ()


@pytest.mark.parametrize(
    ("address", "masked"),
    [
        ("http://anna:pa,s@s@proxy:8080", "http://***@proxy:8080"),
        ("socks5://anna:hunter2@[::1]:1080/", "socks5://***@[::1]:1080/"),
        ("https://hunter2@host/path", "https://***@host/path"),
        ("anna:hunter2@proxy:8080", "***@proxy:8080"),
        ("anna:hunter2@proxy", "***@proxy"),
        ("http://anna:@proxy", "http://***@proxy"),
    ],
)
def test_a_password_in_an_address_is_neither_explained_nor_written_to_toml(
    address: str, masked: str, tmp_path: Path
) -> None:
    said = explain(Proxied(proxy=address, mirrors=("http://plain", address)))
    assert f"\n  proxy={masked}\n" in said
    assert f"\n  mirrors=http://plain,{masked}\n" in said
    toml = to_toml(Proxied(proxy=address, mirrors=("http://plain", address)))
    assert "proxy is left out" in toml
    assert "mirrors is left out" in toml
    assert not {"anna", "hunter2", "pa,s"} & set(re.split(r"[^\w,]+", toml))
    (tmp_path / "run.toml").write_text(toml)
    assert read_toml(Proxied(), tmp_path / "run.toml") == {}


@pytest.mark.parametrize(
    "address",
    [
        "http://proxy:8080",
        "https://host/a@b",
        "https://host/watch?v=a:b",
        "local:a@b/c",
        "s3://bucket/x",
        "chrome:Profile",
    ],
)
def test_an_address_without_a_password_is_shown_as_it_is(address: str) -> None:
    assert f"\n  proxy={address}\n" in explain(Proxied(proxy=address))
    assert f'proxy = "{address}"' in to_toml(Proxied(proxy=address))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("inner = 3", "unknown setting 'inner'; did you mean"),
        ("[inner]\nwidht = 3", "unknown setting 'inner.widht'; did you mean inner.width"),
        ("[inner]\nwidth = 1.5", "inner.width='1.5' is not a whole number"),
        ("[inner]\nsizes = [1]", "inner.sizes=[1] is not numbers such as"),
        ("names = 'a'\nnames = 'b'", "not a TOML file of settings"),
        ("secret = 1", "unknown setting 'secret'"),
    ],
)
def test_a_wrong_toml_file_is_refused_with_its_name(content: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_text(content)
    with pytest.raises(ConfigError, match=r"run\.toml") as refused:
        read_toml(Outer(), tmp_path / "run.toml")
    assert said in str(refused.value)


def test_another_spelling_is_read_and_a_plain_value_too() -> None:
    assert (override(Outer(), ["rate=2/min"]).rate, override(Outer(), ["rate=none"]).rate) == (120.0, None)
    with pytest.raises(ConfigError, match=r"rate='x' is not 5/min or a number or none"):
        override(Outer(), ["rate=x"])


RUNS = {type(run.model): run for run in map(run_config, presets())}  # one of each model family
CONFIGS = [
    *RUNS.values(),
    *map(task_config, TASKS),
    *(task.config() for task in APPLY_TASKS.values()),
    SampleConfig(),
    Supervision(),
    HttpOptions(),
    YoutubeOptions(),
    BreakerConfig(),
    DownloadConfig(),
    SynthConfig(),
    RetryPolicy(),
]


def wrong_values(setting: Setting) -> list[str]:
    """Values outside of the setting's bounds and choices, as --set takes them."""
    wrong = ["no such choice"] if setting.choices else []
    if bounds := setting.bounds:
        wrong += ["nan", "inf", "-inf", str(bounds.least - 1)]
        wrong += [str(bounds.least)] if bounds.above else []
        wrong += [str(bounds.most + 1)] if bounds.most != math.inf else []
    return wrong


@pytest.mark.parametrize("config", CONFIGS, ids=lambda one: type(getattr(one, "model", one)).__name__)
def test_a_value_outside_of_its_settings_bounds_or_choices_is_refused_by_name(config: Any) -> None:
    for setting in declared(type(config), config=config):
        value = value_of(config, setting.path)
        length = max(len(value), 1) if isinstance(value, tuple) else 1
        for wrong in wrong_values(setting):
            with pytest.raises(ConfigError, match=rf"{setting.path.rpartition('.')[2]}\b.*(: must be|is not|; known:)"):
                override(config, [f"{setting.path}={','.join([wrong] * length)}"])


def test_a_field_declared_again_for_another_default_keeps_description_and_bounds() -> None:
    settings = {one.path: one for one in declared(SeparationConfig)}
    assert (settings["epochs"].default, settings["epochs"].bounds) == (300, Bounds(1))
    assert settings["epochs"].description == "Passes over the training data."
