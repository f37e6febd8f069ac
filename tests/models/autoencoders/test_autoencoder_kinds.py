"""Kinds of autoencoders encode and decode as diffusers' own pipelines do, or the autoencoder's own forward pass."""

import json

import pytest
import torch
from diffusers import (
    AutoencoderRAE,
    AutoencoderTiny,
    DDIMScheduler,
    DiTTransformer2DModel,
    StableDiffusionImg2ImgPipeline,
)
from tiny_language import tiny_dc
from tiny_models import PIXELS, save_dit, save_stable_diffusion

from harness.core.errors import UserError
from harness.models.autoencoders.autoencoder import AUTOENCODERS, autoencoder_of
from harness.models.backbones.denoiser import Denoiser
from harness.models.backbones.pretrained import PretrainedBackbone
from harness.testing.backbones import open_copy


@pytest.fixture
def images():
    """Images in [-1, 1]."""
    return torch.rand(2, 3, PIXELS, PIXELS, generator=torch.Generator().manual_seed(3)) * 2 - 1


def tiny_taesd(**settings):
    """Returns an `AutoencoderTiny` that halves images once."""
    torch.manual_seed(0)
    return AutoencoderTiny(
        encoder_block_out_channels=(8, 8),
        decoder_block_out_channels=(8, 8),
        num_encoder_blocks=(1, 1),
        num_decoder_blocks=(1, 1),
        **settings,
    ).eval()


def tiny_rae(**settings):
    """Returns an `AutoencoderRAE` of 2 × 2 tokens, for images of 16 pixels."""
    torch.manual_seed(0)
    return AutoencoderRAE(
        **{
            "encoder_hidden_size": 64,
            "encoder_num_hidden_layers": 1,
            "encoder_input_size": 28,
            "decoder_hidden_size": 16,
            "decoder_num_hidden_layers": 1,
            "decoder_num_attention_heads": 2,
            "decoder_intermediate_size": 16,
            "patch_size": 8,
            "latents_mean": torch.full((64, 1, 1), 0.3),
            "latents_std": torch.full((64, 1, 1), 2.0),
            "scaling_factor": 1.7,
            "noise_tau": 0.5,
            **settings,
        }
    ).eval()


def kind_of(autoencoder):
    """Returns the kind of an opened autoencoder, and its configuration as a file has it."""
    config = json.loads(autoencoder.to_json_string())
    return autoencoder_of(config), autoencoder_of(config).read(config, "config.json")


@pytest.mark.slow
def test_a_pipeline_with_taesd_encodes_and_decodes_as_it_does_itself(tmp_path, images):
    save_stable_diffusion(tmp_path / "sd")
    pipeline = StableDiffusionImg2ImgPipeline.from_pretrained(
        tmp_path / "sd",
        vae=tiny_taesd(scaling_factor=0.7),
        scheduler=DDIMScheduler(num_train_timesteps=100, steps_offset=1, clip_sample=False),
        low_cpu_mem_usage=False,
    )
    pipeline.save_pretrained(tmp_path / "taesd")
    plan = PretrainedBackbone(path=str(tmp_path / "taesd")).plan(PIXELS, 3)
    assert plan.latents.kind == "AutoencoderTiny"
    denoiser: Denoiser = open_copy(plan, tmp_path / "opened")
    z = denoiser.encode(images)
    timestep = torch.tensor([50])
    own = pipeline.prepare_latents(
        images, timestep, 2, 1, torch.float32, "cpu", torch.Generator().manual_seed(5)
    )
    epsilon = torch.randn(z.shape, generator=torch.Generator().manual_seed(5))
    torch.testing.assert_close(denoiser.noised(z, epsilon, timestep.expand(2)), own)
    with torch.no_grad():
        decoded = pipeline.vae.decode(z / pipeline.vae.config.scaling_factor).sample
    torch.testing.assert_close(denoiser.decode(z), decoded)


@pytest.mark.parametrize("make", [tiny_dc, tiny_taesd, tiny_rae])
def test_channels_and_factor_are_those_of_its_latents(make, images):
    autoencoder = make()
    kind, config = kind_of(autoencoder)
    with torch.no_grad():
        z = kind.encode(autoencoder, images)
        back = kind.decode(autoencoder, z)
    assert z.shape == (2, kind.channels(config), *(PIXELS // kind.factor(config),) * 2)
    assert kind.map_size(config) in (None, z.shape[-1])
    assert back.shape == images.shape
    assert kind.image_channels(config) == 3


def test_a_representation_autoencoder_reads_and_writes_images_from_0_to_1(images):
    autoencoder = tiny_rae()
    kind, _ = kind_of(autoencoder)
    with torch.no_grad():
        own = autoencoder(images / 2 + 0.5).sample
        found = kind.decode(autoencoder, kind.encode(autoencoder, images))
    torch.testing.assert_close(found / 2 + 0.5, own)


@pytest.mark.slow
def test_a_network_over_the_tokens_of_a_representation_autoencoder_is_read(tmp_path, images):
    save_dit(tmp_path)
    tiny_rae().save_pretrained(tmp_path / "vae")
    network = DiTTransformer2DModel(
        num_attention_heads=1,
        attention_head_dim=8,
        in_channels=64,
        out_channels=64,
        num_layers=2,
        sample_size=2,
        patch_size=1,
    )
    network.save_pretrained(tmp_path / "transformer")
    plan = PretrainedBackbone(path=str(tmp_path)).plan(PIXELS, 3)
    assert (plan.size, plan.latents.kind) == (2, "AutoencoderRAE")
    denoiser = open_copy(plan, tmp_path / "opened")
    with torch.no_grad():
        z = denoiser.encode(images)
        own = AutoencoderRAE.from_pretrained(tmp_path / "vae").eval().encode(images / 2 + 0.5).latent
    torch.testing.assert_close(z, own)
    path = tmp_path / "transformer" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"sample_size": 4}))
    with pytest.raises(UserError, match="latents have 2 rows, but the DiTTransformer2DModel reads 4"):
        PretrainedBackbone(path=str(tmp_path)).plan(32, 3)


@pytest.mark.parametrize(
    ("name", "values", "words"),
    [
        ("AutoencoderDC", {"encoder_block_out_channels": 3}, "expected a list of channel counts"),
        ("AutoencoderTiny", {"encoder_block_out_channels": []}, "expected a list of channel counts"),
        ("AutoencoderRAE", {"patch_size": True}, "patch_size = True: expected a positive integer"),
        ("AutoencoderRAE", {"encoder_input_size": 225}, "encoder_patch_size = 14 does not divide"),
        ("AutoencoderRAE", {"reshape_to_2d": False}, "only latents with rows and columns are read"),
    ],
)
def test_configurations_that_cannot_be_read_are_refused(name, values, words):
    with pytest.raises(UserError, match=words):
        AUTOENCODERS.load(name).read(values, "config.json")
