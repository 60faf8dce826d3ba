#!/bin/bash
# Make a dataset of this folder by running the code of its version: tests/formats/make.sh NAME COMMIT
# Run it from the repository's root, with the environment of `make setup`. See README.md beside this file.
set -euo pipefail
name=$1 commit=$2
work=$(mktemp -d)
git worktree add --quiet --detach "$work/code" "$commit"
trap 'git worktree remove --force "$work/code"; rm -rf "$work"' EXIT
cp -r tests/formats/videos "$work/videos"
export PYTHONPATH="$work/code:$work/code/cli:$work/code/manifests" SOURCE_DATE_EPOCH=0
(
    cd "$work"
    python -m avcli.main prepare folder --source local:videos --out "$name" --clip-seconds 3 --frames 2 --short-side 32 \
        --shard-size 2 --workers 1
    tar --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner --exclude=_tmp --exclude=_media -cJf "$name.tar.xz" "$name"
)
mv "$work/$name.tar.xz" "tests/formats/$name.tar.xz"
