"""What a plan knows of the network of one data set: read once, before any stage is described. No torch."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from harness.core.stages import Stage
from harness.models.classifiers.networks import Outline
from harness.weights.config import WeightsConfig
from harness.weights.layout import Layout, layout_of
from harness.weights.sizes import check_models
from harness.weights.user_checkpoints import UserCheckpoints, read_user_checkpoints


class PlannedNetwork(NamedTuple):
    """The network whose checkpoints are the originals, and what was read of it."""

    settings: Mapping[str, Any]  # that build it
    outline: Outline
    layout: Layout
    start: Stage | None  # the pretrained weights from which its training starts
    user_checkpoints: UserCheckpoints | None  # instead of training it

    @property
    def whole(self) -> bool:
        """Whether all parameters vary: then each trajectory starts from a network of its own."""
        return set(self.outline.parameters) <= set(self.layout.names)


def plan_network(config: WeightsConfig, channels: int, size: int, classes: int) -> PlannedNetwork:
    """Reads what the configuration names on disk: a pretrained network, a folder of checkpoints.

    Images are [channels, size, size]. Raises `UserError` for what does not fit them, or each other.
    """
    network = config.network
    outline = network.outline(channels, size, classes)
    layout = layout_of(outline, config.parameters, network.locations(), config.buffers)
    check_models(config, layout.length)
    found = None
    if config.checkpoints.path is not None:
        least = config.checkpoint_count + config.checkpoints.held_out
        found = read_user_checkpoints(config.checkpoints, outline, layout, least)
    return PlannedNetwork(
        settings=network.settings(channels, size, classes),
        outline=outline,
        layout=layout,
        start=network.start(channels, size, classes),
        user_checkpoints=found,
    )
