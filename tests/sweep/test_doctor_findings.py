"""The doctor's findings: each fault is found and its remedy named, what is well is none; status and secrets."""

import json

import pytest

from harness.cli import main
from harness.sweep.doctor import diagnosis
from harness.sweep.doctor.diagnosis import Diagnosis, merged, placeholders
from harness.sweep.doctor.findings import Finding, diagnose

VERSIONS = {"harness": "0.1.0", "python": "3.11.7", "ray": "2.60.0", "torch": "2.13.0", "source": "abc"}
TOKEN = {"on": True, "file": "/root/.ray/auth_token", "mode": "0600", "digest": "d"}
OFF = {**TOKEN, "on": False}
GPU = {"devices": 1, "torch_sees": 1, "why": ""}
BLIND = {"devices": 1, "torch_sees": 0, "why": "torch is built for CPUs"}
SOCKET = {"kind": "node", "address": "0.0.0.0", "port": 6379}
MACHINE = {
    "versions": VERSIONS,
    "gpu": {"devices": 0, "torch_sees": 0, "why": "there is no device"},
    "token": TOKEN,
    "ports": [SOCKET],
    "disks": [{"path": "/", "free": 80.0}],
    "user": "ubuntu",
    "failures": [],
}


def facts(node=None, driver=None, gpus=0.0, **more):
    """Facts of a cluster of one node without a fault, with some changed."""
    return {
        "step": None,
        "cluster": True,
        "driver": {"name": "this machine", **MACHINE, **(driver or {})},
        "nodes": [{"name": "10.0.0.4", "head": True, "cpus": 8.0, "gpus": gpus, **MACHINE, **(node or {})}],
        "storage": stored(None),
        **more,
    }


def stored(error, local=True):
    nodes = [{"name": "10.0.0.4", "error": error}]
    return {"place": "/home/me/results", "local": local, "error": None, "nodes": nodes}


def version(**changed):
    return {"versions": {**VERSIONS, **changed}}


def listens(kind, address, port=8265):
    return {"ports": [SOCKET, {"kind": kind, "address": address, "port": port}]}


def lost(error):
    return [{"name": "n2", "head": False, "cpus": 1.0, "gpus": 0.0, "error": error}]


def faults(seen):
    return [finding for finding in diagnose(seen) if finding.level != "ok"]


@pytest.mark.parametrize(
    "seen",
    [
        facts(),
        facts(node={"gpu": GPU}, gpus=1.0),
        facts(cluster=False, nodes=[], driver={"token": {**TOKEN, "digest": None}}),  # Ray makes one
        facts(driver=OFF),  # Ray itself turns it on where there is a token
        facts(node=listens("dashboard", "127.0.0.1")),
        facts(node=listens("client server", "10.0.0.4", 10001)),
        facts(node={"token": OFF, "ports": [{**SOCKET, "address": "127.0.0.1"}]}, driver={"token": OFF}),
        facts(node={"token": {**TOKEN, "file": None}}),  # RAY_AUTH_TOKEN
        facts(storage=None),
    ],
)
def test_what_is_well_is_no_fault(seen):
    assert faults(seen) == []
    assert diagnose(seen)


