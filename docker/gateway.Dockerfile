# The gateway: no torch, no SGLang, not root. Build from the repository's root:
#   docker build -f docker/gateway.Dockerfile -t serval-gateway:0.1.0 .
# Pin the base by digest in production: --build-arg BASE=docker.io/library/python@sha256:...
ARG BASE=docker.io/library/python:3.11-slim-bookworm
# Base of the build stage; needs venv and pip besides Python.
ARG BUILD_BASE=${BASE}

FROM ${BUILD_BASE} AS build
WORKDIR /src
COPY pyproject.toml requirements.lock README.md LICENSE ./
COPY docker/subset_of_lock.py docker/
# binutils for `strip`. Debugging symbols and hf-xet, whose downloads a gateway never makes, are a tenth of the image.
# hadolint ignore=DL3008
RUN command -v strip || { apt-get update && apt-get install --yes --no-install-recommends binutils; }
# Packages of the gateway and its extras, with the versions and hashes of the lock.
RUN python3 -m venv /build \
    && python3 docker/subset_of_lock.py requirements.lock uv > uv.lock \
    && /build/bin/python -m pip install --quiet --no-deps --require-hashes -r uv.lock \
    && /build/bin/uv pip compile pyproject.toml --extra oidc --extra otel --extra postgres --extra redis \
        --constraint requirements.lock --no-annotate --no-header \
        --quiet --output-file gateway.txt \
    && sed -i '/^hf-xet==/d' gateway.txt \
    && echo hatchling > hatchling.in \
    && /build/bin/uv pip compile hatchling.in --constraint requirements.lock --no-annotate --no-header \
        --quiet --output-file hatchling.txt \
    && python3 docker/subset_of_lock.py requirements.lock --names gateway.txt > gateway.lock \
    && python3 docker/subset_of_lock.py requirements.lock --names hatchling.txt > hatchling.lock \
    && python3 -m venv --without-pip /opt/serval \
    && /build/bin/uv pip install --quiet --no-deps --require-hashes --compile-bytecode \
        --python /opt/serval/bin/python -r gateway.lock \
    && find /opt/serval -name '*.cpython-*.so' -exec strip --strip-debug {} + \
    && /build/bin/uv pip install --quiet --no-deps --require-hashes --python /build/bin/python -r hatchling.lock
COPY server server
COPY model_adapter model_adapter
COPY kernels kernels
# Tokenizer and template of the demo model; its weights are in the engine's image.
RUN /build/bin/python -m hatchling build -t wheel -d /wheels \
    && /build/bin/uv pip install --quiet --no-deps --compile-bytecode --python /opt/serval/bin/python /wheels/*.whl \
    && demo=$(/opt/serval/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/serval_sglang/demo/checkpoint \
    && rm "$demo"/*.safetensors* && ln -s "$demo" /opt/serval/demo-model

FROM ${BASE}
LABEL org.opencontainers.image.title="serval-gateway" org.opencontainers.image.licenses="MIT"
RUN groupadd --gid 10001 serval && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /tmp serval
COPY --from=build /opt/serval /opt/serval
ENV PATH=/opt/serval/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 SERVAL_HOST=0.0.0.0
USER 10001:10001
EXPOSE 8000
# Liveness only; /readyz also checks the engine.
HEALTHCHECK --interval=10s --timeout=5s --start-period=30m --retries=3 \
    CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8000/healthz', timeout=4)"]
ENTRYPOINT ["serval"]
CMD ["gateway"]
