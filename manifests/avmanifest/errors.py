"""The errors that avkit raises on purpose, and the exit codes of its commands.

AvkitError
    ConfigError        a path, an option, a recipe or a preset that cannot be used
        MissingSplit   a split that a dataset or recipe does not have
    ManifestError      a list, plan or manifest with wrong content
    ShardError         a shard that is damaged, or differs from its marker
        DamagedMember  one member of one sample is damaged
    StorageError       the output cannot be written now (disk full, read-only)
    CheckpointError    a checkpoint that is damaged
    DivergedError      a training whose loss is not finite
    MediaError         a clip that cannot become a sample; has the clip's status
        DownloadError
        DecodeError

A message says what is wrong, where, with which value, and what to do. URLs in it are shown without their secrets.
"""

from enum import IntEnum
from typing import ClassVar, Final

from avmanifest.secrets import without_secrets

_LONGEST: Final = 2000  # characters of a message; a value of a hostile file may have millions


class ExitCode(IntEnum):
    """How a command ended. Each error class names its own."""

    DONE = 0, "done"
    BUG = 1, "a bug in avkit: please report it"
    MISUSED = 2, "misused: a path, an option or a file is not what the command takes"
    INCOMPLETE = 3, "incomplete: the same command goes on (for pretrain with --resume)"
    DAMAGED = 4, "damage was found in a dataset"
    BROKEN_CHECKPOINT = 5, "a checkpoint is damaged"
    DIVERGED = 6, "a training diverged: its loss is not finite"

    meaning: str

    def __new__(cls, code: int, meaning: str) -> "ExitCode":
        """A code with its meaning, as --help shows it."""
        member = int.__new__(cls, code)
        member._value_ = code
        member.meaning = meaning
        return member


class AvkitError(Exception):
    """Base class of all errors of avkit. The message is written for the user of the command line, without secrets.

    A message that is too long to read keeps its beginning and its end.
    """

    exit_code: ClassVar[ExitCode] = ExitCode.BUG

    def __init__(self, *args: object) -> None:
        super().__init__(*(_shortened(without_secrets(arg)) if isinstance(arg, str) else arg for arg in args))


def _shortened(text: str) -> str:
    if len(text) <= _LONGEST:
        return text
    return f"{text[: _LONGEST * 3 // 4]} ... ({len(text):,} characters) ... {text[-_LONGEST // 5 :]}"


class ConfigError(AvkitError):
    """A path, an option, a recipe or a preset that cannot be used as it is."""

    exit_code = ExitCode.MISUSED


class MissingSplit(ConfigError):
    """A split that a dataset or a recipe does not have.

    Args:
        message: What is missing, and what there is.
        instead: Splits to name in its place; empty: none is known.
    """

    def __init__(self, message: str, instead: tuple[str, ...]) -> None:
        super().__init__(message)
        self.instead = instead

    def for_setting(self, name: str) -> ConfigError:
        """The error with the setting that names the split: `data.split`."""
        value = ",".join(self.instead) or "SPLIT"
        return ConfigError(f"{self} Give --set {name}={value}.")


class ManifestError(AvkitError):
    """A list, plan or manifest whose content does not follow its format."""

    exit_code = ExitCode.MISUSED


class ShardError(AvkitError):
    """A shard that is damaged, or differs from its marker in size or content."""

    exit_code = ExitCode.DAMAGED


class DamagedMember(ShardError):
    """One member of a sample is damaged. The other members and samples of its shard may be whole.

    Args:
        shard: Path or URL of the shard.
        key: Key of the sample.
        member: Name of the member, without the key.
        problem: What is wrong with it, with the values.
    """

    def __init__(self, shard: str, key: str, member: str, problem: str) -> None:
        super().__init__(f"{shard}: {key}.{member}: {problem}. Prepare or fetch the shard again.")
        self.shard = shard
        self.key = key
        self.member = member
        self.problem = problem


class StorageError(AvkitError):
    """The output cannot be written. Committed shards are kept, and the same command continues later."""

    exit_code = ExitCode.INCOMPLETE


class CheckpointError(AvkitError):
    """A checkpoint whose files are damaged, are missing, or do not belong together."""

    exit_code = ExitCode.BROKEN_CHECKPOINT


class DivergedError(AvkitError):
    """A training whose loss, gradients or weights are not finite numbers."""

    exit_code = ExitCode.DIVERGED


class MediaError(AvkitError):
    """A clip that cannot become a sample. Where a command is given one file, the file is not what it takes.

    Args:
        status: A name of `avmanifest.schema.STATUSES`.
        message: The reason; stored in the clip's manifest row.
    """

    exit_code = ExitCode.MISUSED

    def __init__(self, status: str, message: str) -> None:
        super().__init__(status, message)
        self.status = status
        self.message: str = self.args[1]

    def __str__(self) -> str:
        return self.message


class DownloadError(MediaError):
    """The clip's media could not be downloaded.

    Args:
        status: A name of `avmanifest.schema.STATUSES`.
        message: The reason; stored in the clip's manifest row.
        retry_after_s: Seconds to wait before the next request, as the server asked; 0 if it did not.
    """

    def __init__(self, status: str, message: str, *, retry_after_s: float = 0.0) -> None:
        super().__init__(status, message)
        self.retry_after_s = retry_after_s


class DecodeError(MediaError):
    """The clip's media file exists but cannot be decoded."""
