# Airflow with the DAGs of one commit. The default command is the API server; scheduler, dag-processor and triggerer are
# commands of the same image (`airflow scheduler`, ...), with health checks of their own where they are started.
# checkov:skip=CKV_DOCKER_7: the tag is in the argument's default
ARG BASE=python:3.11-slim-bookworm

FROM ${BASE} AS environment
ENV SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt PIP_CERT=/etc/ssl/certs/ca-certificates.crt UV_LINK_MODE=copy
COPY docker/locks/uv.txt docker/locks/orchestrator.txt /locks/
RUN --mount=type=secret,id=ca,target=/etc/ssl/certs/ca-certificates.crt \
    --mount=type=secret,id=pip,target=/etc/pip.conf \
    --mount=type=secret,id=uv,target=/etc/uv/uv.toml --mount=type=cache,target=/root/.cache/uv \
    python3 -m venv /opt/uv \
    && /opt/uv/bin/pip install --no-cache-dir --require-hashes -r /locks/uv.txt \
    && /opt/uv/bin/uv venv --python python3 /opt/venv \
    && /opt/uv/bin/uv pip install --python /opt/venv/bin/python --compile-bytecode -r /locks/orchestrator.txt

FROM ${BASE}
# Debian keeps only the newest of a release's versions: a pinned one stops building.
# hadolint ignore=DL3008
RUN --mount=type=secret,id=ca,target=/etc/ssl/certs/ca-certificates.crt \
    apt-get update \
    && apt-get install --yes --no-install-recommends tini \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt /var/log/apt /var/log/dpkg.log \
    && useradd --uid 10001 --no-create-home --home-dir /opt/airflow reelign \
    && install --directory --owner reelign --group reelign /opt/airflow
COPY --from=environment /opt/venv /opt/venv
# The DAGs read dvc.yaml and params.yaml beside them; of components they import what needs no more than this environment.
COPY dvc.yaml params.yaml /opt/reelign/
COPY components /opt/reelign/components
COPY dags /opt/reelign/dags
ENV PATH=/opt/venv/bin:${PATH} PYTHONPATH=/opt/reelign PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 \
    AIRFLOW_HOME=/opt/airflow AIRFLOW__CORE__DAGS_FOLDER=/opt/reelign/dags AIRFLOW__CORE__LOAD_EXAMPLES=false
ARG COMMIT
# Here is no git, and tasks run in the pipeline's image of the same commit.
ENV REELIGN_COMMIT_OF_IMAGE=${COMMIT}
LABEL org.opencontainers.image.title="Reelign Airflow" \
      org.opencontainers.image.description="Airflow with Reelign's DAGs" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.revision="${COMMIT}"
USER 10001:10001
WORKDIR /opt/airflow
EXPOSE 8080
HEALTHCHECK --interval=15s --timeout=5s --start-period=60s --retries=4 \
    CMD ["python", "-c", "import os, urllib.request as r; r.urlopen('http://127.0.0.1:' + os.environ.get('AIRFLOW__API__PORT', '8080') + '/api/v2/monitor/health', timeout=4)"]
ENTRYPOINT ["/usr/bin/tini", "-g", "--"]
CMD ["airflow", "api-server"]
