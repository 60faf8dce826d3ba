"""Licences as the Hugging Face hub names them."""

from typing import Final

_IDENTIFIERS: Final = (
    "apache-2.0", "mit", "cc0-1.0", "cc-by-2.0", "cc-by-3.0", "cc-by-4.0", "cc-by-sa-3.0", "cc-by-sa-4.0",
    "cc-by-nc-2.0", "cc-by-nc-3.0", "cc-by-nc-4.0", "cc-by-nc-sa-4.0", "cc-by-nd-4.0", "cc-by-nc-nd-4.0", "odc-by",
    "odbl", "pddl", "bsd-2-clause", "bsd-3-clause", "gpl-3.0", "agpl-3.0", "mpl-2.0", "openrail",
)  # fmt: skip


def hub_license(text: str) -> dict[str, str]:
    """The fields of a card for a licence: an identifier of the hub, `unknown`, or `other` with the text."""
    identifier = text.lower()
    if identifier in _IDENTIFIERS:
        return {"license": identifier}
    if not identifier or identifier.startswith("not stated"):
        return {"license": "unknown"}
    return {"license": "other", "license_name": text}
