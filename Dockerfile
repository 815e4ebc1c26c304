# docker build -t image-classifier .
# docker run --gpus all --shm-size 2g -v "$PWD/data:/project/data" -v "$PWD/outputs:/project/outputs" image-classifier python train.py
FROM python:3.13-slim-bookworm

# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends git make g++ \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /project
# Above the code, so that a change of the code does not install everything again.
COPY scripts/setup.py scripts/setup.py
COPY pyproject.toml requirements.lock README.md LICENSE Makefile ./
COPY src src
COPY configs configs
RUN make setup

COPY . .
ENV PATH="/project/.venv/bin:$PATH"
CMD ["python", "train.py"]
