"""A fault campaign: whatever is done to a sweep or to its files, no table is wrong and no traceback is shown.

`pytest -m campaign` runs for three minutes; HARNESS_CAMPAIGN_SECONDS=3600 for an hour, HARNESS_CAMPAIGN_SEED another
course, HARNESS_CAMPAIGN_LOG=FILE writes one JSON line per fault. After each fault the same command runs again.
"""

import copy
import importlib
import json
import os
import pkgutil
import random
import re
import shutil
import signal
import subprocess
import sys
import time
import traceback
from collections import Counter
from functools import partial
from pathlib import Path
from statistics import median

import diffusers
import pytest
import yaml
from disturbed import sweeping, wait_for
from tables import rows
from tiny import TINY

import harness
from harness.cli import main

pytestmark = [pytest.mark.campaign, pytest.mark.timeout(2 * 3600)]
SECONDS = float(os.environ.get("HARNESS_CAMPAIGN_SECONDS", "180"))
SEED = int(os.environ.get("HARNESS_CAMPAIGN_SEED", "0"))
LOG = os.environ.get("HARNESS_CAMPAIGN_LOG")
SHARES = {"files": 0.35, "processes": 0.35, "disks": 0.1, "ray": 0.2}  # of the time


def write_small(folder, **train):
    values = copy.deepcopy(TINY)
    values["features"] |= {"blocks": [2, 7], "timesteps": [0], "pools": [1, 2]}
    values["features"]["train"] |= {"steps": 12, "checkpoint_every": 3, **train}
    values["weights"] |= {"k": [4], "generate": 3, "sampling_steps": 5, "controls": ["noise"]}
    values["weights"]["train"] |= {"steps": 12, "checkpoint_every": 3, **train}
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


class Child:
    """The command line in a process of its own, forked with all libraries loaded."""

    def __init__(self, log, *arguments, prepare=lambda: None):
        self.log_file = log
        self.pid = os.fork()
        if not self.pid:
            self._run(arguments, prepare)

    def _run(self, arguments, prepare):
        status = 99
        try:
            with self.log_file.open("w") as log:
                os.dup2(log.fileno(), 1)
                os.dup2(log.fileno(), 2)
            sys.stdout, sys.stderr = open(1, "w", buffering=1), open(2, "w", buffering=1)  # noqa: SIM115
            prepare()
            status = main([str(one) for one in arguments])
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            os._exit(status)

    def end(self):
        """Waits; returns the exit status, negative for a signal."""
        _, status = os.waitpid(self.pid, 0)
        return os.waitstatus_to_exitcode(status)

    def kill(self, number=signal.SIGKILL):
        os.kill(self.pid, number)

    @property
    def log(self):
        return self.log_file.read_text(errors="replace")


class Campaign:
    """Counts faults and judges what follows them."""

    def __init__(self, folder, calm):
        self.folder, self.calm = folder, calm
        self.draw = random.Random(SEED)
        self.faults, self.wrong, self.tracebacks, self.lost = Counter(), [], [], []

    def fresh(self, finished=False):
        """Returns an empty folder for results, or one with the finished results."""
        place = self.folder / "results"
        shutil.rmtree(place, ignore_errors=True)
        if finished:
            shutil.copytree(self.calm, place)
        return place

    def run(self, command, results, *options, prepare=lambda: None):
        arguments = (command, self.folder / "tiny.yaml", "--results", results, *options)
        child = Child(self.folder / "log", *arguments, prepare=prepare)
        status = child.end()
        if "Traceback" in re.sub(r"failed: .*", "", child.log):
            self.tracebacks.append(child.log[-2000:])
        return status, child.log

    def fault(self, what, **more):
        self.faults[what] += 1
        if LOG:
            with open(LOG, "a") as file:
                file.write(json.dumps({"fault": what, **more}) + "\n")

    def recover(self, what, results, *options):
        """Runs the same command until it succeeds; removes what its line asks to be removed."""
        for _ in range(6):
            status, said = self.run("sweep", results, *(options or ("--debug",)))
            if status == 0:
                break
            line = next((one for one in said.splitlines()[::-1] if one.startswith("harness: ")), "")
            found = re.search(r"harness: (\S+?):? .*(?:restore or remove it|remove)", line)
            if not found or not Path(found[1].rstrip(":")).exists():
                self.wrong.append(f"{what}: {status} {said[-1500:]}")
                return
            path = Path(found[1].rstrip(":"))
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        found, expected = rows(results), rows(self.calm)
        for name, table in expected.items():
            if not found[name].equals(table):
                self.wrong.append(f"{what}: table {name} is another")


