# The OpenAI-compatible HTTP door, without torch. Build it in the root of the repository:
#   docker build -f docker/http.Dockerfile -t minedraft/http .

# Anything with Python 3.11 or later, venv and pip, on glibc.
ARG BASE_IMAGE=python:3.11-slim

FROM ${BASE_IMAGE} AS build
# Where pip looks, unless the base image's pip.conf says it.
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
# Without a pip of its own: nothing is installed into what is served.
RUN python3 -m venv --without-pip /opt/minedraft
WORKDIR /src
# What changes least comes first: the packages, then this project.
COPY pyproject.toml LICENSE ./
COPY minedraft/__init__.py minedraft/
# Tests of packages go: nothing here runs them.
RUN touch README.md \
 && python3 -m pip --python /opt/minedraft/bin/python install ".[http]" \
 && find /opt/minedraft/lib -type d -name tests -prune -exec rm -rf {} +
COPY README.md ./
COPY minedraft minedraft
COPY coordinator coordinator
# The demo's draft model is for the model services.
RUN rm -rf minedraft/assets \
 && python3 -m pip --python /opt/minedraft/bin/python install --no-deps --force-reinstall .

FROM ${BASE_IMAGE}
RUN groupadd --gid 10001 minedraft \
 && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin minedraft
COPY --from=build /opt/minedraft /opt/minedraft
# The root file system may be read-only: bytecode is there already.
ENV PATH=/opt/minedraft/bin:${PATH} PYTHONSAFEPATH=1 PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 HOME=/tmp
WORKDIR /
USER 10001:10001
STOPSIGNAL SIGTERM
ARG VERSION=dev
ARG REVISION=unknown
LABEL org.opencontainers.image.title="minedraft-http" \
      org.opencontainers.image.description="Speculative decoding: the OpenAI-compatible HTTP door" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
# Loopback, as everywhere, until it is told otherwise; the health check follows this variable.
ENV MINEDRAFT_LISTEN=127.0.0.1:8000
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=10s --start-period=300s --retries=3 CMD ["python3", "-m", "minedraft.health", "--http"]
ENTRYPOINT ["python3", "-m", "minedraft.http"]
