"""The outcome of a trial as rows, and their form in a journal. `harness.core.row_store` stores them."""

import base64
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from harness.core.sealed import older, sealed, unsealed
from harness.core.tables import SCHEMA_VERSION, Role, Table, check_schema_version


@dataclass(frozen=True)
class Outcome:
    """The outcome of a trial: its rows, by table."""

    key: str
    study: str
    failed: bool
    tables: Mapping[str, list[dict[str, Any]]]

    def to_json(self) -> str:
        """Returns one line of a journal."""
        tables = {name: [_packed(row) for row in rows] for name, rows in self.tables.items()}
        return sealed(
            {
                "v": SCHEMA_VERSION,
                "key": self.key,
                "study": self.study,
                "failed": self.failed,
                "tables": tables,
            }
        )

    @staticmethod
    def from_json(line: str, where: str = "a journal") -> "Outcome":
        """Reads one line of a journal; raises `ValueError` if it is incomplete or damaged."""
        try:
            values = unsealed(line)
        except ValueError:
            check_schema_version(older(line).get("v", SCHEMA_VERSION), where)
            raise
        check_schema_version(values["v"], where)
        tables = {name: [_unpacked(row) for row in rows] for name, rows in values["tables"].items()}
        return Outcome(values["key"], values["study"], values["failed"], tables)


def with_finite_metrics(outcome: Outcome, declared: Mapping[str, Table]) -> Outcome:
    """Returns an outcome in which rows with a metric that is NaN or infinite have failed, and say so."""
    tables = {
        name: [_checked(row, declared[name]) for row in rows] if name in declared else rows
        for name, rows in outcome.tables.items()
    }
    failed = any(row.get("status") == "failed" for rows in tables.values() for row in rows)
    return replace(outcome, failed=failed or outcome.failed, tables=tables)


def _checked(row: dict[str, Any], table: Table) -> dict[str, Any]:
    bad = [
        name
        for name in table.names(Role.METRIC, Role.INTERVAL)
        if isinstance(value := row.get(name), float | np.floating) and not np.isfinite(value)
    ]
    if not bad or row.get("status") != "ok":
        return row
    error = f"FloatingPointError: {', '.join(bad)} of this result: not a finite number"
    return {**row, **dict.fromkeys(bad), "status": "failed", "error": error}


def _packed(row: Mapping[str, Any]) -> dict[str, Any]:
    """Converts NumPy numbers to Python's, NaN to null and arrays of booleans to base64."""
    packed: dict[str, Any] = {}
    for name, value in row.items():
        if isinstance(value, np.ndarray):
            bits = base64.b64encode(np.packbits(value.astype(bool)).tobytes()).decode()
            packed[name] = {"bits": bits, "n": len(value)}
        else:
            value = value.item() if isinstance(value, np.generic) else value
            packed[name] = None if isinstance(value, float) and not np.isfinite(value) else value
    return packed


def _unpacked(row: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: np.unpackbits(
            np.frombuffer(base64.b64decode(value["bits"]), np.uint8), count=value["n"]
        ).astype(bool)
        if isinstance(value, dict)
        else value
        for name, value in row.items()
    }