@pytest.mark.parametrize(
    ("level", "seen", "words"),
    [
        (
            "bad",
            facts(stopped="the cluster asks for a token", remedy="export it"),
            ["asks for a", "export it"],
        ),
        ("bad", facts(cluster=False, nodes=[], refused="1.2.3.4:6379: no"), ["1.2.3.4:6379", "--address"]),
        ("bad", facts(nodes=lost("no answer")), ["n2", "no answer", "ray status"]),
        ("warning", facts(node={"failures": ["ports: OSError"]}), ["check failed", "ports"]),
        ("bad", facts(node=version(ray="2.59.0")), ["ray differs", "2.59.0 on 10.0.0.4", "2.60.0 on this"]),
        ("bad", facts(node=version(python="3.12.1")), ["python differs"]),
        ("warning", facts(node=version(python="3.11.9")), ["python differs", "3.11.9 on 10.0.0.4"]),
        ("bad", facts(node=version(torch="None")), ["torch differs", "None on 10.0.0.4"]),
        ("bad", facts(node=version(source="def")), ["source differs", "install the same"]),
        ("warning", facts(node={"gpu": GPU}), ["torch sees 1", "Ray counts 0", "--num-gpus=1"]),
        ("bad", facts(node={"gpu": BLIND}, gpus=1.0), ["Ray counts 1", "built for CPUs", "nvidia-smi"]),
        ("warning", facts(node={"gpu": BLIND}), ["1 GPUs are installed", "built for CPUs"]),
        ("bad", facts(gpus=2.0), ["Ray counts 2", "no device"]),
        ("bad", facts(node={"gpu": GPU}, gpus=4.0), ["Ray counts 4", "torch sees 1"]),
        ("bad", facts(storage=stored("not there")), ["/home/me/results", "not there", "s3://bucket/results"]),
        ("bad", facts(storage=stored("AccessDenied", local=False)), ["AccessDenied", "credentials"]),
        (
            "bad",
            facts(storage={**stored(None), "error": "PermissionError"}),
            ["PermissionError", "can write"],
        ),
        ("bad", facts(node={"token": {**TOKEN, "mode": "0644"}}), ["0644", "chmod 600 /root"]),
        ("warning", facts(cluster=False, nodes=[], driver={"token": {**OFF, "mode": "0640"}}), ["0640"]),
        ("bad", facts(node={"token": {**TOKEN, "digest": None}}), ["no token", "/root/.ray/auth_token"]),
        ("bad", facts(node={"token": {**TOKEN, "digest": "e"}}), ["the token differs", "RAY_AUTH_MODE"]),
        ("bad", facts(node={"token": OFF}), ["without token", "as ubuntu", "RAY_AUTH_MODE", "firewall"]),
        ("warning", facts(node=listens("dashboard", "0.0.0.0")), ["0.0.0.0:8265", "--dashboard-host=127"]),
        ("bad", facts(node={**listens("dashboard", "::"), "token": OFF}), ["dashboard", "[::]:8265"]),
        ("warning", facts(node=listens("client server", "8.8.8.8", 10001)), ["client", "8.8.8.8:10001"]),
        ("warning", facts(node={"ports": []}), ["no listening socket"]),
        ("warning", facts(node={"disks": [{"path": "/data", "free": 1.25}]}), ["1.2 GB free at /data"]),
    ],
)
def test_a_fault_is_found_and_its_remedy_named(level, seen, words):
    found = faults(seen)
    assert any(
        finding.level == level and finding.remedy and all(word in " ".join(finding) for word in words)
        for finding in found
    ), found
    assert level == "bad" or {finding.level for finding in found} == {"warning"}


def test_what_holds_of_many_machines_is_one_line_and_bad_comes_first(monkeypatch):
    monkeypatch.setenv("MY_SECRET", "do-not-tell")
    many = [Finding("ok", f"n{i}", "same") for i in range(99)]
    bad = Finding("bad", "n2", "do-not-tell and ftp://u:pw@h/x, but s3://bucket/results", "r")
    found = merged([*many, Finding("warning", "n1", "w", "r"), bad])
    assert [finding.level for finding in found] == ["bad", "warning", "ok"]
    assert found[2].where == "n0, n1, n2, n3 and 95 more"
    lines = Diagnosis([{"name": "n1"}], found).lines()
    assert lines[0] == "bad      n2: *** and ftp://u:***@h/x, but s3://bucket/results"
    assert lines[-1] == "n1 checked: 1 bad, 1 warning, 1 ok"


def test_values_that_nobody_set_are_named_by_file_and_line(tmp_path):
    (tmp_path / "clusters").mkdir()
    (tmp_path / "cluster.yaml").write_text(
        "# SET-NOTHING here\nregion: SET-REGION  # not SET-THIS\nsetup: [install s3://SET-BUCKET/#SET-A]\n"
    )
    (tmp_path / "clusters" / "one.yaml").write_text("cluster_name: one\n")
    (tmp_path / "clusters" / "two.yaml").write_text("name: SET-NAME\n")
    first, second = placeholders(tmp_path)
    assert first[:2] == ("warning", "cluster.yaml")
    assert first.what == "not set: SET-REGION on line 2, SET-BUCKET on line 3, SET-A on line 3"
    assert (second.where, second.what) == ("clusters/two.yaml", "not set: SET-NAME on line 1")
    assert placeholders(tmp_path / "clusters") == []


@pytest.mark.parametrize(("fault", "status"), [(None, 0), ("full", 1)])
def test_the_exit_status_says_whether_something_is_bad(fault, status, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(diagnosis, "gather", lambda results, address: facts(storage=stored(fault)))
    assert main(["doctor", "--json", "--address", "h:1"]) == status
    told = json.loads(capsys.readouterr().out)
    assert {finding["level"] for finding in told["findings"]} == ({"ok", "bad"} if fault else {"ok"})
    assert told["nodes"][0]["name"] == "10.0.0.4"
    assert "digest" not in json.dumps(told)


@pytest.mark.parametrize(
    ("options", "words"),
    [(["--address", "local"], "omit --address"), (["--results", "no://x"], "no://x")],
)
def test_what_cannot_be_looked_at_is_bad_input(options, words, capsys):
    assert main(["doctor", *options]) == 2
    assert words in capsys.readouterr().err
