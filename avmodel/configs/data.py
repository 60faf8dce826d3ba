"""What a run reads of a dataset, and how pictures and sound vary at reading."""

from dataclasses import dataclass
from typing import Annotated, Protocol, runtime_checkable

from avdata.fits import FITS
from avdata.profiles import PROFILES
from avmanifest.settings import POSITIVE, SHARE, Bounds, check

# Settings that evaluations have, too.
Exclude = Annotated[tuple[str, ...], "Leave out samples with these flags, such as silent."]
NumWorkers = Annotated[int | None, "Decoding threads of each process. none: one a core.", Bounds(0)]
CacheDir = Annotated[str | None, "Folder where remote shards are kept. none: the user's cache folder."]
CacheGb = Annotated[float | None, "GB of remote shards to keep, at most. none: 200.", POSITIVE]
Offline = Annotated[bool, "Ask no server: use the remote shards in the cache as they are."]


@runtime_checkable
class CacheSettings(Protocol):
    """What the data settings of trainings and of evaluations both say of remote shards."""

    @property
    def cache_dir(self) -> str | None: ...
    @property
    def cache_gb(self) -> float | None: ...
    @property
    def offline(self) -> bool: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class DataConfig:
    """What is read, and how it is varied. Defaults: the released recipe on the `paper` spectrograms."""

    mix: Annotated[
        tuple[str, ...],
        "In place of --data: datasets, each with how much of it is in an epoch: a share (PATH=0.7), repeats (PATH=2x) "
        "or a number of samples (PATH=5000/epoch). At --resume paths may change, amounts not.",
    ] = ()
    epoch_samples: Annotated[
        int | None, "Samples of an epoch, to which shares refer. none: as many as all data have.", Bounds(1)
    ] = None
    split: Annotated[
        str,
        "Split of a prepared dataset's folder to train on; or several with commas between them, or an alias of the "
        "recipe, such as AS-2M.",
    ] = "train"
    probe_split: Annotated[
        str | None, "Split, or splits, in which the probe's neighbors are looked for. none: no probe."
    ] = "val"
    profile: Annotated[str, "Profile of the spectrograms.", tuple(PROFILES)] = "paper"
    window_s: Annotated[
        float | None,
        "Seconds of a clip that are heard. none: the whole clip, with a profile of fixed length such as kaldi; such a "
        "profile has windows with around_frame alone.",
        POSITIVE,
    ] = 3.0
    around_frame: Annotated[
        bool,
        "Choose a random frame of the clip first, and hear the window around its time, as far as the clip allows. "
        "false: choose the window first, then a frame in it. Evaluations of the run do the same.",
    ] = False
    fit: Annotated[
        str,
        "How a frame becomes square. crop: a random crop, and in evaluations a center one; short-side-crop: the center "
        "square of the short side; squash: the whole frame. Evaluations of the run take the same.",
        FITS,
    ] = "crop"
    min_area: Annotated[
        float, "With fit=crop: share of the frame that a random crop takes, at least.", Bounds(0, 1, above=True)
    ] = 0.5
    flip_probability: Annotated[float, "Probability of a left-right flip.", SHARE] = 0.5
    max_gain_db: Annotated[float, "dB by which loudness varies, at most, either way; 0: not at all.", Bounds(0)] = 6.0
    exclude: Exclude = ()
    where: Annotated[
        str | None,
        "Train on the clips for which this SQL condition on columns of the manifest is true. none: on all.",
    ] = None
    class_balanced: Annotated[
        bool, "Draw samples of rare classes more often, with the weights of CAV-MAE; of a mixture, in each dataset."
    ] = False
    skip_bad: Annotated[
        bool, "Go on at a damaged sample: log it, count it, train on another in its place. May change at --resume."
    ] = False
    max_bad_share: Annotated[
        float,
        "With skip_bad: share of an epoch's samples that may be damaged, after --resume of those that are left; with "
        "more the run stops. May change at --resume.",
        SHARE,
    ] = 0.05
    exclude_keys: Annotated[
        tuple[str, ...],
        "Train on others in the place of these samples: keys, or @FILE with a key a line. May change at --resume.",
    ] = ()
    num_workers: NumWorkers = None
    allow_pipe: Annotated[bool, "Run the commands of pipe: URLs."] = False
    cache_dir: CacheDir = None
    cache_gb: CacheGb = None
    offline: Offline = False

    def __post_init__(self) -> None:
        check(self, "data.")

    @property
    def unread_note(self) -> str | None:
        """A line on a setting that another one makes without effect; None: there is none."""
        if self.fit == "crop" or self.min_area == 1.0:
            return None
        return (
            f"data.min_area={self.min_area:g} has no effect with data.fit={self.fit}: it is of random crops (fit=crop)"
        )