def damage(path, how, draw, others):
    """Does something to a file; returns what."""
    content = path.read_bytes()
    if how == "delete" or not content:
        path.unlink()
    elif how == "cut":
        path.write_bytes(content[: draw.randrange(len(content))])
    elif how == "duplicate":
        path.write_bytes(draw.choice(others).read_bytes())
    elif how == "repeat":
        path.write_bytes(content + content)
    else:
        place = draw.randrange(len(content))
        path.write_bytes(
            content[:place] + bytes([content[place] ^ 1 << draw.randrange(8)]) + content[place + 1 :]
        )


def stored(results):
    """Returns the files that a sweep reads again, locks left out."""
    return [
        path
        for path in sorted(results.rglob("*"))
        if path.is_file() and path.suffix not in (".lock", ".html")
    ]


@pytest.fixture(scope="module")
def calm(tmp_path_factory):
    """The results of the small experiment, undisturbed, made in one process."""
    for module in pkgutil.walk_packages(harness.__path__, "harness."):  # once, and not in every child
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    diffusers.UNet2DModel  # noqa: B018  (imported when it is first named)
    folder = tmp_path_factory.mktemp("campaign-calm")
    experiment = write_small(folder)
    with sweeping(folder, experiment, "--debug") as sweep:
        assert sweep.end() == 0, sweep.log
    return sweep.results


@pytest.fixture
def campaign(tmp_path, calm, record_property):
    write_small(tmp_path)
    found = Campaign(tmp_path, calm)
    yield found
    record_property("faults", dict(found.faults))
    if LOG:
        with open(LOG, "a") as file:
            summary = {
                "faults": dict(found.faults),
                "wrong": len(found.wrong),
                "tracebacks": len(found.tracebacks),
            }
            lost = (
                {"median": round(median(found.lost), 2), "worst": round(max(found.lost), 2)}
                if found.lost
                else {}
            )
            file.write(json.dumps({**summary, "seconds_lost_per_kill": lost}) + "\n")
    assert found.faults
    assert not found.wrong, found.wrong[:3]
    assert not found.tracebacks, found.tracebacks[:3]


def until(share):
    end = time.monotonic() + SECONDS * SHARES[share]
    while time.monotonic() < end:
        yield


def test_files_that_are_damaged_between_runs(campaign):
    draw = campaign.draw
    for _ in until("files"):
        results = campaign.fresh(finished=True)
        files = stored(results)
        hit = []
        for path in draw.sample(files, draw.choice([1, 1, 1, 2, 5])):
            how = draw.choice(["flip", "flip", "cut", "duplicate", "repeat", "delete"])
            damage(path, how, draw, files)
            hit.append(f"{how} {path.relative_to(results)}")
            campaign.fault(how, file=str(path.relative_to(results)))
        command = draw.choice(["sweep", "report", "export", "generate"])
        if command == "report":
            campaign.run("report", results)
        elif command != "sweep":
            target = campaign.folder / "exported"
            shutil.rmtree(target, ignore_errors=True)
            networks = ("--networks", "2") if command == "generate" else ()
            status, _ = campaign.run(command, results, "--to", target, *networks)
            assert target.exists() == (status == 0), hit
        campaign.recover("; ".join(hit), results)


def jumping():
    """Moves the clock by hours, back and forth."""
    true, draw = time.time, random.Random(1)
    time.time = lambda: true() + 3600 * draw.choice([0, 5, -7, 30, -1])


