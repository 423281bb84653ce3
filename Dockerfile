FROM python:3.11-slim-bookworm

# ANTs, matplotlib and friends come as wheels; libgomp is the one library they leave to the system.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends libgomp1 \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /opt/sodiumprep
COPY requirements.lock ./
RUN pip install --no-cache-dir -r requirements.lock
COPY pyproject.toml README.md LICENSE ./
COPY bids_app bids_app
COPY workflows workflows
COPY interfaces interfaces
COPY sodium sodium
RUN pip install --no-cache-dir --no-deps --no-build-isolation . && rm -rf build

RUN useradd --create-home --shell /bin/bash sodiumprep
USER sodiumprep
WORKDIR /home/sodiumprep
ENV HOME=/home/sodiumprep \
    MPLBACKEND=Agg \
    NIPYPE_NO_ET=1 \
    NO_ET=1

# What dataset_description.json says of the container: --build-arg IMAGE=<name>:<tag>
ARG IMAGE=sodiumprep:0.1.0
ENV SODIUMPREP_CONTAINER=$IMAGE
ENTRYPOINT ["sodiumprep"]
