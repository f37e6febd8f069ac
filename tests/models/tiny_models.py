"""Pretrained models at their smallest, saved as the Hub has them: DDPM, ADM, Stable Diffusion, DiT."""

import json

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DDPMPipeline,
    DDPMScheduler,
    DiTTransformer2DModel,
    PNDMScheduler,
    UNet2DConditionModel,
    UNet2DModel,
)
from diffusers.utils import logging
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from harness.models.backbones.adm_network import ADMUNet2DModel

logging.disable_progress_bar()

PIXELS, CHANNELS = 16, 3  # images of all of them
WIDTH = 16  # of the text encoder
WORDS = 77  # tokens of a prompt


def save_ddpm(folder, size=PIXELS, channels=CHANNELS, seed=0, **settings):
    """Writes a pipeline of a `UNet2DModel`; returns the folder."""
    torch.manual_seed(seed)
    unet = UNet2DModel(
        sample_size=size,
        in_channels=channels,
        out_channels=channels,
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        attention_head_dim=8,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    )
    DDPMPipeline(unet, DDPMScheduler(num_train_timesteps=100, **settings)).save_pretrained(folder)
    return folder


def save_adm(folder, seed=0):
    """Writes a pipeline of an `ADMUNet2DModel`; returns the folder."""
    torch.manual_seed(seed)
    unet = ADMUNet2DModel(
        model_channels=16,
        time_embedding_dim=64,
        num_attention_heads=2,
        timestep_scale=0.25,
        sample_size=PIXELS,
        in_channels=CHANNELS,
        out_channels=2 * CHANNELS,
        block_out_channels=[8, 16],
        layers_per_block=1,
        norm_num_groups=4,
        attention_head_dim=None,
        attn_norm_num_groups=4,
        resnet_time_scale_shift="scale_shift",
        downsample_type="resnet",
        upsample_type="resnet",
        down_block_types=["ResnetDownsampleBlock2D", "AttnDownBlock2D"],
        up_block_types=["AttnUpBlock2D", "ResnetUpsampleBlock2D"],
    )
    DDPMPipeline(unet, DDPMScheduler(num_train_timesteps=100)).save_pretrained(folder)
    return folder


def save_vae(folder, seed=0, **settings):
    """Writes a VAE that halves images once, into four latent channels."""
    torch.manual_seed(seed)
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 8),
        norm_num_groups=4,
        latent_channels=4,
        sample_size=PIXELS,
        **settings,
    )
    vae.save_pretrained(folder / "vae")
    return vae


def save_stable_diffusion(folder, seed=0, text=True, **scheduler):
    """Writes a `UNet2DConditionModel`, its VAE, scheduler, text encoder and tokenizer; returns the folder."""
    save_vae(folder, seed)
    unet = UNet2DConditionModel(
        sample_size=PIXELS // 2,
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        attention_head_dim=2,
        cross_attention_dim=WIDTH,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    )
    unet.save_pretrained(folder / "unet")
    given = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, **scheduler}
    PNDMScheduler(num_train_timesteps=100, **given).save_pretrained(folder / "scheduler")
    if text:
        save_text(folder)
    return folder


def save_text(folder):
    """Writes a text encoder and the tokenizer of three words beside it."""
    (folder / "tokenizer").mkdir(parents=True)
    words = {"<|startoftext|>": 0, "<|endoftext|>": 1, "a</w>": 2}
    (folder / "tokenizer" / "vocab.json").write_text(json.dumps(words))
    (folder / "tokenizer" / "merges.txt").write_text("#version: 0.2\n")
    files = [str(folder / "tokenizer" / name) for name in ("vocab.json", "merges.txt")]
    tokenizer = CLIPTokenizer(*files, model_max_length=WORDS)
    tokenizer.save_pretrained(folder / "tokenizer")
    config = CLIPTextConfig(
        vocab_size=3,
        hidden_size=WIDTH,
        intermediate_size=2 * WIDTH,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=WORDS,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
    )
    CLIPTextModel(config).save_pretrained(folder / "text_encoder")


def save_dit(folder, seed=0, classes=5, layers=3):
    """Writes a `DiTTransformer2DModel`, its VAE and scheduler; returns the folder."""
    save_vae(folder, seed)
    transformer = DiTTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=8,
        in_channels=4,
        out_channels=8,
        num_layers=layers,
        sample_size=PIXELS // 2,
        patch_size=2,
        num_embeds_ada_norm=classes,
    )
    transformer.save_pretrained(folder / "transformer")
    DDIMScheduler(num_train_timesteps=100).save_pretrained(folder / "scheduler")
    return folder
