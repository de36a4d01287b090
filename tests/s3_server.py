"""A server that speaks S3's protocol, moto's, in a thread of the tests' own process."""

import atexit
import functools
import logging
import uuid
from collections.abc import Iterator

import pytest


@functools.cache
def s3_endpoint() -> str:
    """The URL of this run's server, started by the first test that needs it."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    atexit.register(server.stop)
    host, port = server.get_host_and_port()
    return f"http://{host}:{port}"


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The URL of an empty bucket, with an account and an endpoint for it in the environment."""
    import fsspec

    variables = {
        "AWS_ENDPOINT_URL": s3_endpoint(),
        "AWS_ACCESS_KEY_ID": "zoo",
        "AWS_SECRET_ACCESS_KEY": "unlocked",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    bucket = f"zoo-{uuid.uuid4().hex}"
    system = fsspec.filesystem("s3", use_listings_cache=False)
    system.mkdir(bucket)
    yield f"s3://{bucket}"
    system.rm(bucket, recursive=True)
