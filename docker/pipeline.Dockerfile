# Every stage's environment and the project at one commit. `make images` builds it from a clean clone of HEAD, for CPUs or,
# with TORCH=cu130 or the like, for NVIDIA GPUs (torch brings CUDA itself; the driver is the machine's).
#
#   docker run --rm --read-only --tmpfs /tmp --mount type=volume,src=work,dst=/work IMAGE reelign run-stage pairs
#
# Everything that a stage writes lies below /work (REELIGN_WORK): its tree, the cache, MLflow's store. Some of it in /tmp.
# checkov:skip=CKV_DOCKER_7: the tag is in the argument's default
ARG BASE=python:3.11-slim-bookworm

FROM ${BASE} AS environment
# Where packages come from, if not from PyPI and torch's own index, is said by secrets (id=uv a uv.toml, id=pip a pip.conf),
# and so are certificates of one's own (id=ca): no layer has them, and another place rebuilds nothing.
ARG TORCH=cpu
ENV SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt PIP_CERT=/etc/ssl/certs/ca-certificates.crt UV_LINK_MODE=copy
COPY docker/locks/uv.txt docker/locks/ml.txt docker/locks/torch-cpu.txt /locks/
RUN --mount=type=secret,id=ca,target=/etc/ssl/certs/ca-certificates.crt \
    --mount=type=secret,id=pip,target=/etc/pip.conf \
    --mount=type=secret,id=uv,target=/etc/uv/uv.toml --mount=type=cache,target=/root/.cache/uv \
    python3 -m venv /opt/uv \
    && /opt/uv/bin/pip install --no-cache-dir --require-hashes -r /locks/uv.txt \
    && /opt/uv/bin/uv venv --python python3 /opt/venv
# torch is not in the lock: its build depends on the machine. The CPU build has its own lock. With TORCH empty, the index or UV_FIND_LINKS decides.
RUN --mount=type=secret,id=ca,target=/etc/ssl/certs/ca-certificates.crt \
    --mount=type=secret,id=uv,target=/etc/uv/uv.toml --mount=type=cache,target=/root/.cache/uv \
    if [ "${TORCH}" = cpu ]; then set -- -r /locks/torch-cpu.txt; else set -- torch==2.13.0; fi \
    && /opt/uv/bin/uv pip install --python /opt/venv/bin/python --compile-bytecode ${TORCH:+--torch-backend ${TORCH}} \
    -r /locks/ml.txt "$@"

FROM ${BASE}
# Debian keeps only the newest of a release's versions: a pinned one stops building.
# hadolint ignore=DL3008
RUN --mount=type=secret,id=ca,target=/etc/ssl/certs/ca-certificates.crt \
    apt-get update \
    && apt-get install --yes --no-install-recommends git tini \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt /var/log/apt /var/log/dpkg.log \
    && git config --system --add safe.directory '*' \
    && useradd --uid 10001 --no-create-home --home-dir /tmp reelign \
    && install --directory --owner reelign --group reelign /work \
    && printf '#!/bin/sh\nexec python -m components.cli.main "$@"\n' > /usr/local/bin/reelign \
    && chmod 755 /usr/local/bin/reelign
COPY --from=environment /opt/venv /opt/venv
# The checkout, git and all: run-stage clones it, and its files are what `reelign` runs.
COPY . /opt/reelign
ENV PATH=/opt/venv/bin:${PATH} PYTHONPATH=/opt/reelign PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 \
    HOME=/tmp DVC_SITE_CACHE_DIR=/tmp/dvc REELIGN_WORK=/work
ARG COMMIT
LABEL org.opencontainers.image.title="Reelign pipeline" \
      org.opencontainers.image.description="Stages of the Reelign pipeline" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.revision="${COMMIT}"
USER 10001:10001
WORKDIR /opt/reelign
# A stage is a job that ends, with an exit code; there is nothing to ask after.
HEALTHCHECK NONE
ENTRYPOINT ["/usr/bin/tini", "-g", "--"]
CMD ["reelign", "--help"]
