"""Maps (t-SNE) of the autoencoder's latents and of the weights, all kinds of networks of a trial together."""

from harness.report.figures.figure import Absent, Drawing, Figure, View, split, succeeded
from harness.report.figures.scatter import Cloud, clouds, most_a_view, narrow, thinned, traces
from harness.report.setups import RUNS, axes, setup, telling
from harness.report.tables import Tables

SPACES = {"latents": "latent", "weights": "weight"}  # choices, and how their columns begin
PLACES = [f"{column}_{end}" for column in SPACES.values() for end in "xy"]
HOVER = "network %{customdata}"


def draw(found: list[Cloud]) -> Drawing:
    """Returns the map; its axes have no units."""
    axis = {"showticklabels": False, "ticks": "", "title": {"text": ""}}
    layout = {"height": 520, "xaxis": axis, "yaxis": axis, **thinned(found)}
    return Drawing(traces(found, HOVER), layout)


def views(tables: Tables) -> list[View] | Absent:
    """Draws one map of each space for each trial: K, subset, setup and run."""
    frame = succeeded(tables.networks)
    declared = tables.declared["weights"]
    choices = [*telling(frame, [*setup(declared), *RUNS, *axes(declared)]), "k"]
    parts = [
        ({**choice, "space": space}, rows, column)
        for choice, rows in split(narrow(frame, choices, *PLACES), choices)
        for space, column in SPACES.items()
        if rows[[f"{column}_x", f"{column}_y"]].notna().all(axis=1).any()
    ]
    if not parts:
        return Absent(
            "No network has a place on a map, which needs at least ten networks of more than one parameter."
        )
    most = most_a_view(len(parts))
    return [
        View(choice, draw(clouds(rows, f"{column}_x", f"{column}_y", most))) for choice, rows, column in parts
    ]


FIGURE = Figure(
    title="Maps of latents and of weights",
    reading="Networks drawn close together are similar, but t-SNE preserves neighbours, not distances: use the map "
    "to explore and the numbers above to judge.",
    study="weights",
    views=views,
)
