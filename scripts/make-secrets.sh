#!/bin/sh
# Writes what compose.yaml takes from `.env`: passwords and keys, random and for this installation alone.
# The engine's key also goes into a file of its own, for Prometheus, which reads no environment.
set -eu
cd "$(dirname "$0")/.."

if [ -e .env ]; then
    echo ".env is there already and stays as it is: what was encrypted with its keys needs them." >&2
    exit 1
fi
random() { head -c 32 /dev/urandom | base64 | tr '+/' '-_'; } # 44 characters, as Fernet wants its keys
word() { random | tr -d '=-' | tr -d '_'; }

umask 077
engine_key=$(word)
cat >.env <<END
POSTGRES_PASSWORD=$(word)
S3_SECRET=$(word)
TUNERY_SECRETS_KEY=$(random)
TUNERY_ENGINE_API_KEY=$engine_key
TUNERY_API_KEY=sk-$(word)
END
printf %s "$engine_key" >deploy/engine.key
chmod 644 deploy/engine.key # Prometheus is another user in its container; who may read this folder may read the key
echo "Wrote .env and deploy/engine.key. The key of the API: $(sed -n 's/^TUNERY_API_KEY=//p' .env)"
