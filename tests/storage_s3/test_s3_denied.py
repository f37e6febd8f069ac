"""An object store that refuses: one line that says so, status 2, and no waiting."""

import pytest
from s3_proxy import Fault
from s3_sweeps import finish, start, write_small

from harness.cli import main

LIMIT = 40  # seconds: starting and asking once take two, on a machine that is not busy with other things


def refuse(code, *methods):
    return lambda request: Fault(code) if not methods or request.method in methods else None


@pytest.mark.slow
@pytest.mark.parametrize("code", ["AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch"])
@pytest.mark.parametrize("command", ["sweep", "plan", "report"])
def test_a_store_that_refuses_is_reported_in_one_line(proxy, url, tmp_path, capsys, code, command):
    proxy.rule = refuse(code)
    options = ["--debug"] if command == "sweep" else []
    assert main([command, str(write_small(tmp_path)), "--results", url, *options]) == 2
    said, complained = capsys.readouterr()
    assert said == ""
    assert complained.count("\n") == 1
    assert url in complained
    assert f"{code} of the proxy" in complained


def check(process, *words):
    """Checks that a sweep ended with one line on standard error that has the words."""
    status, said, complained = finish(process, LIMIT)
    assert (status, said) == (2, "")
    assert complained.count("\n") == 1, complained
    assert complained.startswith("harness: ")
    assert all(word in complained for word in words), complained


@pytest.mark.slow
def test_a_bucket_that_denies_writing(proxy, client, url, tmp_path):
    proxy.rule = refuse("AccessDenied", "PUT", "POST", "DELETE")
    check(start(write_small(tmp_path), url, "--debug"), url, "cannot be written", "AccessDenied of the proxy")
    proxy.reset()
    assert "Contents" not in client.list_objects_v2(Bucket=url.split("/")[2])


@pytest.mark.slow
def test_a_bucket_that_is_not_there(proxy, tmp_path):
    url = "s3://no-such-bucket/results"
    check(start(write_small(tmp_path), url, "--debug"), url, "cannot be written", "bucket does not exist")


@pytest.mark.slow
@pytest.mark.parametrize("code", ["InvalidAccessKeyId", "SignatureDoesNotMatch"])
def test_credentials_that_are_wrong(proxy, url, tmp_path, code):
    proxy.rule = refuse(code)
    check(start(write_small(tmp_path), url, "--debug"), url, f"{code} of the proxy")


@pytest.mark.slow
def test_no_credentials_at_all(proxy, url, tmp_path, monkeypatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    check(start(write_small(tmp_path), url, "--debug"), url, "credentials")


@pytest.mark.slow
def test_nothing_that_answers(environment, tmp_path, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    process = start(write_small(tmp_path), "s3://bucket/results", "--debug")
    status, said, complained = finish(process, 120)
    assert (status, said, complained.count("\n")) == (2, "", 1)
    assert "cannot be written" in complained
