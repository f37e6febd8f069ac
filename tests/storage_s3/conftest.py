"""An S3 server on this machine, with a proxy before it."""

import logging
import uuid

import boto3
import pytest
from moto.server import ThreadedMotoServer
from s3_proxy import Proxy

from harness.core.storage import Storage

KEYS = {
    "AWS_ACCESS_KEY_ID": "AKIARECOGNISABLE0001",
    "AWS_SECRET_ACCESS_KEY": "recognisable/secret+0002/abcdefghijklmno",
    "AWS_SESSION_TOKEN": "recognisable-token-0003-abcdefghijklmno",
}


@pytest.fixture(scope="session")
def server():
    """The proxy, whose address is that of the object store for the whole session: clients are kept by fsspec."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    moto = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    moto.start()
    proxy = Proxy(moto.get_host_and_port()[1])
    yield proxy
    proxy.stop()
    moto.stop()


@pytest.fixture
def environment(server, monkeypatch, tmp_path):
    """The variables that give this process, and those that it starts, the object store and a cache of their own."""
    for name in ("AWS_PROFILE", "AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    monkeypatch.delenv("AWS_PROFILE")
    settings = {
        **KEYS,
        "AWS_ENDPOINT_URL": server.url,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "HARNESS_CACHE": str(tmp_path / "cache"),
    }
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    return settings


@pytest.fixture
def proxy(server, environment):
    """The proxy; what a test told it to do ends with the test."""
    server.reset()
    yield server
    server.reset()


@pytest.fixture
def client(proxy):
    """A client of the object store that knows nothing of fsspec."""
    client = boto3.client("s3")
    yield client
    client.close()


@pytest.fixture
def url(client):
    """A results URL in a bucket of its own."""
    bucket = f"bucket-{uuid.uuid4().hex[:12]}"
    client.create_bucket(Bucket=bucket)
    return f"s3://{bucket}/results"


@pytest.fixture
def storage(url):
    """An empty place on the object store."""
    return Storage(url)
