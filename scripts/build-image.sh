#!/bin/sh
# Builds the image `tunery` (or $IMAGE) with docker or podman, whichever is here (or $BUILDER). What is given goes on to its
# `build`:
#   scripts/build-image.sh --build-arg BASE=registry.example.com/debian:12 --build-arg TORCH_INDEX=
set -eu
cd "$(dirname "$0")/.."

if [ -z "${BUILDER:-}" ]; then
    if command -v docker >/dev/null 2>&1 && docker info >/dev/null 2>&1; then
        BUILDER=docker
    elif command -v podman >/dev/null 2>&1; then
        BUILDER=podman
    else
        echo "Neither a Docker that runs nor podman is here. Install one (Debian: apt-get install podman)." >&2
        exit 1
    fi
fi
case $BUILDER in
*podman*) set -- --format docker "$@" ;; # podman's own form of an image has no HEALTHCHECK
esac
# shellcheck disable=SC2086  # it may have options of its own
exec $BUILDER build --tag "${IMAGE:-tunery}" "$@" .
