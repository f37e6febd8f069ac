"""Pipelines of a `UNet2DModel` at their smallest: latent, with classes, of a consistency model, and in σ."""

import torch
from diffusers import (
    CMStochasticIterativeScheduler,
    ConsistencyModelPipeline,
    DDIMScheduler,
    DDPMPipeline,
    DDPMScheduler,
    EDMEulerScheduler,
    UNet2DModel,
    VQModel,
)
from diffusers.pipelines.deprecated.latent_diffusion_uncond import LDMPipeline
from tiny_models import CHANNELS, PIXELS, tiny_vae

LATENTS = 4  # channels
CLASSES = 5
EXACT = {"set_alpha_to_one": True, "clip_sample": False, "steps_offset": 0}  # of DDIM's sampler


def tiny_unet(seed=0, **settings):
    """Returns a `UNet2DModel` for images."""
    torch.manual_seed(seed)
    given = {
        "sample_size": PIXELS,
        "in_channels": CHANNELS,
        "out_channels": CHANNELS,
        "block_out_channels": (8, 16),
        "layers_per_block": 1,
        "norm_num_groups": 4,
        "attention_head_dim": 8,
        "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
        "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
    }
    return UNet2DModel(**{**given, **settings}).eval()


def tiny_vq(seed=0):
    """Returns a VQ autoencoder that halves images once, with a factor of its latents."""
    torch.manual_seed(seed)
    return VQModel(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 8),
        latent_channels=LATENTS,
        norm_num_groups=4,
        num_vq_embeddings=16,
        scaling_factor=0.7,
    ).eval()


def save_unet(folder, seed=0, scheduler=None, **settings):
    """Writes a `DDPMPipeline`; returns the folder."""
    noise = scheduler or DDPMScheduler(num_train_timesteps=20)
    DDPMPipeline(tiny_unet(seed, **settings), noise).save_pretrained(folder)
    return folder


def save_latent_vq(folder, seed=0):
    """Writes an `LDMPipeline`; returns the folder."""
    unet = tiny_unet(seed, sample_size=PIXELS // 2, in_channels=LATENTS, out_channels=LATENTS)
    scheduler = DDIMScheduler(
        num_train_timesteps=20, beta_schedule="scaled_linear", beta_start=0.0015, beta_end=0.0195, **EXACT
    )
    LDMPipeline(tiny_vq(seed), unet, scheduler).save_pretrained(folder)
    return folder


def save_latent_kl(folder, seed=0):
    """Writes a `UNet2DModel` on the latents of a VAE, which is no pipeline of diffusers; returns the folder."""
    tiny_unet(seed, sample_size=PIXELS // 2, in_channels=LATENTS, out_channels=LATENTS).save_pretrained(
        folder / "unet"
    )
    tiny_vae(seed).save_pretrained(folder / "vae")
    DDIMScheduler(num_train_timesteps=20, **EXACT).save_pretrained(folder / "scheduler")
    return folder


def save_consistency(folder, seed=0):
    """Writes a class-conditional `ConsistencyModelPipeline`; returns the folder."""
    unet = tiny_unet(
        seed,
        num_class_embeds=CLASSES,
        attn_norm_num_groups=4,
        resnet_time_scale_shift="scale_shift",
        downsample_type="resnet",
        upsample_type="resnet",
        down_block_types=("ResnetDownsampleBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "ResnetUpsampleBlock2D"),
    )
    ConsistencyModelPipeline(unet, CMStochasticIterativeScheduler()).save_pretrained(folder)
    return folder


def save_edm(folder, seed=0):
    """Writes a `UNet2DModel` with EDM's preconditioning; returns the folder."""
    return save_unet(folder, seed, EDMEulerScheduler(num_train_timesteps=12))
