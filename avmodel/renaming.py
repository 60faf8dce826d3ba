"""Tables that rename the weights of one model to those of another."""

import re
from collections.abc import Mapping
from typing import TypeAlias

from torch import Tensor

# Rows of a pattern, which must match a whole name, and the new name or names of that weight.
Rules: TypeAlias = tuple[tuple[str, str | tuple[str, ...]], ...]


def renamed(weights: Mapping[str, Tensor], rules: Rules) -> dict[str, Tensor]:
    """The weights, renamed by the first row that matches; weights without a matching row are left out."""
    found: dict[str, Tensor] = {}
    for name, tensor in weights.items():
        for pattern, ours in rules:
            if match := re.fullmatch(pattern, name):
                found |= {match.expand(one): tensor for one in ((ours,) if isinstance(ours, str) else ours)}
                break
    return found


def substituted(weights: Mapping[str, Tensor], rules: tuple[tuple[str, str], ...]) -> dict[str, Tensor]:
    """The weights, with every row applied in turn to any part of their names."""
    found = {}
    for name, tensor in weights.items():
        ours = name
        for pattern, replacement in rules:
            ours = re.sub(pattern, replacement, ours)
        found[ours] = tensor
    return found
