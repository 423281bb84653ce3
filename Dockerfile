# Two stages: the first fetches and installs, the second holds what runs. What the first is told of
# mirrors and certificates (three secrets, all optional, docs/container.md) stays out of the image.
FROM debian:bookworm-slim AS build

RUN --mount=type=secret,id=sources,target=/etc/apt/sources.list.d/build.list \
    --mount=type=secret,id=apt,target=/etc/apt/apt.conf.d/90build \
    apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates python3-venv \
    && rm -rf /var/lib/apt/lists/* \
    && python3 -m venv /opt/sodiumprep

# Dependencies first, as locked and no others: they change less often than the sources.
WORKDIR /source
COPY requirements.lock pyproject.toml container/wanted.py ./
RUN --mount=type=secret,id=pip,target=/etc/pip.conf \
    --mount=type=secret,id=certificates,target=/etc/ssl/certs/ca-certificates.crt \
    python3 wanted.py pyproject.toml > wanted.txt \
    && /opt/sodiumprep/bin/pip install --no-cache-dir --constraint requirements.lock setuptools \
    && /opt/sodiumprep/bin/pip install --no-cache-dir --constraint requirements.lock \
       --use-pep517 --no-build-isolation --requirement wanted.txt

# The installers stay behind: nothing is installed where it runs.
COPY README.md LICENSE ./
COPY bids_app bids_app
COPY workflows workflows
COPY interfaces interfaces
COPY sodium sodium
RUN /opt/sodiumprep/bin/pip install --no-cache-dir --no-index --no-deps --no-build-isolation . \
    && /opt/sodiumprep/bin/pip check \
    && /opt/sodiumprep/bin/pip uninstall --yes setuptools pip


FROM debian:bookworm-slim

# libgomp is the one library that the wheels leave to the system.
RUN --mount=type=secret,id=sources,target=/etc/apt/sources.list.d/build.list \
    --mount=type=secret,id=apt,target=/etc/apt/apt.conf.d/90build \
    apt-get update \
    && apt-get install --yes --no-install-recommends libgomp1 python3 \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt /var/log/apt /var/log/dpkg.log \
    && useradd --uid 1000 --create-home sodiumprep

COPY --from=build /opt/sodiumprep /opt/sodiumprep

# Any user will do, with or without a home; caches find a place of their own then.
USER 1000:1000
WORKDIR /tmp
ENV PATH=/opt/sodiumprep/bin:/usr/local/bin:/usr/bin:/bin \
    HOME=/home/sodiumprep \
    LANG=C.UTF-8 \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONNOUSERSITE=1 \
    MPLBACKEND=Agg \
    NIPYPE_NO_ET=1 \
    NO_ET=1

# What dataset_description.json says of the container: --build-arg IMAGE=<name>:<tag>
ARG IMAGE=sodiumprep:0.1.0
ARG VERSION=0.1.0
ARG REVISION=unknown
ENV SODIUMPREP_CONTAINER=$IMAGE
LABEL org.opencontainers.image.title="sodiumprep" \
      org.opencontainers.image.description="Quantitative sodium (23Na) MRI of the brain, as a BIDS App" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="$VERSION" \
      org.opencontainers.image.revision="$REVISION" \
      org.opencontainers.image.base.name="docker.io/library/debian:bookworm-slim"

# It runs once and ends, so there is no HEALTHCHECK to ask for its health: --self-test does.
ENTRYPOINT ["sodiumprep"]
CMD ["--help"]
