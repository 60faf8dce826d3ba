"""What goes to stderr, whoever writes it: usage errors, tracebacks and logs show URLs without their secrets."""

from typing import Any, TextIO

from avmanifest.secrets import without_secrets


class ShownStderr:
    """A text stream that writes to another one, each text as `without_secrets` shows it."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write the text; the number of its characters, as if all were written."""
        self._stream.write(without_secrets(text) if isinstance(text, str) else text)
        return len(text)

    def writelines(self, lines: Any) -> None:
        """Write the texts one after the other."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