def test_processes_that_are_killed_frozen_or_misled(campaign):
    draw = campaign.draw
    whole = 6.0
    for _ in until("processes"):
        results = campaign.fresh()
        what = draw.choice(["kill", "kill", "kill twice", "freeze", "clock", "kill export"])
        arguments = ("sweep", campaign.folder / "tiny.yaml", "--results", results, "--debug")
        if what == "kill export":
            results = campaign.fresh(finished=True)
            target = campaign.folder / "exported"
            shutil.rmtree(target, ignore_errors=True)
            arguments = ("export", campaign.folder / "tiny.yaml", "--results", results, "--to", target)
        campaign.fault(what)
        began = time.monotonic()
        prepare = jumping if what == "clock" else lambda: None
        child = Child(campaign.folder / "log", *arguments, prepare=prepare)
        if what == "freeze":
            for _ in range(3):
                time.sleep(draw.uniform(0.1, 1.0))
                child.kill(signal.SIGSTOP)
                time.sleep(0.3)
                child.kill(signal.SIGCONT)
        elif what != "clock":
            time.sleep(draw.uniform(0.05, 1.0 if what == "kill export" else whole))
            child.kill()
            newest = max((path.stat().st_mtime for path in stored(results)), default=time.time())
            campaign.lost.append(min(time.monotonic() - began, max(0.0, time.time() - newest)))
        status = child.end()
        assert what not in ("freeze", "clock") or status == 0, child.log
        if status == 0 and what != "kill export":
            whole = 0.7 * whole + 0.3 * (time.monotonic() - began)
        if what == "kill twice":
            child = Child(campaign.folder / "log", *arguments)
            time.sleep(draw.uniform(0.05, whole))
            child.kill()
            child.end()
        if what == "kill export":
            shutil.rmtree(target, ignore_errors=True)
            assert campaign.run("export", results, "--to", target)[0] == 0
            assert not list(campaign.folder.glob(".exported*"))
        campaign.recover(what, results)
        assert list((results / "artifacts" / ".scratch").iterdir()) == []


@pytest.fixture
def disk(tmp_path):
    """A small disk for results; skips where nobody may mount one."""
    place = tmp_path / "results"
    place.mkdir()
    if os.geteuid() or subprocess.run(mounting(place, "size=64m"), capture_output=True).returncode:
        pytest.skip("no rights to mount a disk")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def mounting(place, options):
    return ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)]


def test_disks_without_space_or_inodes(disk, campaign):
    draw = campaign.draw
    for _ in until("disks"):
        for path in disk.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        what = draw.choice(["full disk", "no inodes"])
        size, inodes = draw.randrange(100, 1500), draw.randrange(10, 200)
        options = f"size={size}k" if what == "full disk" else f"nr_inodes={inodes}"
        subprocess.run(["mount", "-o", f"remount,{options}", str(disk)], check=True)
        campaign.fault(what, options=options)
        status, said = campaign.run("sweep", disk, "--debug")
        assert status in (0, 1), said
        assert status == 0 or "No space left on device" in said
        subprocess.run(["mount", "-o", "remount,size=64m,nr_inodes=100000", str(disk)], check=True)
        campaign.recover(what, disk)


def test_ray_s_driver_workers_and_controller(campaign):
    draw = campaign.draw
    victims = draw.sample(["TrainController", "driver", "worker"], 3)
    experiment = write_small(campaign.folder, workers=1)
    for number, _ in enumerate(until("ray")):
        results = campaign.fresh()
        victim = victims[number % 3]
        campaign.fault(f"kill {victim}")
        with sweeping(campaign.folder, experiment, "--address", "local") as sweep:
            title = b"ray::TrainController" if victim == "TrainController" else b"ray::"
            wait_for(partial(begun, sweep, results if victim == "driver" else title))
            time.sleep(draw.uniform(0, 10 if victim == "driver" else 3))
            for pid in [sweep.process.pid] if victim == "driver" else processes(sweep, title)[:1]:
                os.kill(pid, signal.SIGKILL)
            if victim == "driver":
                sweep.process.wait()
            else:
                sweep.end()
            if "Traceback" in re.sub(r"failed: .*", "", sweep.log):
                campaign.tracebacks.append(sweep.log[-2000:])
        campaign.recover(f"kill {victim}", results)


def begun(sweep, what):
    """Returns whether there is an artifact in a folder, or a process of a title; or whether the sweep has ended."""
    there = (
        processes(sweep, what) if isinstance(what, bytes) else any(what.glob("artifacts/*/*/manifest.json"))
    )
    return not sweep.running or there


def processes(sweep, title):
    """Returns the processes of a sweep that run Ray's tasks and actors of this title."""
    idle = ("IDLE", "Agent", "Queue", "Cleaner")
    return [
        pid
        for pid, line in sweep.left_behind().items()
        if line.encode().startswith(title) and not any(name in line for name in idle)
    ]
