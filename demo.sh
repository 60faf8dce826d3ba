#!/usr/bin/env bash
# The whole road in a few minutes on two cores: draw videos, prepare shards, look at them, pretrain, evaluate.
set -euo pipefail
cd "$(dirname "$0")"

say() { printf '\n\033[1m$ %s\033[0m\n' "$*"; "$@"; }

say avkit prepare synth --num-clips 2400 --num-classes 24 --max-objects 1 --max-silent 0 --seconds 3 --set synth.fps=10 --width 128 --height 96 --frames 3 --short-side 96 --out demo/synth --shard-size 256
say avkit inspect demo/synth
say avkit pretrain demo --data demo/synth --out demo/run
say avkit evaluate linear-probe demo/run --data demo/synth --preset small --set data.test_split=val,test --set head_streams=fusion
say avkit inspect demo/run --html demo/run.html
