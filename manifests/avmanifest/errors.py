"""Every error avkit raises on purpose.

AvkitError
    ConfigError        an option, a recipe or a preset that cannot be used: exit code 2
    ManifestError      a list, plan or manifest that does not say what it must
    ShardError         a shard that is not what its marker promises: exit code 4
    StorageError       the output cannot be written now (disk full, read-only): exit code 3
    MediaError         one clip that cannot become a sample; carries the clip's status
        DownloadError
        DecodeError

A message says what, where, the value, and what to do.
"""


class AvkitError(Exception):
    """Something avkit can name. Its message is written for the person at the terminal."""


class ConfigError(AvkitError):
    """An option, a recipe or a preset that cannot be used as it is."""


class ManifestError(AvkitError):
    """A list, plan or manifest whose content is not what the contract says."""


class ShardError(AvkitError):
    """A shard that differs from what its marker promises."""


class StorageError(AvkitError):
    """The output cannot be written; what was committed stays, and the same command goes on later."""


class MediaError(AvkitError):
    """One clip that cannot become a sample.

    `status` is a name of `avmanifest.schema.STATUSES`; the message becomes the row's reason.
    """

    def __init__(self, status: str, message: str) -> None:
        super().__init__(status, message)
        self.status = status
        self.message = message

    def __str__(self) -> str:
        return self.message


class DownloadError(MediaError):
    """The clip's media could not be had. `retry_after_s`: for how long the server asks to be left alone, or 0."""

    def __init__(self, status: str, message: str, *, retry_after_s: float = 0.0) -> None:
        super().__init__(status, message)
        self.retry_after_s = retry_after_s


class DecodeError(MediaError):
    """The clip's media is there and cannot be read."""
