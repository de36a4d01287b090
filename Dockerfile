# One image for all of the zoo: commands, relay, workers, and MLflow's server.
FROM python:3.11.14-slim-bookworm

ENV PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PYTHONUNBUFFERED=1 \
    GIT_PYTHON_REFRESH=quiet \
    HF_HUB_OFFLINE=1 \
    MLFLOW_DISABLE_TELEMETRY=true

# An account without rights; named volumes take the owner of the folder they are mounted over.
RUN useradd --uid 10001 --create-home --shell /usr/sbin/nologin zoo \
    && install --directory --owner zoo --group zoo --mode 0700 \
        /var/lib/zoo /var/lib/zoo/artifacts /var/lib/mlflow

WORKDIR /opt/zoo
COPY pyproject.toml constraints.txt README.md LICENSE zoo.py ./
COPY formats formats
COPY registry registry
COPY xlora_engine xlora_engine
COPY workers workers
COPY migrations migrations
RUN pip install --constraint constraints.txt '.[postgres,broker,mlflow-server]'

USER zoo
WORKDIR /var/lib/zoo
ENV ZOO_HOME=/var/lib/zoo
CMD ["zoo", "--help"]
