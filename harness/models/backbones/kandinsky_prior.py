"""The prior of Kandinsky 2.2, opened from the folder of a combined pipeline."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import KandinskyV22PriorPipeline, PriorTransformer, UnCLIPScheduler
from transformers import (
    CLIPImageProcessor,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    CLIPVisionModelWithProjection,
)

from harness.core.config import read_json
from harness.core.errors import UserError
from harness.models.backbones.checkpoint import check_tensors
from harness.models.backbones.family import open_weights
from harness.models.backbones.pipeline import CONFIG, WEIGHTS
from harness.models.backbones.text_encoders import open_encoder
from harness.models.finite import refuse_infinite_weights

TRANSFORMER = "diffusers:PriorTransformer"
KINDS: dict[str, Any] = {
    "prior_image_encoder": CLIPVisionModelWithProjection,
    "prior_prior": PriorTransformer,
    "prior_text_encoder": CLIPTextModelWithProjection,
    "prior_tokenizer": CLIPTokenizer,
    "prior_scheduler": UnCLIPScheduler,
    "prior_image_processor": CLIPImageProcessor,
}


def check(root: str, names: Sequence[str], width: int) -> None:
    """Raises `UserError` unless all weights are complete and images' embeddings have `width`; reads shapes alone.

    Plans run this in another process, so arguments are JSON.
    """
    for name in names:
        folder = Path(root) / name
        if name == "prior_prior":
            path = folder / WEIGHTS
            if not path.is_file():
                raise UserError(f"{path}: no such file; save the model with safe_serialization=True")
            check_tensors([str(path)], TRANSFORMER, read_json(folder / CONFIG))
        elif name.endswith("encoder"):
            encoder = open_encoder(KINDS[name], folder, device_map="meta")
            if name == "prior_image_encoder" and encoder.config.projection_dim != width:
                raise UserError(
                    f"{folder / CONFIG}: projection_dim = {encoder.config.projection_dim}, but the network expects "
                    f"embeddings of width {width}"
                )


def open_prior(root: Path, names: Sequence[str]) -> KandinskyV22PriorPipeline:
    """Returns the prior's pipeline with those of its parts that `names` lists, in float32."""
    parts = {name: _open(name, root / name) for name in names}
    pipeline = KandinskyV22PriorPipeline(
        **{name.removeprefix("prior_"): parts.get(name) for name in KINDS},
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def _open(name: str, folder: Path) -> Any:
    if name == "prior_prior":
        opened = open_weights(TRANSFORMER, folder).eval()
    elif name.endswith("encoder"):
        opened = open_encoder(KINDS[name], folder, dtype=torch.float32).eval()
    else:
        return KINDS[name].from_pretrained(folder, local_files_only=True)
    refuse_infinite_weights(opened.state_dict(), str(folder))
    return opened
