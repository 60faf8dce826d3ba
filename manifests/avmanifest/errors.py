"""The errors that avkit raises on purpose.

AvkitError
    ConfigError        an option, a recipe or a preset that cannot be used: exit code 2
    ManifestError      a list, plan or manifest with wrong content
    ShardError         a shard that differs from its marker: exit code 4
        DamagedMember  one member of one sample is damaged
    StorageError       the output cannot be written now (disk full, read-only): exit code 3
    MediaError         a clip that cannot become a sample; has the clip's status
        DownloadError
        DecodeError

A message says what is wrong, where, with which value, and what to do. URLs in it are shown without their secrets.
"""

from avmanifest.secrets import without_secrets


class AvkitError(Exception):
    """Base class of all errors of avkit. The message is written for the user of the command line, without secrets."""

    def __init__(self, *args: object) -> None:
        super().__init__(*(without_secrets(arg) if isinstance(arg, str) else arg for arg in args))


class ConfigError(AvkitError):
    """An option, a recipe or a preset that cannot be used as it is."""


class ManifestError(AvkitError):
    """A list, plan or manifest whose content does not follow its format."""


class ShardError(AvkitError):
    """A shard that differs from its marker in size or content."""


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


class MediaError(AvkitError):
    """A clip that cannot become a sample.

    Args:
        status: A name of `avmanifest.schema.STATUSES`.
        message: The reason; stored in the clip's manifest row.
    """

    def __init__(self, status: str, message: str) -> None:
        super().__init__(status, message)
        self.status = status
        self.message = without_secrets(message)

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
