#!/bin/sh
# Builds the image on a Debian of its own and runs compose.yaml's services from it, read-only and without rights, as root.
# Everything stays in .cache/image. `make image` calls this; it takes some minutes and 8 GB the first time.
set -eu
cd "$(dirname "$0")/.."
cache=$PWD/.cache/image
mkdir -p "$cache"

for name in podman buildah debootstrap runc; do
    command -v "$name" >/dev/null 2>&1 || missing="${missing:-} $name"
done
if [ -n "${missing:-}" ]; then
    echo "Installing$missing ..."
    # shellcheck disable=SC2086  # several packages
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing >/dev/null
fi

# Where the kernel lets nobody lay file systems over each other (vfs), each layer is a copy of the whole.
podman="podman --root $cache/store --cgroup-manager=cgroupfs"
STORAGE_DRIVER=${STORAGE_DRIVER:-overlay}
export STORAGE_DRIVER

if ! $podman image exists localhost/tunery-base; then
    rm -rf "$cache/base"
    debootstrap --variant=minbase bookworm "$cache/base" >"$cache/debootstrap.log"
    tar -C "$cache/base" -c . | $podman import --quiet - localhost/tunery-base
    rm -rf "$cache/base"
fi

# The build gets packages from where pip gets them here, folders of this machine included.
pip=.venv/bin/pip
echo "[global]" >"$cache/pip.conf"
set -- "--volume=$cache/pip.conf:/etc/pip.conf:ro"
for key in index-url extra-index-url find-links; do
    value=$($pip config get "global.$key" 2>/dev/null) || continue
    echo "$key = $value" >>"$cache/pip.conf"
    for place in $value; do
        case $place in
        file:///*) place=${place#file://} && place=${place%/simple} && set -- "$@" "--volume=$place:$place:ro" ;;
        /*) set -- "$@" "--volume=$place:$place:ro" ;;
        esac
    done
done
if cert=$($pip config get global.cert 2>/dev/null); then
    cp "$cert" "$cache/ca.crt"
    echo "cert = /run/ca.crt" >>"$cache/pip.conf"
    set -- "$@" "--volume=$cache/ca.crt:/run/ca.crt:ro"
fi

IMAGE=localhost/tunery BUILDER="$podman" scripts/build-image.sh --pull=never --isolation chroot \
    --build-arg BASE=localhost/tunery-base --build-arg TORCH_INDEX= "$@"

TUNERY_TEST_IMAGE=localhost/tunery TUNERY_TEST_PODMAN="$podman --runtime $(command -v runc)" \
    .venv/bin/python -m pytest tests/containers/test_services.py
