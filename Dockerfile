# The control plane: `policyctl serve --engine external`, `policyctl api`, and every other command.
# It brings no Triton and no runtime: those are in the container of NVIDIA's that it looks after.
#
#   docker build --tag policyctl:0.1.0 .
#
# A digest is always asked of the registry. Where none can be reached, name an image that is on the machine:
#
#   docker build --build-arg POLICYCTL_BASE=python:3.11-slim-bookworm --tag policyctl:0.1.0 .

ARG POLICYCTL_BASE=python:3.11.16-slim-bookworm@sha256:a36c24f9cbdf4fd0f52d67f0823eeac19c2028c637cecc392d97f980d4fec56b
# hadolint ignore=DL3006
FROM ${POLICYCTL_BASE} AS base

FROM base AS build
WORKDIR /build
# A layer of its own: an edit of the sources installs no dependency again.
COPY pyproject.toml constraints.txt ./
COPY containers/requirements.py ./containers/
# Every dependency has a wheel for this Python: nothing is compiled, so no compiler is needed even here.
RUN python -m venv --without-pip /opt/policyctl \
    && python containers/requirements.py > requirements.txt \
    && python -m pip --python /opt/policyctl/bin/python install --no-cache-dir --disable-pip-version-check \
        --only-binary :all: --constraint constraints.txt --requirement requirements.txt
COPY hatch_build.py README.md LICENSE ./
COPY control ./control
COPY exporters ./exporters
# What `policyctl docs` shows and writes.
COPY docs ./docs
COPY alerts ./alerts
COPY grafana ./grafana
RUN python -m pip wheel --no-cache-dir --disable-pip-version-check --no-deps --wheel-dir dist . \
    && python -m pip --python /opt/policyctl/bin/python install --no-cache-dir --disable-pip-version-check \
        --no-deps dist/policyctl-*.whl

FROM base
LABEL org.opencontainers.image.title="policyctl" \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.licenses="Apache-2.0"
# UID 1000 is NVIDIA's triton-server as well: both read the same repository.
RUN useradd --uid 1000 --user-group --no-create-home --home-dir /tmp --shell /usr/sbin/nologin policyctl \
    && install --directory --owner 1000 --group 1000 --mode 0755 /models
COPY --from=build /opt/policyctl /opt/policyctl
ENV PATH=/opt/policyctl/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    POLICYCTL_REPOSITORY=/models \
    POLICYCTL_SERVER__ENGINE=external
USER 1000:1000
HEALTHCHECK --interval=30s --timeout=15s --start-period=60s --retries=3 CMD ["policyctl", "probe", "--quiet"]
ENTRYPOINT ["policyctl"]
CMD ["serve"]
