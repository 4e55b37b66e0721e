# The base is the interpreter the tests run on; its digest names one multi-platform index.
# To take a newer base: --build-arg PYTHON_IMAGE=python:3.11.N-slim-bookworm@sha256:...
ARG PYTHON_IMAGE=python:3.11.13-slim-bookworm@sha256:86adf8dbadc3d6e82ee5dd2c74bec2e1c2467cdad47886280501df722372d2e1

FROM ${PYTHON_IMAGE} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_NO_INPUT=1
WORKDIR /src
# Requirements first: a change of the source does not install them again.
COPY requirements/build.txt requirements/server.txt requirements/
RUN pip install --require-hashes -r requirements/build.txt \
    && python -m venv --without-pip /opt/authz-sidecar \
    && pip --python /opt/authz-sidecar/bin/python install --require-hashes --only-binary :all: -r requirements/server.txt
COPY pyproject.toml README.md LICENSE ./
COPY authz_sidecar authz_sidecar
COPY policies policies
RUN pip wheel --no-deps --no-build-isolation --wheel-dir /dist . \
    && pip --python /opt/authz-sidecar/bin/python install --no-deps --no-index /dist/*.whl

FROM ${PYTHON_IMAGE}
LABEL org.opencontainers.image.title="authz-sidecar" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /opt/authz-sidecar /opt/authz-sidecar
# Nothing is written outside the mounted volumes: the root file system can be read-only.
ENV PATH=/opt/authz-sidecar/bin:$PATH PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 \
    AUTHZ_SIDECAR_CONFIG=/etc/authz-sidecar/config.yaml
# Numeric, so that the platform can check that it is not root.
USER 65532:65532
WORKDIR /
EXPOSE 9180
HEALTHCHECK --interval=10s --timeout=3s --start-period=15s --retries=3 CMD ["authz-sidecar", "healthcheck"]
ENTRYPOINT ["authz-sidecar"]
CMD ["serve"]
