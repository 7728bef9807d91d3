# The engine: SGLang with Serval's plugin, installed by the same script as in CI. The image has 12 GB: CUDA's libraries and
# compiler come with the locked packages, the driver from the machine (NVIDIA container toolkit). Build from the
# repository's root:
#   docker build -f docker/engine.Dockerfile -t serval-engine:0.1.0 .
# Pin the base by digest in production: --build-arg BASE=docker.io/library/python@sha256:...
ARG BASE=docker.io/library/python:3.11-slim-bookworm

FROM ${BASE}
LABEL org.opencontainers.image.title="serval-engine" org.opencontainers.image.licenses="MIT"
# Triton compiles launchers in C, SGLang CUDA kernels with nvcc and a C++ compiler (nvcc and ninja are packages of the
# lock); the scheduler binds threads with libnuma; downloads take turns with flock.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ libc6-dev python3-dev libnuma1 util-linux \
    && rm -rf /var/lib/apt/lists/* \
    && groupadd --gid 10001 serval \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /var/cache/serval serval \
    && mkdir -p /var/cache/serval /opt/serval-kernels && chown 10001:10001 /var/cache/serval /opt/serval-kernels
WORKDIR /opt/serval
COPY . .
# The cache folder keeps the packages; uv's own cache inside it is needed only during installation.
ENV SERVAL_CACHE_DIR=/opt/serval-packages
RUN deploy/setup/setup.sh \
    && rm -rf /opt/serval-packages/uv \
    && ln -s model_adapter/serval_sglang/demo/checkpoint demo-model
# All compiled kernels are below HOME/.cache, so HOME is the volume.
ENV PATH=/opt/serval/.venv/bin:$PATH HOME=/var/cache/serval PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 \
    NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility SERVAL_PREBUILT_KERNELS=/opt/serval-kernels
USER 10001:10001
# Kernels for these compute capabilities ("8.0 9.0"; 9.0: Hopper) are compiled now, not when they are first used; empty:
# none. They are moved aside, because a volume hides this HOME: the launcher copies them into it.
ARG CUDA_ARCHITECTURES=9.0
# hadolint ignore=SC2086
RUN if [ -n "$CUDA_ARCHITECTURES" ]; then \
        compilers=$(python -m serval_sglang.cuda_toolkit) && eval "$compilers" \
        && python -m serval_sglang.cuda_extensions build --arch $CUDA_ARCHITECTURES --tp 1 2 4 8 \
        && cp -a "$HOME/.cache/sglang/." "$SERVAL_PREBUILT_KERNELS/" && rm -rf "$HOME/.cache"; \
    fi
EXPOSE 30000
HEALTHCHECK --interval=15s --timeout=5s --start-period=30m --retries=3 \
    CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:30000/ready', timeout=4)"]
ENTRYPOINT ["serval"]
CMD ["engine", "--model", "/opt/serval/demo-model", "--host", "0.0.0.0"]
