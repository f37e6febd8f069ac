"""The diagnosis that the command line prints."""

import re
from pathlib import Path
from typing import NamedTuple

from harness.core.errors import UserError, without_secrets
from harness.core.storage import Storage, without_password
from harness.sweep.doctor.findings import HERE, Finding, Level, diagnose, some
from harness.sweep.doctor.gather import gather
from harness.sweep.doctor.machine import Facts

LEVELS: tuple[Level, ...] = ("bad", "warning", "ok")


class Diagnosis(NamedTuple):
    """All findings, the bad ones first, and the machines that were looked at."""

    nodes: list[Facts]
    findings: list[Finding]

    @property
    def bad(self) -> bool:
        """Says whether a sweep should not be started like this."""
        return any(finding.level == "bad" for finding in self.findings)

    def summary(self) -> Facts:
        """Returns what `--json` prints."""
        return {"nodes": self.nodes, "findings": [finding._asdict() for finding in self.findings]}

    def lines(self) -> list[str]:
        """Returns what people read: a line a finding, a line a remedy, and the count of each level."""
        lines = []
        for finding in self.findings:
            lines.append(f"{finding.level:<8} {finding.where}: {finding.what}")
            lines += [f"{'':<8} → {finding.remedy}"] if finding.remedy else []
        counts = [f"{sum(f.level == level for f in self.findings)} {level}" for level in LEVELS]
        seen = f"{len(self.nodes)} nodes" if len(self.nodes) > 1 else self.nodes[0]["name"]
        return [*lines, f"{seen} looked at: {', '.join(counts)}"]


def doctor(results: str, address: str | None) -> Diagnosis:
    """Looks at a results folder and the cluster at `address`, or the one that runs here, or this machine alone.

    Starts no cluster, leaves nothing behind, and ends in minutes whatever hangs. Raises `UserError`.
    """
    if address == "local":
        raise UserError("--address local starts a cluster; doctor needs one that runs: leave --address out")
    storage = Storage(results)  # bad URLs end here
    facts = gather(str(storage.local or storage.url), address)
    machines = facts.get("nodes") or [facts.get("driver", {"name": HERE})]
    return Diagnosis([_shown(seen) for seen in machines], merged(diagnose(facts) + placeholders(Path.cwd())))


def _shown(machine: Facts) -> Facts:
    """Returns the facts of a machine without the token's digest."""
    token = {key: value for key, value in machine.get("token", {}).items() if key != "digest"}
    return {**machine, "token": token}


def merged(findings: list[Finding]) -> list[Finding]:
    """Returns findings by level; those that say the same of several machines become one. Hides credentials."""
    places: dict[tuple[Level, str, str], list[str]] = {}
    for level, where, what, remedy in findings:
        names = places.setdefault((level, _without_credentials(what), remedy), [])
        names += [where] if where not in names else []
    found = [Finding(level, some(names), what, remedy) for (level, what, remedy), names in places.items()]
    return sorted(found, key=lambda finding: LEVELS.index(finding.level))


def _without_credentials(text: str) -> str:
    return re.sub(r"\w+://\S+", lambda url: without_password(url[0]), without_secrets(text))


def placeholders(folder: Path) -> list[Finding]:
    """Returns the values that nobody set in the cluster files of `folder`."""
    found = []
    for path in (folder / "cluster.yaml", *sorted((folder / "clusters").glob("*.yaml"))):
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []
        values = [re.sub(r"(^|\s)#.*", "", line) for line in lines]
        unset = [
            f"{word} in line {number}"
            for number, value in enumerate(values, start=1)
            for word in re.findall(r"SET-[A-Z]+", value)
        ]
        if unset:
            where, what = str(path.relative_to(folder)), f"not set: {', '.join(unset)}"
            found.append(Finding("warning", where, what, "write your values there before you use it"))
    return found
