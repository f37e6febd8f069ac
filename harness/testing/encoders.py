"""The contract of an encoder: `Encoder` and `OpenEncoder` of `harness.models.encoders.encoder`.

Subclass `EncoderContract` and define the fixture `encoder`: a registered encoder with options small enough for a
test. It is given images of 16 x 16 pixels.
"""

from pathlib import Path
from typing import Any

import pytest
import torch

from harness.core.errors import UserError
from harness.core.registry import load_attribute
from harness.core.stages import Stage
from harness.models.encoders.encoder import ENCODERS, POOLED, Encoder, OpenEncoder
from harness.testing.checks import (
    assert_can_be_sent_to_a_worker,
    assert_registered,
    context_in,
    random_state_left_alone,
    seed_everything,
)

CPU = torch.device("cpu")
CLOSE: Any = {"atol": 1e-5, "rtol": 1e-4}  # differences from rounding that the batch size may cause


def made_in(folder: Path, stage: Stage) -> OpenEncoder:
    """Makes a stage in an empty results folder and returns its encoder."""
    opener = load_attribute(stage.config["opener"])
    opened: OpenEncoder = opener(context_in(folder).folder(stage))
    return opened.to(CPU)


class EncoderContract:
    """What every encoder must do. A subclass defines the fixture `encoder`."""

    @pytest.fixture
    def encoder(self) -> Encoder:
        """The encoder to test."""
        raise NotImplementedError("define the fixture `encoder`, which returns the encoder to test")

    @pytest.fixture
    def images(self) -> torch.Tensor:
        """Five colour images [5, 3, 16, 16] in [-1, 1]."""
        return torch.rand(5, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1

    @pytest.fixture
    def opened(self, encoder: Encoder, tmp_path: Path) -> OpenEncoder:
        """The encoder of the fixture, ready to run."""
        return made_in(tmp_path / "opened", encoder.stage(3))

    def test_it_is_registered(self, encoder: Encoder) -> None:
        assert isinstance(encoder, Encoder)
        assert_registered(ENCODERS, encoder)

    def test_its_values_can_be_sent_to_a_worker(self, encoder: Encoder) -> None:
        assert_can_be_sent_to_a_worker(ENCODERS, encoder)

    def test_rows_show_its_label(self, encoder: Encoder) -> None:
        assert encoder.model_copy(update={"label": "mine"}).display_name == "mine", "rows must show the label"
        unlabelled = encoder.model_copy(update={"label": None})
        assert unlabelled.display_name, "rows need a name where there is no label"

    def test_its_stage_depends_on_neither_label_nor_layers(self, encoder: Encoder) -> None:
        other = encoder.model_copy(update={"label": "other", "layers": "all"})
        assert encoder.stage(3).key == other.stage(3).key, (
            "label and layers must not be in the stage's config: the same network would be made twice"
        )

    def test_a_layer_that_is_not_there_is_refused(self, encoder: Encoder) -> None:
        with pytest.raises(UserError, match="no such layer"):
            encoder.model_copy(update={"layers": ["no such layer"]}).stage(3)

    def test_layers_end_in_the_pooled_one(self, opened: OpenEncoder, images: torch.Tensor) -> None:
        everything = opened.features(images)
        assert list(everything) == list(opened.layers), "features() must return all layers, in order"
        assert len(set(opened.layers)) == len(opened.layers)
        assert opened.layers[-1] == POOLED, f"the last layer must be {POOLED!r}"
        torch.testing.assert_close(everything[POOLED], opened.pooled(images))

    def test_features_are_one_vector_an_image(self, opened: OpenEncoder, images: torch.Tensor) -> None:
        for layer, value in (opened.features(images) | {"pooled()": opened.pooled(images)}).items():
            assert value.ndim == 2, (
                f"{layer} must be [B, D], averaged over positions, not {tuple(value.shape)}"
            )
            assert len(value) == len(images), f"{layer} must have one vector per image"
            assert value.dtype == torch.float32, f"{layer} must be float32, not {value.dtype}"
            assert torch.isfinite(value).all(), f"{layer} must be finite"

    def test_layers_can_be_asked_for(self, opened: OpenEncoder, images: torch.Tensor) -> None:
        everything = opened.features(images)
        for layer in opened.layers:
            found = opened.features(images, [layer])
            assert list(found) == [layer], "features() must return only the requested layers"
            torch.testing.assert_close(found[layer], everything[layer])

    def test_it_is_frozen_and_in_evaluation_mode(self, opened: OpenEncoder, images: torch.Tensor) -> None:
        for layer, value in opened.features(images).items():
            assert not value.requires_grad, f"{layer} must not require a gradient: encoders are frozen"
        first, again = opened.pooled(images), opened.pooled(images)
        assert torch.equal(first, again), (
            "the same images must give the same vectors: encoders are in evaluation mode"
        )

    def test_an_image_is_seen_by_itself(self, opened: OpenEncoder, images: torch.Tensor) -> None:
        together = opened.features(images)
        for layer, alone in opened.features(images[2:3]).items():
            assert torch.allclose(alone, together[layer][2:3], **CLOSE), (
                f"{layer} of an image must not depend on the rest of its batch"
            )

    def test_it_leaves_images_and_random_state_alone(self, opened: OpenEncoder, images: torch.Tensor) -> None:
        before = images.clone()
        with random_state_left_alone("an encoder"):
            opened.features(images)
            opened.pooled(images)
        assert torch.equal(images, before), "an encoder must not change the images"

    def test_it_is_made_the_same_every_time(
        self, encoder: Encoder, images: torch.Tensor, tmp_path: Path
    ) -> None:
        """Whatever the global random state: a stage's key identifies its content."""
        found = []
        for state in (0, 1):
            seed_everything(state)
            with random_state_left_alone("the stage's maker and its opener"):
                opened = made_in(tmp_path / str(state), encoder.stage(3))
            found.append(opened.pooled(images))
        assert torch.equal(*found), "making a stage twice must give the same network"

    def test_it_sees_grey_images(self, encoder: Encoder, images: torch.Tensor, tmp_path: Path) -> None:
        seeing = made_in(tmp_path / "grey", encoder.stage(1))
        for layer, value in seeing.features(images[:, :1]).items():
            assert value.ndim == 2
            assert len(value) == len(images), f"{layer} of grey images must have one vector per image"
            assert torch.isfinite(value).all()
