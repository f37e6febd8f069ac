"""PixArt and HunyuanDiT at their smallest, saved by their own pipelines."""

from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from diffusers import (
    AutoencoderKL,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    HunyuanDiT2DModel,
    HunyuanDiTPipeline,
    PixArtAlphaPipeline,
    PixArtSigmaPipeline,
    PixArtTransformer2DModel,
)
from tiny_models import PIXELS, WIDTH, t5, t5_tokenizer, tiny_vae
from transformers import BertConfig, BertModel, BertTokenizer

LARGE = 256  # pixels of the network that is told the size of images: twice a sample_size of 128
HUNYUAN = 64  # pixels


def pixart(seed, **settings):
    """Returns a `PixArtTransformer2DModel`, its tables as random as all else."""
    torch.manual_seed(seed)
    given = {
        "sample_size": PIXELS // 2,
        "num_layers": 3,
        "num_attention_heads": 2,
        "attention_head_dim": 12,
        "in_channels": 4,
        "out_channels": 8,
        "cross_attention_dim": 24,
        "caption_channels": WIDTH,
    }
    return PixArtTransformer2DModel(**{**given, **settings}).eval()


def save_pixart_sigma(folder, seed=0):
    """Writes a `PixArtSigmaPipeline`; returns the folder."""
    network = pixart(seed, use_additional_conditions=False)
    noise = DPMSolverMultistepScheduler(num_train_timesteps=20)
    torch.manual_seed(seed)
    PixArtSigmaPipeline(t5_tokenizer(), t5(), tiny_vae(seed), network, noise).save_pretrained(folder)
    return folder


def save_pixart_alpha(folder, seed=0):
    """Writes a `PixArtAlphaPipeline` whose network is told the size of images; returns the folder."""
    network = pixart(seed, sample_size=LARGE // 2, patch_size=16)
    noise = DPMSolverMultistepScheduler(num_train_timesteps=20)
    torch.manual_seed(seed)
    PixArtAlphaPipeline(t5_tokenizer(), t5(), tiny_vae(seed), network, noise).save_pretrained(folder)
    return folder


def bert_tokenizer():
    """Returns BERT's tokenizer with a vocabulary of six words."""
    with TemporaryDirectory() as place:
        file = Path(place) / "vocab.txt"
        file.write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a"]))
        return BertTokenizer(str(file), model_max_length=77)


def save_hunyuan(folder, seed=0, conditioned=True):
    """Writes a `HunyuanDiTPipeline`, of version 1.1 or (not `conditioned`) 1.2; returns the folder."""
    torch.manual_seed(seed)
    network = HunyuanDiT2DModel(
        num_attention_heads=2,
        attention_head_dim=8,
        in_channels=4,
        patch_size=2,
        sample_size=HUNYUAN // 8,
        hidden_size=16,
        num_layers=4,
        cross_attention_dim=24,
        cross_attention_dim_t5=WIDTH,
        pooled_projection_dim=12,
        use_style_cond_and_image_meta_size=conditioned,
    ).eval()
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(8,) * 4,
        norm_num_groups=4,
        latent_channels=4,
        scaling_factor=0.13025,
    ).eval()
    bert = BertConfig(
        vocab_size=6,
        hidden_size=24,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=77,
    )
    noise = DDPMScheduler(
        num_train_timesteps=20,
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.03,
        prediction_type="v_prediction",
    )
    pipeline = HunyuanDiTPipeline(
        vae,
        BertModel(bert).eval(),
        bert_tokenizer(),
        network,
        noise,
        None,
        None,
        requires_safety_checker=False,
        text_encoder_2=t5(),
        tokenizer_2=t5_tokenizer(),
    )
    pipeline.save_pretrained(folder)
    return folder
