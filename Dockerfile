# One image for every process: `tunery serve` with all of them in it, or api, worker and engine each in its own (compose.yaml).
# scripts/build-image.sh builds it with docker or podman. BASE is any Debian that has Python 3.11 or newer.
ARG BASE=docker.io/library/debian:bookworm-slim

FROM ${BASE} AS build
RUN apt-get update -q && apt-get install -qy --no-install-recommends python3 python3-venv ca-certificates
RUN python3 -m venv /opt/tunery
WORKDIR /source
COPY pyproject.toml constraints.txt ./
# torch goes first and alone, as in the Makefile: the other packages then take the build that is there. Empty, TORCH_INDEX
# gives PyPI's own, which bring CUDA with them.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
RUN /opt/tunery/bin/pip install --no-cache-dir --constraint constraints.txt \
    ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} torch==2.13.0
# What Tunery stands on, before Tunery itself: a change of the code alone is built in seconds.
RUN /opt/tunery/bin/python -c "import tomllib; project = tomllib.load(open('pyproject.toml', 'rb'))['project']; \
print(*project['dependencies'], *project['optional-dependencies']['postgres'], sep='\n')" > requirements.txt \
    && /opt/tunery/bin/pip install --no-cache-dir --constraint constraints.txt --requirement requirements.txt
COPY LICENSE README.md ./
COPY examples examples
COPY src src
RUN /opt/tunery/bin/pip install --no-cache-dir --no-deps .

FROM ${BASE}
# bubblewrap and libseccomp shut the graders' Python in; where the container may make no namespaces, it is refused.
RUN apt-get update -q && apt-get install -qy --no-install-recommends python3 ca-certificates bubblewrap libseccomp2 \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 10001 --home-dir /var/lib/tunery --create-home --shell /usr/sbin/nologin tunery
COPY --from=build /opt/tunery /opt/tunery
# The only folder that is written, beside /tmp: all else may be read-only. What is kept below `home` is its user's alone.
ENV PATH=/opt/tunery/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    TUNERY_HOME=/var/lib/tunery/home \
    TUNERY_HOST=0.0.0.0 \
    NUMBA_CACHE_DIR=/var/lib/tunery/compiled
VOLUME /var/lib/tunery
WORKDIR /var/lib/tunery
USER 10001
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=5s --start-period=15m --retries=3 \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/health/live', timeout=4)"]
CMD ["tunery", "serve", "--logs"]
