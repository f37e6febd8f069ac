"""Pretrained models at their smallest, saved as the Hub has them: DDPM, ADM, Stable Diffusion, DiT."""

import json
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DDPMPipeline,
    DDPMScheduler,
    DiTPipeline,
    DiTTransformer2DModel,
    FlowMatchEulerDiscreteScheduler,
    PNDMScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    UNet2DConditionModel,
    UNet2DModel,
)
from diffusers.utils import logging
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

from harness.models.backbones.adm_network import ADMUNet2DModel

logging.disable_progress_bar()

PIXELS, CHANNELS = 16, 3  # images of all of them
WIDTH = 16  # of the text encoder
WORDS = 77  # tokens of a prompt
T5_WORDS = 5  # of its vocabulary


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


def tiny_vae(seed=0, **settings):
    """Returns a VAE that halves images once, into four latent channels unless told otherwise."""
    torch.manual_seed(seed)
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 8),
        norm_num_groups=4,
        sample_size=PIXELS,
        **{"latent_channels": 4, **settings},
    ).eval()


def save_stable_diffusion(folder, seed=0, text=True, **scheduler):
    """Writes a `StableDiffusionPipeline` without safety checker; returns the folder."""
    vae = tiny_vae(seed)
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
    given = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, **scheduler}
    pipeline = StableDiffusionPipeline(
        vae,
        clip() if text else None,
        clip_tokenizer(folder) if text else None,
        unet,
        PNDMScheduler(num_train_timesteps=100, steps_offset=1, **given),
        None,
        None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(folder)
    return folder


def clip_tokenizer(folder):
    """Returns CLIP's tokenizer with a vocabulary of three words; makes the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    words = {"<|startoftext|>": 0, "<|endoftext|>": 1, "a</w>": 2}
    with TemporaryDirectory() as place:
        files = [Path(place) / name for name in ("vocab.json", "merges.txt")]
        files[0].write_text(json.dumps(words))
        files[1].write_text("#version: 0.2\n")
        return CLIPTokenizer(*map(str, files), model_max_length=WORDS)


def clip(kind=CLIPTextModel, width=WIDTH, projection=None):
    """Returns CLIP's text encoder with one layer."""
    config = CLIPTextConfig(
        vocab_size=3,
        hidden_size=width,
        intermediate_size=2 * width,
        projection_dim=projection or width,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=WORDS,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
    )
    return kind(config).eval()


def save_dit(folder, seed=0, classes=5, layers=3):
    """Writes a `DiTTransformer2DModel`, its VAE and scheduler; returns the folder."""
    vae = tiny_vae(seed)
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
    DiTPipeline(transformer, vae, DDIMScheduler(num_train_timesteps=100)).save_pretrained(folder)
    return folder


def t5(width=WIDTH):
    """Returns T5's encoder with one layer."""
    config = T5Config(vocab_size=T5_WORDS, d_model=width, d_kv=8, d_ff=2 * width, num_layers=1, num_heads=2)
    return T5EncoderModel(config).eval()


def t5_tokenizer():
    """Returns T5's tokenizer with a vocabulary of five words."""
    words = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("\u2581", -1.0), ("\u2581a", -2.0)]
    return T5Tokenizer(vocab=words, extra_ids=0, model_max_length=512)


def save_sd3(folder, seed=0, t5_encoder=True):
    """Writes a `StableDiffusion3Pipeline`; returns the folder."""
    vae = tiny_vae(seed, shift_factor=0.06, scaling_factor=1.5, latent_channels=6)
    transformer = SD3Transformer2DModel(
        sample_size=PIXELS // 2,
        patch_size=2,
        in_channels=6,
        out_channels=6,
        num_layers=3,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=2 * WIDTH,
        caption_projection_dim=16,
        pooled_projection_dim=2 * WIDTH,
        pos_embed_max_size=8,
        dual_attention_layers=(0,),
        qk_norm="rms_norm",
    )
    pipeline = StableDiffusion3Pipeline(
        transformer,
        FlowMatchEulerDiscreteScheduler(num_train_timesteps=20),
        vae,
        clip(CLIPTextModelWithProjection),
        clip_tokenizer(folder),
        clip(CLIPTextModelWithProjection),
        clip_tokenizer(folder),
        t5(2 * WIDTH) if t5_encoder else None,
        t5_tokenizer() if t5_encoder else None,
    )
    pipeline.save_pretrained(folder)
    return folder
