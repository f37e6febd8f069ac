"""All studies by name, and the tables that they fill: the only place that names them."""

from harness.core.errors import UserError
from harness.core.registry import Registry
from harness.core.study import Study
from harness.core.tables import Table

STUDIES = Registry(
    "study",
    {
        "features": "harness.features.study:STUDY",
        "cka": "harness.features.cka.study:STUDY",
        "finetune": "harness.features.finetune.study:STUDY",
        "generation": "harness.features.generation.study:STUDY",
        "weights": "harness.weights.study:STUDY",
    },
)


def study(name: str) -> Study:
    """Returns the study called `name`.

    Raises `UserError` with the closest name, or for what another package registered that is no study of that name.
    """
    found: Study = STUDIES.load(name)
    if Study not in type(found).__mro__ or getattr(found, "name", None) != name:
        raise UserError(
            f"study {name!r}: {STUDIES.where(name)} is not an object of a subclass of harness.core.study.Study whose "
            "name is that of the entry point"
        )
    return found


def studies() -> list[Study]:
    """Returns all studies in the order of registration."""
    return [study(name) for name in STUDIES.names()]


def tables() -> dict[str, Table]:
    """Returns the declared tables of all studies by name; raises `UserError` if two declare one differently."""
    found: dict[str, Table] = {}
    for one in studies():
        for table in one.tables:
            if found.setdefault(table.name, table) != table:
                raise UserError(
                    f"study {one.name!r} declares table {table.name!r} differently from another study; rename it"
                )
    return found
