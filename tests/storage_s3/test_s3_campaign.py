"""The fault campaign on S3: drivers are killed, objects damaged; the same command ends in the same tables."""

import os
import random
import re
import shutil
import time

import pytest
from s3_sweeps import assert_equal, finish, rows, start, write_small

from harness.core.storage import Storage

pytestmark = [pytest.mark.campaign, pytest.mark.timeout(2 * 3600)]
SECONDS = 0.15 * float(os.environ.get("HARNESS_CAMPAIGN_SECONDS", "180"))
SEED = int(os.environ.get("HARNESS_CAMPAIGN_SEED", "0"))


def damage(client, bucket, names, draw):
    """Does something to an object; returns what."""
    name = draw.choice(names)
    content = client.get_object(Bucket=bucket, Key=name)["Body"].read()
    how = draw.choice(["flip", "cut", "swap", "delete"]) if content else "delete"
    if how == "delete":
        client.delete_object(Bucket=bucket, Key=name)
        return f"delete {name}"
    place = draw.randrange(len(content))
    if how == "swap":
        content = client.get_object(Bucket=bucket, Key=draw.choice(names))["Body"].read()
    elif how == "cut":
        content = content[:place]
    else:
        content = content[:place] + bytes([content[place] ^ 1 << draw.randrange(8)]) + content[place + 1 :]
    client.put_object(Bucket=bucket, Key=name, Body=content)
    return f"{how} {name}"


def objects(client, bucket, prefix):
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
    found = [one["Key"] for page in pages for one in page.get("Contents", [])]
    return [name for name in found if not name.endswith((".html", "/")) and ".leases" not in name]


def recover(experiment, storage, what):
    """Runs the same command until it succeeds; removes what its line asks to be removed."""
    for _ in range(6):
        status, said, complained = finish(start(experiment, storage.url, "--debug"))
        assert "Traceback" not in re.sub(r"failed: .*", "", said + complained), (what, complained)
        if status == 0:
            return
        found = re.search(rf"harness: {re.escape(storage.url)}/(\S+?):? .*remove", complained)
        assert found, (what, complained)
        storage.remove(found[1])
    raise AssertionError((what, complained))


def test_objects_that_are_damaged_and_drivers_that_are_killed(client, url, environment, tmp_path):
    draw = random.Random(SEED)
    experiment = write_small(tmp_path)
    calm = Storage(str(tmp_path / "calm"))
    began = time.monotonic()
    assert finish(start(experiment, calm.url, "--debug"))[0] == 0
    whole = time.monotonic() - began
    bucket, prefix = url.removeprefix("s3://").split("/")
    end, number = time.monotonic() + SECONDS, 0
    while number == 0 or time.monotonic() < end:
        number += 1
        storage = Storage(f"{url}/{number}")
        with start(experiment, storage.url, "--debug") as driver:
            time.sleep(draw.uniform(0.3 * whole, 1.3 * whole))
            driver.kill()
        names = objects(client, bucket, f"{prefix}/{number}/")
        hit = [damage(client, bucket, names, draw) for _ in range(draw.choice([0, 1, 2]) if names else 0)]
        if draw.random() < 0.7:  # what this machine has copied would hide the damage
            shutil.rmtree(environment["HARNESS_CACHE"], ignore_errors=True)
        recover(experiment, storage, ["kill", *hit])
        assert_equal(rows(storage), rows(calm))
