"""Writes the embedding of a prompt to a file, for machines that should not hold the text encoders."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from harness.core.config import parse
from harness.core.errors import UserError
from harness.models.backbones.condition import NAME, NETWORK
from harness.models.backbones.family import family_of, network_folders, read_network
from harness.models.backbones.pretrained import PretrainedBackbone


def embed(values: Mapping[str, Any], to: str) -> list[str]:
    """Writes the condition of a `PretrainedBackbone` with these settings to the new file `to`; returns lines.

    The pipeline needs its text encoders, tokenizers and the network's config.json, no further weights. Raises
    `UserError` for a network that reads no prompt, and for a file that exists.
    """
    file = Path(to).expanduser()
    if file.exists():
        raise UserError(f"--to {to}: exists already; give a new file")
    if file.suffix != ".safetensors":
        raise UserError(f"--to {to}: expected a name that ends in .safetensors")
    backbone = parse(PretrainedBackbone, dict(values), "embed-prompt")
    source = backbone.source().pipeline
    config = read_network(source.network(network_folders()))
    family = family_of(config)
    if "embeddings" not in family.conditions:
        raise UserError(
            f"{backbone.path}: a {family.class_name} reads no prompt, so there is nothing to embed"
        )
    plan = family.condition(source, config, backbone)
    assert plan is not None
    tensors = family.make_condition(source, config, plan.settings)
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, file, {NETWORK: family.class_name, NAME: plan.name})
    shapes = ", ".join(f"{name} {list(one.shape)}" for name, one in tensors.items())
    return [
        f"wrote {file}: {plan.name} for a {family.class_name}: {shapes}",
        f"use it: backbone.embeddings={file}",
    ]
