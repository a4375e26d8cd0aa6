# The verifier: a target model. Build it in the root of the repository:
#   docker build -f docker/verifier.Dockerfile -t minedraft/verifier .
# docs/docker.md explains the arguments. The drafter's and the verifier's files differ below "FROM" number two only, so that
# the two images share their large layers.

# Anything with Python 3.11 or later, venv and pip, on glibc.
ARG BASE_IMAGE=python:3.11-slim
# Where packages are installed, by default the base image. To compile flash-attn: the same Python at the same path, and a
# CUDA toolkit.
ARG BUILD_IMAGE=

FROM ${BUILD_IMAGE:-${BASE_IMAGE}} AS build
ARG TORCH_REQUIREMENT=torch==2.13.0
# engine, or gpu: flash-attn, nccl4py and cuda-bindings as well.
ARG EXTRA=engine
# Where pip looks, unless the base image's pip.conf says it.
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python3 -m venv /opt/minedraft
# For the CPU kernels, which are compiled in this stage only. A build image that has a compiler needs nothing here.
RUN command -v c++ > /dev/null \
 || (apt-get update && apt-get install --yes --no-install-recommends g++ && rm -rf /var/lib/apt/lists/*)
WORKDIR /src
# What changes least comes first: torch, the other packages, this project.
RUN /opt/minedraft/bin/python -m pip install "${TORCH_REQUIREMENT}"
COPY pyproject.toml LICENSE ./
COPY minedraft/__init__.py minedraft/
# flash-attn is built against the torch that is there, hence no isolation. Headers and tests of packages go: nothing here
# compiles against them or runs them.
RUN touch README.md \
 && if [ "${EXTRA}" = gpu ]; then \
      /opt/minedraft/bin/python -m pip install "setuptools>=77" wheel packaging ninja psutil \
      && isolation=--no-build-isolation; \
    fi \
 && /opt/minedraft/bin/python -m pip install ${isolation:-} ".[${EXTRA}]" "${TORCH_REQUIREMENT}" \
 && rm -rf /opt/minedraft/lib/python3*/site-packages/torch/include /opt/minedraft/lib/python3*/site-packages/torch/test \
 && find /opt/minedraft/lib/python3*/site-packages/torch/bin -type f \( -name 'test_*' -o -name '*Test' -o -name 'protoc*' \) -delete \
 && find /opt/minedraft/lib -type d -name tests -prune -exec rm -rf {} +
COPY README.md ./
COPY minedraft minedraft
COPY coordinator coordinator
COPY drafter_service drafter_service
COPY verifier_service verifier_service
RUN /opt/minedraft/bin/python -m pip install --no-deps --force-reinstall .

FROM ${BASE_IMAGE}
# The folders are there so that new volumes get the user as their owner.
RUN groupadd --gid 10001 minedraft \
 && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin minedraft \
 && install --directory --owner=10001 --group=10001 /models /run/minedraft
COPY --from=build /opt/minedraft /opt/minedraft
# The root file system may be read-only: bytecode is there already, nothing is fetched, and what libraries write goes to /tmp.
ENV PATH=/opt/minedraft/bin:${PATH} PYTHONSAFEPATH=1 PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 PIP_NO_CACHE_DIR=1 HOME=/tmp \
    HF_HUB_OFFLINE=1 TRANSFORMERS_OFFLINE=1 HF_HUB_DISABLE_TELEMETRY=1 GOMP_SPINCOUNT=10000
WORKDIR /
USER 10001:10001
STOPSIGNAL SIGTERM
ARG VERSION=dev
ARG REVISION=unknown
LABEL org.opencontainers.image.title="minedraft-verifier" \
      org.opencontainers.image.description="Speculative decoding: the target model, which verifies drafts" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
# Loopback, as everywhere, until it is told otherwise; the health check follows this variable.
ENV MINEDRAFT_LISTEN=127.0.0.1:50052
EXPOSE 50052
HEALTHCHECK --interval=10s --timeout=10s --start-period=300s --retries=3 CMD ["python3", "-m", "minedraft.health"]
ENTRYPOINT ["python3", "-m", "verifier_service"]
