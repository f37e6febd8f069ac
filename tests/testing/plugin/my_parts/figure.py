"""The best accuracy of each head."""

from harness.report.figures.figure import Absent, Drawing, Figure, View, percentages, succeeded
from harness.report.words import label


def views(tables):
    """Draws a bar a head."""
    best = succeeded(tables.features).groupby("head")["validation_accuracy"].max().dropna()
    if not len(best):
        return Absent("No head has a validation accuracy.")
    bars = {"type": "bar", "x": [label(name) for name in best.index], "y": percentages(best)}
    return [View({}, Drawing([bars], {"yaxis": {"title": {"text": "Validation accuracy (%)"}}}))]


FIGURE = Figure(
    title="The best of each head",
    reading="A bar is the best validation accuracy of a head, over all settings.",
    study="features",
    views=views,
)
