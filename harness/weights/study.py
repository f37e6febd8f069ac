"""Study 2 as trials: for every k, originals, what is generated from them and the controls."""

import json
from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

from harness.core.apart import apart
from harness.core.checks import refuse_duplicates
from harness.core.config import parse, with_values
from harness.core.errors import UserError
from harness.core.stages import Trial
from harness.core.study import Study
from harness.data.dataset import Images, further
from harness.models.classifiers.networks import NETWORKS
from harness.models.generators.edition import AUTOENCODERS
from harness.weights.config import WeightsConfig
from harness.weights.controls import CONTROLS
from harness.weights.layout import layout_of, lines
from harness.weights.planned_network import plan_network
from harness.weights.stages import Stages
from harness.weights.tables import CORRECTNESS, WEIGHTS
from harness.weights.tables import NETWORKS as NETWORKS_TABLE

EXPORTERS = {"networks": "write_best", "more networks": "write_more"}
AXES = ("k", "subsets", "generators", "seeds", "also", "vary")  # swept without `vary`


class Weights(Study):
    """Can a diffusion model write network weights, and are they new or copies?"""

    name = "weights"
    Config = WeightsConfig
    tables = (WEIGHTS, NETWORKS_TABLE, CORRECTNESS)
    registries = (NETWORKS, CONTROLS, AUTOENCODERS)
    loaders = {"networks.json": "harness.weights.exported:load"}

    def trials(self, config: WeightsConfig, images: Images, seed: int) -> list[Trial]:
        """Returns a trial for each data set, seed, variation, k, subset and run of the generator.

        Raises `UserError` for values that are invalid or do not fit the data.
        """
        found: list[Trial] = []
        for varied, one in variations(config):
            check(one)
            for each in [images, *further(images, one.also, seed, "weights.also")]:
                if each.dataset.multilabel:
                    raise UserError(
                        f"weights: data set {each.config.display_name} is multi-label, but this study's networks are "
                        "classifiers of one label an image; choose another data set"
                    )
                each.dataset.labelled(each.config.labels_per_class)
                channels, size = each.dataset.images.shape[1:3]
                planned = plan_network(one, channels, size, len(each.dataset.classes))
                for number in config.seeds or [seed]:
                    stages = Stages(one, each, planned, number, varied)
                    found += [
                        stages.trial(k, subset, generator)
                        for k in one.k
                        for subset in one.subsets
                        for generator in range(one.generators)
                    ]
        return found

    def exporter(self, trial: Trial, kind: str) -> str | None:
        """Returns the function that exports a trial's generated networks, "module:function"."""
        return f"harness.weights.export:{EXPORTERS[kind]}" if kind in EXPORTERS else None

    def describe(self, config: WeightsConfig, size: int, channels: int) -> list[str]:
        """Returns lines about the network for such images: which parameters vary, and what precedes them."""
        found: list[str] = []
        for varied, one in variations(config):
            outline = one.network.outline(channels, size, 10)
            layout = layout_of(outline, one.parameters, one.network.locations(), one.buffers)
            settings = one.network.settings(channels, size, 10)
            before, total = apart("harness.weights.evaluate:share_before", settings, layout.names)
            found += [
                f"network {one.network.name}, images of {size} pixels and {channels} channels, 10 classes"
                + (f" ({_text(varied)})" if varied else ""),
                *lines(outline, layout, one.network.locations()),
                f"cost {total / 1e6:,.1f} million multiply-accumulates an image; {before:.1%} of them precede "
                "the first varied parameter and are computed once for all networks",
            ]
        return found


def variations(config: WeightsConfig) -> list[tuple[dict[str, Any], WeightsConfig]]:
    """Returns every combination of what `vary` sets, values by path, with the configuration that follows from it.

    Raises `UserError` for a path or a value that is not allowed.
    """
    for path in config.vary:
        if path.split(".")[0] in AXES:
            raise UserError(f"weights.vary: {path} is swept by itself: give weights.{path} a list")
    given = {name: value for name, value in config.given.items() if name != "vary"}
    found = []
    for values in product(*config.vary.values()):
        varied = dict(zip(config.vary, values, strict=True))
        one = (
            parse(WeightsConfig, with_values(given, varied, "weights.vary"), "weights.vary")
            if varied
            else config
        )
        found.append((varied, one))
    return found


def _text(varied: Mapping[str, Any]) -> str:
    return ", ".join(f"{path} = {json.dumps(value)}" for path, value in varied.items())


def check(config: WeightsConfig) -> None:
    """Raises `UserError` naming the value that is out of range."""
    size = config.checkpoint_count
    for k in config.k:
        if k < 1:
            raise UserError(f"weights.k: {k} is less than 1, the smallest number of originals")
        if k > size:
            raise UserError(
                f"weights.k: {k} is not between 1 and {size}, the number of checkpoints (weights.checkpoints.size)"
            )
    given: dict[str, Sequence[Any]] = {
        "k": config.k,
        "subsets": config.subsets,
        "seeds": config.seeds or [],
        "parameters": config.parameters,
        "controls": [control.name for control in config.controls],
    }
    for what, values in given.items():
        refuse_duplicates(values, f"weights.{what}")


STUDY = Weights()
