# A node of a fleet: `policyctl serve` with the embedded Triton. docs/kubernetes.md says how it runs in a cluster.
#
#   make wheel
#   docker build --file containers/node.Dockerfile --tag policyctl-node:0.1.0 .
#
# The wheel brings the guard and the native OpenVINO backend, so nothing is compiled here.

ARG POLICYCTL_BASE=python:3.11.16-slim-bookworm@sha256:a36c24f9cbdf4fd0f52d67f0823eeac19c2028c637cecc392d97f980d4fec56b
# hadolint ignore=DL3006
FROM ${POLICYCTL_BASE} AS base

FROM base AS build
WORKDIR /build
COPY constraints.txt dist/policyctl-*.whl ./
RUN python -m venv --without-pip /opt/policyctl \
    && python -m pip --python /opt/policyctl/bin/python install --no-cache-dir --disable-pip-version-check \
        --only-binary :all: --constraint constraints.txt "$(echo ./policyctl-*.whl)[serve,sign,store]"

FROM base
LABEL org.opencontainers.image.title="policyctl-node" \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.licenses="Apache-2.0"
RUN useradd --uid 1000 --user-group --no-create-home --home-dir /tmp --shell /usr/sbin/nologin policyctl \
    && install --directory --owner 1000 --group 1000 --mode 0755 /models
COPY --from=build /opt/policyctl /opt/policyctl
ENV PATH=/opt/policyctl/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    POLICYCTL_REPOSITORY=/models/repository
USER 1000:1000
ENTRYPOINT ["policyctl"]
CMD ["serve"]
