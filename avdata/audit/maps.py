"""Maps of features, as pages of clips show them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float64, Int


@dataclass(frozen=True, slots=True, kw_only=True)
class Maps:
    """Maps of features: a point for each of some clips, in each of several streams."""

    rows: Int[np.ndarray, " n"]  # places of the clips in the rows
    streams: Mapping[str, Float64[np.ndarray, "n 2"]]  # coordinates from 0 to 1
    said: str  # how the map was made

    def as_dict(self, labels: Sequence[str]) -> dict[str, Any]:
        """The maps as the page's script reads them, with a label for each point."""
        return {
            "rows": self.rows.tolist(),
            "labels": list(labels),
            "streams": [[name, np.round(places, 4).tolist()] for name, places in self.streams.items()],
            "said": self.said,
        }
