#!/bin/bash
# A dataset made on a Ray cluster, a task for each shard. RAY_ADDRESS names the cluster; without it, the one of which this machine is part.
# All nodes see --source and --out at the same path, or --out is a bucket. A node that fails loses no clip.
set -euo pipefail

RECIPE=${RECIPE:-vggsound}
SOURCE=${SOURCE:-local:data/vggsound-videos}
OUT=${OUT:-data/vggsound}

avkit prepare "$RECIPE" --source "$SOURCE" --out "$OUT" --executor ray
