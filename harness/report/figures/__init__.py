"""All figures of the page, by name, in the order in which they are shown.

A figure is one file and one line here; other packages add theirs as entry points `figure.NAME` of the group
`harness.plugins`. `harness.report.figures.figure.Figure` says what it consists of.
"""

from harness.core.registry import Registry

FIGURES = Registry(
    "figure",
    {
        "block_by_timestep": "harness.report.figures.heatmap:FIGURE",
        "over_block": "harness.report.figures.over_axis:BLOCK",
        "over_timestep": "harness.report.figures.over_axis:TIMESTEP",
        "over_pool": "harness.report.figures.over_pool:FIGURE",
        "over_parameters": "harness.report.figures.over_parameters:FIGURE",
        "finetuned": "harness.report.figures.finetuned:FIGURE",
        "transfer_accuracy": "harness.report.figures.transfer:ACCURACY",
        "transfer_ranks": "harness.report.figures.transfer:RANKS",
        "transfer_regret": "harness.report.figures.transfer:REGRET",
        "search_regret": "harness.report.figures.search_regret:FIGURE",
        "parallel": "harness.report.figures.parallel:FIGURE",
        "cka_blocks": "harness.report.figures.cka:BLOCKS",
        "cka_encoders": "harness.report.figures.cka:ENCODERS",
        "cka_timesteps": "harness.report.figures.cka:TIMESTEPS",
        "cka_over_timestep": "harness.report.figures.cka_lines:OVER_TIMESTEP",
        "cka_pools": "harness.report.figures.cka_lines:POOLS",
        "recognition_beside_generation": "harness.report.figures.generation:BESIDE",
        "samples": "harness.report.figures.generation:SAMPLES",
        "ablation": "harness.report.figures.ablation:FIGURE",
        "similarity_cases": "harness.report.figures.similarity_cases:FIGURE",
        "accuracy_by_similarity": "harness.report.figures.similarity:FIGURE",
        "similarity_range": "harness.report.figures.similarity_range:FIGURE",
        "maps": "harness.report.figures.maps:FIGURE",
    },
)
