"""All figures of the page, by name, in the order in which they are shown.

A figure is one file and one line here; other packages add theirs as entry points `figure.NAME` of the group
`harness.plugins`. `harness.report.figures.figure.Figure` says what it consists of.
"""

from harness.core.registry import Registry

FIGURES = Registry(
    "figure",
    {
        "block_by_timestep": "harness.report.figures.heatmap:FIGURE",
        "over_block": "harness.report.figures.over_block:FIGURE",
        "over_timestep": "harness.report.figures.over_timestep:FIGURE",
        "over_pool": "harness.report.figures.over_pool:FIGURE",
        "parallel": "harness.report.figures.parallel:FIGURE",
        "over_k": "harness.report.figures.over_k:FIGURE",
        "accuracy_by_similarity": "harness.report.figures.similarity:FIGURE",
        "similarity_range": "harness.report.figures.similarity_range:FIGURE",
    },
)
