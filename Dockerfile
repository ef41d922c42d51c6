# The control plane: `policyctl serve --engine external`, `policyctl api`, and every other command.
# It brings no Triton and no runtime: those are in the container of NVIDIA's that it looks after.
#
#   docker build --tag policyctl:0.1.0 .
#
# Written against Docker's documentation, checked by hadolint and by running its steps without Docker;
# never built by a Docker engine. See docs/containers.md.

FROM python:3.11.16-slim-bookworm@sha256:a36c24f9cbdf4fd0f52d67f0823eeac19c2028c637cecc392d97f980d4fec56b AS base

FROM base AS build
WORKDIR /build
COPY pyproject.toml constraints.txt hatch_build.py README.md LICENSE ./
COPY control ./control
COPY exporters ./exporters
# Every dependency has a wheel for this Python: nothing is compiled, so no compiler is needed even here.
RUN python -m pip wheel --no-cache-dir --disable-pip-version-check --no-deps --wheel-dir dist . \
    && python -m venv --without-pip /opt/policyctl \
    && python -m pip --python /opt/policyctl/bin/python install --no-cache-dir --disable-pip-version-check \
        --only-binary :all: --constraint constraints.txt "$(echo dist/policyctl-*.whl)[sign,api]"

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
    POLICYCTL_REPOSITORY=/models
USER 1000:1000
HEALTHCHECK --interval=30s --timeout=15s --start-period=60s --retries=3 CMD ["policyctl", "probe", "--quiet"]
ENTRYPOINT ["policyctl"]
CMD ["serve", "--engine", "external"]
