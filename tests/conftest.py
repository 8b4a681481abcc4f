"""What holds for every test: no network, one thread, checked shapes, the same examples each time.

The order matters: the environment before torch or transformers, the import hook before `interp`.
"""

from __future__ import annotations

import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")

import hashlib
import logging
import sys
import urllib.request
from collections.abc import Iterator

import pytest
from hypothesis import settings
from jaxtyping import install_import_hook

CHECKED_SHAPES = install_import_hook("interp", "beartype.beartype")

settings.register_profile("repeatable", deadline=None, derandomize=True)
settings.load_profile("repeatable")


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Run torch on one thread, where a test has loaded it: the same sums in the same order."""
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(1)


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """The URL of moto's server on loopback."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(logging.getLogger("werkzeug"), "disabled", True)
        yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def endpoint(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The same, with the variables set that lead to it."""
    for name in ("AWS_ENDPOINT_URL_S3", "AWS_REGION", "AWS_DEFAULT_REGION", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_EC2_METADATA_DISABLED"):
        monkeypatch.setenv(name, "true")
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_server)
    return s3_server


@pytest.fixture
def bucket(endpoint: str, request: pytest.FixtureRequest) -> str:
    """The address of a bucket of the test's own."""
    name = f"b{hashlib.sha256(request.node.nodeid.encode()).hexdigest()[:20]}"
    request_ = urllib.request.Request(f"{endpoint}/{name}", method="PUT")
    urllib.request.urlopen(request_).close()
    return f"s3://{name}/deep/store"
