#!/usr/bin/env bash
# The whole road in a few minutes on two cores: draw videos, prepare shards, look at them, pretrain, evaluate.
set -euo pipefail
cd "$(dirname "$0")"

say() { printf '\n\033[1m$ %s\033[0m\n' "$*"; "$@"; }

say avkit prepare synth --num-clips 240 --out demo/synth --shard-size 64
say avkit inspect demo/synth
say avkit pretrain demo --data demo/synth --out demo/run
say avkit evaluate linear-probe demo/run --data demo/synth --set batch_size=64 --set train_views=1
