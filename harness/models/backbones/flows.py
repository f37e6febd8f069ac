"""What families ask of a scheduler whose networks predict the velocity of a flow. No torch."""

from pathlib import Path

from harness.core.errors import UserError
from harness.models.noise_processes.flow_matching import FlowMatching
from harness.models.noise_processes.process import NoiseProcess

TIMESTEPS = 1000  # of published schedulers: networks that are told σ get their time by this


def check_flow(
    found: NoiseProcess, network: str, path: Path, told: bool = False, dynamic: bool = True
) -> FlowMatching:
    """Returns the process if it is a flow; raises `UserError`, beginning with `path`, if not.

    `told`: the class `network` is told σ, which takes 1000 timesteps. `dynamic`: its pipeline can shift a sampler's
    steps by the number of tokens.
    """
    if not isinstance(found, FlowMatching) or (told and found.timesteps != TIMESTEPS):
        count = f" with num_train_timesteps = {TIMESTEPS}" if told else ""
        raise UserError(
            f"{path}: a {network} needs a scheduler of flow matching{count}; give that of its pipeline, or "
            "backbone.schedule=flow"
        )
    if not dynamic and found.config.get("use_dynamic_shifting"):
        raise UserError(
            f"{path}: its scheduler has use_dynamic_shifting = true, which is not supported for a {network}; "
            "give one with a constant shift"
        )
    return found
