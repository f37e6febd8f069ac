"""The doctor: findings from facts, cluster files, this machine, a cluster of two nodes, and the command."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from harness.cli import main
from harness.core.errors import UserError
from harness.sweep import doctor
from harness.sweep.doctor import Finding, diagnose, masked, placeholders

NODE = {
    "python": "3.11.7",
    "ray": "2.60.0",
    "torch": "2.13.0+cpu",
    "harness": "0.1.0",
    "source": "abc",
    "unmet": [],
    "gpu": {"devices": 0},
    "token": {"mode": "token", "file": "/root/.ray/auth_token", "digest": "d"},
    "ports": [{"kind": "node", "address": "0.0.0.0", "port": 6379}],
    "addresses": ["10.0.0.4"],
    "disks": [{"path": "/", "free": 80.0}],
    "user": "ubuntu",
    "failures": [],
}


def facts(node=None, driver=None, gpus=0.0, **more):
    """Facts of a cluster of one node without a fault, with some changed."""
    told = {
        "name": "10.0.0.4",
        "head": True,
        "gpus": gpus,
        "counts": "CPU 8",
        "facts": {**NODE, "machine": "n", **(node or {})},
    }
    return {
        "step": "done",
        "cluster": True,
        "driver": {**NODE, "machine": "d", **(driver or {})},
        "nodes": [told],
        "clocks": [{"name": "10.0.0.4", "early": -0.2, "late": 0.3}],
        "storage": {
            "place": "s3://b/r",
            "local": False,
            "error": None,
            "nodes": [{"name": "10.0.0.4", "error": None}],
        },
        **more,
    }


def listens(kind, address, port=8265):
    return {"ports": [*NODE["ports"], {"kind": kind, "address": address, "port": port}]}


OFF = {"token": {"mode": "", "file": "/root/.ray/auth_token"}}
GPU = {"devices": 1, "torch_for": "13.0", "torch_sees": 1}


def stored(error, local=True):
    return {
        "place": "/home/me/results",
        "local": local,
        "error": None,
        "nodes": [{"name": "10.0.0.4", "error": error}],
    }


def test_a_cluster_without_a_fault_has_no_fault():
    assert {finding.level for finding in diagnose(facts())} == {"ok"}
    assert {finding.level for finding in diagnose(facts(node={"gpu": GPU}, gpus=1.0))} == {"ok"}


@pytest.mark.parametrize(
    ("level", "seen", "words"),
    [
        (
            "bad",
            facts(stopped="the cluster asks for a token", remedy="export it"),
            ["asks for a token", "export it"],
        ),
        (
            "bad",
            facts(cluster=False, nodes=[], refused="1.2.3.4:6379: refused"),
            ["1.2.3.4:6379", "--address"],
        ),
        ("bad", facts(nodes=[{"name": "n2", "gpus": 0.0, "error": "no answer"}]), ["n2", "no answer"]),
        ("warning", facts(node={"failures": ["ports: OSError"]}), ["in part", "ports"]),
        (
            "bad",
            facts(node={"ray": "2.59.0"}),
            ["Ray differs", "2.59.0 on 10.0.0.4", "2.60.0 on this machine"],
        ),
        ("bad", facts(node={"python": "3.12.1"}), ["Python differs"]),
        ("warning", facts(node={"python": "3.11.9"}), ["Python differs", "3.11.9 on 10.0.0.4"]),
        ("bad", facts(node={"torch": "2.12.0"}), ["torch differs"]),
        ("bad", facts(node={"source": "def"}), ["source differs"]),
        ("bad", facts(node={"unmet": ["torch>=2.10 (2.9.1)"]}), ["torch>=2.10 (2.9.1)", "pip install"]),
        ("warning", facts(node={"unmet": None}), ["not installed"]),
        ("warning", facts(node={"gpu": GPU}), ["torch sees 1", "Ray counts 0", "--num-gpus=1"]),
        ("bad", facts(node={"gpu": {**GPU, "torch_for": None}}, gpus=1.0), ["built for CPUs", "2.13.0+cpu"]),
        ("warning", facts(node={"gpu": {**GPU, "torch_for": None}}), ["built for CPUs"]),
        ("bad", facts(node={"gpu": {**GPU, "torch_sees": 0}}, gpus=1.0), ["sees none", "nvidia-smi"]),
        ("bad", facts(node={"gpu": GPU}, gpus=4.0), ["Ray counts 4", "torch sees 1"]),
        ("bad", facts(node={"gpu": {"devices": 1, "error": "boom"}}, gpus=1.0), ["torch cannot say: boom"]),
        ("bad", facts(storage=stored("not seen")), ["/home/me/results", "not seen", "s3://bucket/results"]),
        ("bad", facts(storage=stored("AccessDenied", local=False)), ["AccessDenied", "credentials"]),
        (
            "bad",
            facts(storage={**stored(None), "error": "PermissionError"}),
            ["PermissionError", "may write"],
        ),
        ("bad", facts(node={"token": {**NODE["token"], "open": "0644"}}), ["0644", "chmod 600 /root"]),
        ("bad", facts(node={"token": {"mode": "token", "file": "/x"}}), ["no token", "/x"]),
        ("bad", facts(node={"token": {**NODE["token"], "digest": "e"}}), ["another token", "RAY_AUTH_MODE"]),
        (
            "bad",
            facts(node=OFF, driver=OFF),
            ["0.0.0.0:6379", "without token", "as ubuntu", "RAY_AUTH_MODE"],
        ),
        (
            "warning",
            facts(node=listens("dashboard", "0.0.0.0")),
            ["0.0.0.0:8265", "--dashboard-host=127.0.0.1"],
        ),
        ("bad", facts(node={**listens("dashboard", "::"), **OFF}), ["dashboard", "[::]:8265"]),
        (
            "bad",
            facts(node={**listens("client server", "8.8.8.8", 10001), **OFF}),
            ["client server", "8.8.8.8:10001"],
        ),
        ("warning", facts(node={"ports": []}), ["no listening socket"]),
        ("warning", facts(node={"disks": [{"path": "/data", "free": 1.25}]}), ["1.2 GB free at /data"]),
        ("warning", facts(clocks=[{"name": "n2", "early": 59.9, "late": 60.4}]), ["n2", "60 s ahead"]),
        ("warning", facts(clocks=[{"name": "n2", "early": -9.5, "late": -9.0}]), ["n2", "9 s behind"]),
    ],
)
def test_a_fault_is_found_and_its_remedy_named(level, seen, words):
    faults = [finding for finding in diagnose(seen) if finding.level != "ok"]
    assert any(
        finding.level == level and finding.remedy and all(word in " ".join(finding) for word in words)
        for finding in faults
    ), faults
    assert level == "bad" or {finding.level for finding in faults} == {"warning"}


@pytest.mark.parametrize(
    "seen",
    [
        facts(cluster=False, nodes=[], refused=None, clocks=[]),
        facts(driver={"torch": "2.13.0+cu130"}),  # a head without a GPU beside nodes with one
        facts(node={**listens("dashboard", "127.0.0.1")}),
        facts(node={**listens("client server", "10.0.0.4", 10001)}),
        facts(node={**OFF, "ports": [{"kind": "node", "address": "127.0.0.1", "port": 1}]}, driver=OFF),
        facts(node={**OFF, "addresses": []}, driver=OFF),  # no other machine can come
        facts(node={"token": {**NODE["token"], "file": None}}),  # RAY_AUTH_TOKEN
        facts(clocks=[{"name": "n2", "early": -30.0, "late": 30.0}]),  # a slow answer says nothing
        facts(storage=None),
    ],
)
def test_what_is_well_is_no_fault(seen):
    assert [finding for finding in diagnose(seen) if finding.level != "ok"] == []


def test_a_token_file_that_others_read_is_a_warning_where_no_cluster_runs():
    seen = facts(cluster=False, nodes=[], driver={"token": {**NODE["token"], "open": "0644"}})
    assert [finding.level for finding in diagnose(seen) if finding.level != "ok"] == ["warning"]


def test_what_holds_of_many_machines_is_one_line_and_bad_comes_first():
    many = [Finding("ok", f"n{i}", "same") for i in range(99)]
    found = doctor._sorted(
        [*many, Finding("warning", "n1", "w", "r"), Finding("bad", "n2", "b ftp://u:pw@h/x", "r")]
    )
    assert [finding.level for finding in found] == ["bad", "warning", "ok"]
    assert found[2].where == "n0, n1, n2, n3 and 95 more"
    assert "pw" not in str(found)
    lines = doctor.Diagnosis([{"name": "n1"}], found).lines()
    assert lines[0] == "bad      n2: b ftp://***@h/x"
    assert lines[-1] == "n1 looked at: 1 bad, 1 warning, 1 ok"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("s3://bucket/results", "s3://bucket/results"),
        ("at sftp://me:se/cr@et@host/x.", "at sftp://***@host/x."),
        ("https://TOKEN@host/x", "https://***@host/x"),
        ("abfs://c/x?sig=abc&sv=1", "abfs://c/x?sig=***&sv=1"),
        ("mail me@here or s3://bucket/a@b", "mail me@here or s3://bucket/a@b"),
    ],
)
def test_credentials_in_urls_are_hidden(text, shown):
    assert masked(text) == shown


def test_values_that_nobody_set_are_named_by_file_and_line(tmp_path):
    (tmp_path / "clusters").mkdir()
    (tmp_path / "cluster.yaml").write_text(
        "# SET-NOTHING here\ncluster_name: mine\nprovider:\n  region: &r SET-REGION\n  again: *r\n"
        "setup: [install s3://SET-BUCKET/results]\n"
    )
    (tmp_path / "clusters" / "one.yaml").write_text("cluster_name: one\n---\nkind: !Ref this\n")
    (tmp_path / "clusters" / "two.yaml").write_text("a: [\n")
    first, one, two = placeholders(tmp_path, "other")
    assert first[:2] == ("warning", "cluster.yaml")
    assert first.what == "not set: SET-REGION in line 4, SET-BUCKET in line 6"
    assert one.level == "ok"
    assert (two.level, two.where) == ("warning", "clusters/two.yaml")
    assert [finding.level for finding in placeholders(tmp_path, "mine")] == ["bad", "ok", "warning"]
    assert placeholders(tmp_path / "clusters", None) == []


def test_the_token_is_found_in_rays_order_and_never_told(tmp_path, monkeypatch):
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    assert "digest" not in doctor.token("salt")
    home = tmp_path / ".ray" / "auth_token"
    home.parent.mkdir()
    home.write_text("ours\n")
    home.chmod(0o644)
    first = doctor.token("salt")
    assert first["file"] == str(home)
    assert first["open"] == "0644"
    home.chmod(0o600)
    assert "open" not in doctor.token("salt")
    (tmp_path / "other").write_text("ours")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "other"))
    assert doctor.token("salt")["digest"] == first["digest"] != doctor.token("pepper")["digest"]
    monkeypatch.setenv("RAY_AUTH_TOKEN", "theirs")
    given = doctor.token("salt")
    assert given["file"] is None
    assert given["digest"] != first["digest"]
    assert "theirs" not in json.dumps(given)


def test_requirements_are_read_from_metadata(monkeypatch):
    asked = {"harness": ["numpy>=1", "numpy<1", "nothere", "absent; extra == 's3'", "pydantic[e]>=2"]}
    asked["pydantic"] = ["mail-checker; extra == 'e'", "unasked"]
    monkeypatch.setattr(doctor, "requires", lambda name: asked[name])
    found = doctor.unmet("harness")
    assert [line.partition(" (")[0] for line in found] == ["numpy<1", "nothere", "mail-checker"]
    monkeypatch.undo()
    assert doctor.unmet("no-such-package") is None
    assert doctor.unmet("harness") == []


def test_the_disk_of_a_folder_that_is_not_there_is_its_parents(tmp_path):
    assert doctor.free([str(tmp_path / "none" / "here")])[0] == {
        **doctor.free([str(tmp_path)])[0],
        "path": str(tmp_path),
    }


def test_storage_is_left_as_it_was(tmp_path):
    from harness.core.storage import Storage

    seen = doctor._storage(Storage(str(tmp_path / "a" / "results")), [])
    assert (seen["error"], seen["nodes"]) == (None, [])
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "results").mkdir()
    doctor._storage(Storage(str(tmp_path / "results")), [])
    assert list(tmp_path.iterdir()) == [tmp_path / "results"]


def test_a_node_sees_what_is_shared_and_says_what_is_not(tmp_path):
    from harness.core.storage import Storage

    ours, theirs = Storage(str(tmp_path / "ours")), str(tmp_path / "theirs")
    ours.write("probe/driver", b"text")
    shared = doctor._meet(ours.url, "probe", "text")
    assert shared["error"] is None
    assert doctor._unread(ours, "probe", shared) is None
    apart = doctor._meet(theirs, "probe", "text")
    assert "does not see" in apart["error"]
    assert "FileNotFoundError" in doctor._unread(ours, "probe", apart)
    assert apart["made"] == [theirs]
    assert "reads other" in doctor._meet(ours.url, "probe", "other")["error"]
    doctor._leave(Storage(theirs), "probe", apart["made"])
    assert not Path(theirs).exists()


class Teller:
    """Stands for the process that tells facts."""

    def __init__(self, lines, log=()):
        self.facts, self.log = lines, log

    def hear(self, monkeypatch, **limits):
        heard = doctor.Queue()
        for name, lines in (("log", self.log), ("fact", self.facts)):
            for line in lines:
                heard.put((name, line if line is None else doctor.FACT + line if name == "fact" else line))
        return doctor._hear(heard, "h:1", limits.get("connecting", 0.01), limits.get("silent", 0.01))


def test_a_process_that_is_silent_or_refused_or_dies_is_told_of(monkeypatch):
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    silent = Teller(['{"driver": {}}', '{"step": "the disk"}']).hear(monkeypatch)
    assert (silent["stopped"], silent["driver"]) == ("the disk does not answer", {})
    connecting = Teller(['{"step": "connecting"}']).hear(monkeypatch)
    assert connecting["stopped"] == "the Ray cluster at h:1 does not answer"
    died = Teller(['{"step": "the disk"}', None], log=["Fatal"]).hear(monkeypatch)
    assert died["stopped"] == "the disk ended it all: Fatal"
    assert "stopped" not in Teller(['{"step": "done"}', None]).hear(monkeypatch)
    heard = doctor.Queue()
    heard.put(("fact", doctor.FACT + '{"step": "connecting"}'))
    heard.put(("log", "Unauthenticated: InvalidAuthToken"))
    refused = doctor._hear(heard, "h:1", 1, 1)
    assert "asks for a token: RAY_AUTH_MODE=token is not set here" in refused["stopped"]


@pytest.mark.parametrize(
    ("script", "told"), [("sleep 60", "does not answer"), ("echo no >&2", "ended it all: no")]
)
def test_a_teller_that_hangs_or_ends_is_told_of(script, told, tmp_path, monkeypatch):
    (tmp_path / "python").write_text(f"#!/bin/sh\n{script}\n")
    (tmp_path / "python").chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    assert told in doctor.gather({"address": None}, silent=0.3)["stopped"]


def test_local_is_no_cluster_to_look_at(monkeypatch, capsys):
    with pytest.raises(UserError, match="leave --address out"):
        doctor.doctor("results", "local")
    assert main(["doctor", "--results", "nowhere://x"]) == 2
    assert "harness: " in capsys.readouterr().err


@pytest.mark.parametrize(("fault", "status"), [(None, 0), ("full", 1)])
def test_the_exit_status_says_whether_something_is_bad(fault, status, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    seen = facts(storage=stored(fault))
    monkeypatch.setattr(doctor, "gather", lambda request: seen)
    assert main(["doctor", "--json", "--address", "h:1"]) == status
    told = json.loads(capsys.readouterr().out)
    assert {finding["level"] for finding in told["findings"]} == ({"ok", "bad"} if fault else {"ok"})
    assert told["nodes"][0]["name"] == "10.0.0.4"
    assert "digest" not in json.dumps(told)


def command(*options, cwd, home, **environment):
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    return subprocess.run(
        [sys.executable, "-m", "harness", "doctor", *options],
        cwd=cwd,
        env={**kept, "HOME": str(home), "RAY_AUTH_MODE": "disabled", **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.mark.slow
def test_the_command_where_no_cluster_runs(tmp_path):
    done = command("--results", "r", cwd=tmp_path, home=tmp_path, RAY_TMPDIR=str(tmp_path))
    assert done.returncode == 0, done.stdout
    assert "no Ray cluster runs here; looked at this machine alone" in done.stdout
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_the_command_where_no_cluster_answers_looks_at_this_machine_and_starts_none(tmp_path):
    done = command("--results", "r", "--address", "127.0.0.1:9", cwd=tmp_path, home=tmp_path)
    assert done.returncode == 1, done.stderr
    assert "no Ray cluster to look at: 127.0.0.1:9" in done.stdout
    assert "written here and read back" in done.stdout
    assert done.stdout.splitlines()[-1].startswith("this machine looked at: 1 bad")
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module", params=["disabled", "token"])
def cluster(request, tmp_path_factory):
    """The address of a cluster of two nodes, its home folder, and its mode of authentication."""
    home = tmp_path_factory.mktemp("home")
    (home / ".ray").mkdir()
    (home / ".ray" / "auth_token").write_text("0123456789abcdef" * 4)
    (home / ".ray" / "auth_token").chmod(0o600)
    program = (
        "import sys\nfrom ray.cluster_utils import Cluster\n"
        "made = Cluster(initialize_head=True, head_node_args={'num_cpus': 0, 'include_dashboard': False})\n"
        "made.add_node(num_cpus=1)\nprint('address', made.address, flush=True)\nsys.stdin.read()\nmade.shutdown()\n"
    )
    environment = {**os.environ, "HOME": str(home), "RAY_AUTH_MODE": request.param}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen([sys.executable, "-c", program], env=environment, text=True, **pipes)
    try:
        address = next(line.split()[1] for line in process.stdout if line.startswith("address "))
        yield address, home, request.param
    finally:
        process.stdin.close()
        process.wait(timeout=60)
        process.stdout.close()


@pytest.mark.slow
def test_the_command_looks_at_all_nodes_of_a_cluster(cluster, tmp_path):
    address, home, mode = cluster
    options = ("--address", address, "--results", str(tmp_path / "results"), "--json")
    done = command(*options, cwd=tmp_path, home=home, RAY_AUTH_MODE=mode)
    told = json.load(io.StringIO(done.stdout))
    assert len(told["nodes"]) == 2
    assert not any(name in done.stdout for name in ("0123456789abcdef", "digest"))
    whats = {finding["what"]: finding for finding in told["findings"]}
    assert any("2 nodes and this machine read each other" in what for what in whats)
    bad = [what for what, finding in whats.items() if finding["level"] == "bad"]
    assert all("without token authentication" in what for what in bad), bad
    if mode == "token":
        assert (done.returncode, bad) == (0, [])
        assert any("the token guards" in what for what in whats)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_cluster_that_asks_for_a_token_is_named_to_one_who_has_none(cluster, tmp_path):
    address, home, mode = cluster
    done = command("--address", address, "--results", "r", cwd=tmp_path, home=home)
    if mode == "token":
        assert done.returncode == 1
        assert "asks for a token: RAY_AUTH_MODE=token is not set here" in done.stdout
        assert "written here and read back" in done.stdout
    else:
        assert "asks for a token" not in done.stdout
    assert list(tmp_path.iterdir()) == []
