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
    """All findings, the bad ones first, and the machines that were checked."""

    nodes: list[Facts]
    findings: list[Finding]

    @property
    def bad(self) -> bool:
        """Whether a sweep should not be started as things are."""
        return any(finding.level == "bad" for finding in self.findings)

    def summary(self) -> Facts:
        """Returns what `--json` prints."""
        return {"nodes": self.nodes, "findings": [finding._asdict() for finding in self.findings]}

    def lines(self) -> list[str]:
        """Returns the lines to print: one per finding, one per remedy, and the number of findings of each level."""
        lines = []
        for finding in self.findings:
            lines.append(f"{finding.level:<8} {finding.where}: {finding.what}")
            lines += [f"{'':<8} → {finding.remedy}"] if finding.remedy else []
        counts = [f"{sum(f.level == level for f in self.findings)} {level}" for level in LEVELS]
        seen = f"{len(self.nodes)} nodes" if len(self.nodes) > 1 else self.nodes[0]["name"]
        return [*lines, f"{seen} checked: {', '.join(counts)}"]


def doctor(results: str, address: str | None) -> Diagnosis:
    """Checks a results folder and the cluster at `address`, else the one running here, else this machine alone.

    Starts no cluster, leaves nothing behind, and ends within minutes whatever hangs. Raises `UserError`.
    """
    if address == "local":
        raise UserError(
            "--address local would start a cluster, but doctor checks a running one: omit --address"
        )
    storage = Storage(results)  # raises for invalid URLs
    facts = gather(str(storage.local or storage.url), address)
    machines = facts.get("nodes") or [facts.get("driver", {"name": HERE})]
    return Diagnosis([_shown(seen) for seen in machines], merged(diagnose(facts) + placeholders(Path.cwd())))


def _shown(machine: Facts) -> Facts:
    """Returns the facts about a machine without the token's digest."""
    token = {key: value for key, value in machine.get("token", {}).items() if key != "digest"}
    return {**machine, "token": token}


def merged(findings: list[Finding]) -> list[Finding]:
    """Returns findings sorted by level; equal findings of several machines become one. Masks credentials."""
    places: dict[tuple[Level, str, str], list[str]] = {}
    for level, where, what, remedy in findings:
        names = places.setdefault((level, _without_credentials(what), remedy), [])
        names += [where] if where not in names else []
    found = [Finding(level, some(names), what, remedy) for (level, what, remedy), names in places.items()]
    return sorted(found, key=lambda finding: LEVELS.index(finding.level))


def _without_credentials(text: str) -> str:
    return re.sub(r"\w+://\S+", lambda url: without_password(url[0]), without_secrets(text))


def placeholders(folder: Path) -> list[Finding]:
    """Returns findings on placeholders left in the cluster files of `folder`."""
    found = []
    for path in (folder / "cluster.yaml", *sorted((folder / "clusters").glob("*.yaml"))):
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []
        values = [re.sub(r"(^|\s)#.*", "", line) for line in lines]
        unset = [
            f"{word} on line {number}"
            for number, value in enumerate(values, start=1)
            for word in re.findall(r"SET-[A-Z]+", value)
        ]
        if unset:
            where, what = str(path.relative_to(folder)), f"not set: {', '.join(unset)}"
            found.append(
                Finding("warning", where, what, "replace them with your values before you use the file")
            )
    return found
