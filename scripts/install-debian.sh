#!/bin/sh
# What tests need and pip has not: a real browser for the dashboard's, bubblewrap for the graders' sandbox, docker compose
# to read compose.yaml.
# Installs Debian's packages where this user may, says so where not.
set -eu

missing=""
for name in chromium chromium-browser google-chrome none; do
    if [ "$name" = none ]; then
        missing="chromium fonts-dejavu-core"
    elif command -v "$name" >/dev/null 2>&1; then
        break
    fi
done
command -v bwrap >/dev/null 2>&1 || missing="$missing bubblewrap libseccomp2"
docker compose version >/dev/null 2>&1 || command -v docker-compose >/dev/null 2>&1 || missing="$missing docker-compose"
[ -n "$missing" ] || exit 0

if [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null 2>&1; then
    echo "Installing $missing ..."
    export DEBIAN_FRONTEND=noninteractive
    # shellcheck disable=SC2086  # several packages
    if apt-get update -qq && apt-get install -y -qq --no-install-recommends $missing >/dev/null; then
        exit 0
    fi
fi

echo "Not here, and it could not be installed: $missing. Install it by hand (Debian: apt-get install $missing)," >&2
echo "or the tests of the dashboard, of Python graders and of compose.yaml will fail." >&2
