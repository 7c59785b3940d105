# The image of modelvigil: `docker build --tag modelvigil:1 .`; deploy/README.md says how it is run.
#
# To pin the base by its digest as well, which a tag alone does not do:
#   docker buildx imagetools inspect python:3.11.14-slim-bookworm        # prints it
#   docker build --build-arg PYTHON=python:3.11.14-slim-bookworm@sha256:... --tag modelvigil:1 .
ARG PYTHON=python:3.11.14-slim-bookworm

# ------------------------------------------------------------------------------------------------------------- build
FROM ${PYTHON} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_ROOT_USER_ACTION=ignore
WORKDIR /build

# No pip in the environment that is shipped: it is filled from outside.
RUN python -m venv --without-pip /opt/modelvigil/venv
COPY requirements-runtime.lock ./
RUN python -m pip --python /opt/modelvigil/venv/bin/python install --quiet \
      --require-hashes --only-binary :all: --requirement requirements-runtime.lock

COPY requirements-build.lock ./
RUN python -m venv tools \
 && tools/bin/python -m pip install --quiet --require-hashes --only-binary :all: --requirement requirements-build.lock
COPY pyproject.toml README.md LICENSE ./
COPY worker ./worker
RUN tools/bin/python -m hatchling build --target wheel --directory dist \
 && python -m pip --python /opt/modelvigil/venv/bin/python install --quiet --no-deps dist/*.whl

COPY deploy/container/modelvigil deploy/container/healthcheck.py /opt/modelvigil/bin/
# The kernels are compiled here, so that no start has to (a minute or more). numba keys what it compiled by CPU: the
# wrapper names a level that all x86-64 servers of the last ten years have, here and at each start.
RUN chmod 0755 /opt/modelvigil/bin/modelvigil && /opt/modelvigil/bin/modelvigil --compile-kernels

# --------------------------------------------------------------------------------------------------------------- run
FROM ${PYTHON}
ARG VERSION=unknown
ARG REVISION=unknown
LABEL org.opencontainers.image.title="modelvigil" \
      org.opencontainers.image.description="Watches machine-learning models in production, beside Kafka" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"

RUN groupadd --gid 10001 modelvigil \
 && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin modelvigil \
 && install --directory --owner 10001 --group 10001 --mode 0700 /var/cache/modelvigil /var/lib/modelvigil

# It belongs to root: the worker cannot change its own program.
COPY --from=build /opt/modelvigil /opt/modelvigil

# In a container loopback reaches nobody: what may reach the port is the network's business (deploy/kubernetes has a
# NetworkPolicy, docker-compose.yml publishes it on loopback only).
ENV PATH=/opt/modelvigil/bin:/opt/modelvigil/venv/bin:/usr/local/bin:/usr/bin:/bin \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    NUMBA_CACHE_DIR=/var/cache/modelvigil \
    MODELVIGIL_OPS_LISTEN=0.0.0.0 \
    MODELVIGIL_OPS_PORT=9464 \
    MODELVIGIL_NOTIFY_OPS_LISTEN=0.0.0.0 \
    MODELVIGIL_NOTIFY_OPS_PORT=9464 \
    MODELVIGIL_ELASTICSEARCH_OPS_LISTEN=0.0.0.0 \
    MODELVIGIL_ELASTICSEARCH_OPS_PORT=9464

# Not writable, so challengers are not kept, and the log says so, until MODELVIGIL_ARTEFACTS_URL names a bucket, or
# /var/lib/modelvigil with a volume there that all workers share.
WORKDIR /
USER 10001:10001
EXPOSE 9464

# Of `run` and `ship`. Other commands serve no page: run them with --no-healthcheck, as docker-compose.yml does.
HEALTHCHECK --interval=10s --timeout=5s --start-period=120s --retries=3 \
  CMD ["python", "/opt/modelvigil/bin/healthcheck.py", "/healthz"]

ENTRYPOINT ["modelvigil"]
CMD ["run"]
