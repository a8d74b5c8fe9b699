# NVIDIA's Triton server with VideoReward's environment. The reward model's repository (stage `package`) is mounted at /models.
#
# The server is of the very core that docker/locks/triton.txt carries and `make test-serving` runs, 2.51.0. Its Python backend
# is taken from there too: the server's own is built for its own Python, the models' is 3.11.
# checkov:skip=CKV_DOCKER_7: the tag is in the argument's default
ARG TRITON=nvcr.io/nvidia/tritonserver:24.10-py3

FROM ${TRITON} AS environment
# UV_PYTHON_INSTALL_MIRROR is where Python 3.11 comes
# from, if the server's image has none and its usual place is out of reach.
ARG UV_PYTHON_INSTALL_MIRROR
ARG TORCH=cu126
ENV SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt PIP_CERT=/etc/ssl/certs/ca-certificates.crt UV_LINK_MODE=copy \
    UV_PYTHON_INSTALL_DIR=/opt/python
COPY docker/locks/uv.txt docker/locks/ml.txt docker/locks/triton.txt docker/locks/torch-cpu.txt /locks/
RUN --mount=type=secret,id=ca,target=/etc/ssl/certs/ca-certificates.crt \
    --mount=type=secret,id=pip,target=/etc/pip.conf \
    --mount=type=secret,id=uv,target=/etc/uv/uv.toml --mount=type=cache,target=/root/.cache/uv \
    python3 -m pip install --no-cache-dir --require-hashes --target /opt/uv -r /locks/uv.txt \
    && mkdir -p /opt/python \
    && /opt/uv/bin/uv venv --python 3.11 /opt/venv \
    && /opt/uv/bin/uv pip install --no-deps --require-hashes --python /opt/venv/bin/python --target /opt/pytriton -r /locks/triton.txt \
    && mkdir /opt/backend \
    && cp -r /opt/pytriton/pytriton/tritonserver/backends/python /opt/backend/ \
    && cp /opt/pytriton/pytriton/tritonserver/python_backend_stubs/3.11/triton_python_backend_stub /opt/backend/python/
RUN --mount=type=secret,id=ca,target=/etc/ssl/certs/ca-certificates.crt \
    --mount=type=secret,id=uv,target=/etc/uv/uv.toml --mount=type=cache,target=/root/.cache/uv \
    if [ "${TORCH}" = cpu ]; then set -- -r /locks/torch-cpu.txt; else set -- torch==2.13.0; fi \
    && /opt/uv/bin/uv pip install --python /opt/venv/bin/python --compile-bytecode ${TORCH:+--torch-backend ${TORCH}} \
    -r /locks/ml.txt "$@"
# The backend ignores PYTHONPATH and looks for libpython where the loader does: both have to lie in the environment itself.
COPY . /opt/source
RUN /opt/uv/bin/uv pip install --python /opt/venv/bin/python --no-deps --no-build-isolation /opt/source \
    && cp -P "$(/opt/venv/bin/python -c 'import sysconfig; print(sysconfig.get_config_var("LIBDIR"))')"/libpython3.11.so* /opt/venv/lib/

FROM ${TRITON}
COPY --from=environment /opt/python /opt/python
COPY --from=environment /opt/venv /opt/venv
COPY --from=environment /opt/backend/python /opt/tritonserver/backends/python
ENV PATH=/opt/venv/bin:/opt/tritonserver/bin:${PATH} LD_LIBRARY_PATH=/opt/venv/lib:${LD_LIBRARY_PATH} \
    HOME=/tmp PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
# A volume that is mounted here (REELIGN_SERVED_LOG) becomes that user's.
RUN mkdir /served && chown 10001:10001 /served
ARG COMMIT
LABEL org.opencontainers.image.title="Reelign Triton" \
      org.opencontainers.image.description="Triton Inference Server with VideoReward's environment" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.revision="${COMMIT}"
USER 10001:10001
WORKDIR /tmp
EXPOSE 8000 8001 8002
# The server calls itself ready with no model at all.
HEALTHCHECK --interval=10s --timeout=5s --start-period=120s --retries=3 \
    CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8000/v2/models/video_reward/ready', timeout=4)"]
# Management is for who has the key (components/serving/access.py): without one in the environment the server does not start.
CMD ["sh", "-c", "exec tritonserver --model-repository=\"${MODEL_REPOSITORY:-/models}\" --model-control-mode=explicit \
     --load-model=video_reward --load-model=video_reward_file --disable-auto-complete-config \
     --metrics-config=summary_latencies=true --exit-timeout-secs=30 --http-header-forward-pattern='(?i)origin' \
     --http-restricted-api=\"model-repository,shared-memory,trace,logging:reelign-key=${REELIGN_TRITON_KEY:?}\" \
     --grpc-restricted-protocol=\"model-repository,shared-memory,trace,logging:reelign-key=${REELIGN_TRITON_KEY:?}\""]
