"""Pipelines of `UNet2DConditionModel` at their smallest: SD 2, SDXL, distillations, Kandinsky 2.2, DeepFloyd IF."""

import torch
from diffusers import (
    DDPMScheduler,
    EulerDiscreteScheduler,
    IFPipeline,
    KandinskyV22CombinedPipeline,
    KandinskyV22Pipeline,
    LatentConsistencyModelPipeline,
    LCMScheduler,
    PriorTransformer,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UnCLIPScheduler,
    UNet2DConditionModel,
    VQModel,
)
from tiny_models import PIXELS, WIDTH, clip, clip_tokenizer, t5, t5_tokenizer, tiny_vae
from transformers import (
    CLIPImageProcessor,
    CLIPTextModelWithProjection,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
)

LATENT = PIXELS // 2
STEPS = 100
BETAS = {
    "num_train_timesteps": STEPS,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "steps_offset": 1,
}
SIMPLE = {  # as in Kandinsky 2.2 and DeepFloyd IF
    "down_block_types": ("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
    "up_block_types": ("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
    "mid_block_type": "UNetMidBlock2DSimpleCrossAttn",
    "attention_head_dim": 8,
    "resnet_time_scale_shift": "scale_shift",
}
IMAGE_WIDTH = 12  # of Kandinsky's embedding of an image


def unet(seed=0, **settings):
    """Returns a `UNet2DConditionModel` of two levels on latents, unless told otherwise."""
    torch.manual_seed(seed)
    given = {
        "sample_size": LATENT,
        "block_out_channels": (8, 16),
        "layers_per_block": 1,
        "norm_num_groups": 4,
        "attention_head_dim": 2,
        "cross_attention_dim": WIDTH,
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        **settings,
    }
    return UNet2DConditionModel(**given)


def save_sd(folder, seed=0, network=None, scheduler=None, kind=StableDiffusionPipeline):
    """Writes a `StableDiffusionPipeline`, or `kind`; `network` has settings of its U-Net. Returns the folder."""
    vae = tiny_vae(seed)
    pipeline = kind(
        vae,
        clip(),
        clip_tokenizer(folder),
        unet(seed, **(network or {})),
        scheduler or DDPMScheduler(clip_sample=False, **BETAS),
        None,
        None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(folder)
    return folder


def save_sd2(folder, seed=0, zero_snr=False):
    """Writes a pipeline that predicts v, as of Stable Diffusion 2.1; with zero signal at the last step if asked."""
    settings = {"rescale_betas_zero_snr": True} if zero_snr else {}
    scheduler = DDPMScheduler(prediction_type="v_prediction", clip_sample=False, **settings, **BETAS)
    return save_sd(folder, seed, {"use_linear_projection": True, "attention_head_dim": [2, 4]}, scheduler)


def save_distilled(folder, seed=0):
    """Writes a pipeline without middle block and with a layer of its own number at each level."""
    network = {
        "mid_block_type": None,
        "layers_per_block": [2, 1],
        "transformer_layers_per_block": [[1, 2], 1],
        "reverse_transformer_layers_per_block": [1, [2, 1, 1]],
    }
    return save_sd(folder, seed, network)


def save_lcm(folder, seed=0):
    """Writes a `LatentConsistencyModelPipeline`."""
    scheduler = LCMScheduler(original_inference_steps=STEPS, **BETAS)
    return save_sd(folder, seed, {"time_cond_proj_dim": 6}, scheduler, LatentConsistencyModelPipeline)


def save_sdxl(folder, seed=0, network=None, scheduler=None, zeros=True, **vae):
    """Writes a `StableDiffusionXLPipeline`; returns the folder."""
    latents = tiny_vae(seed, scaling_factor=0.13025, **vae)
    pipeline = StableDiffusionXLPipeline(
        latents,
        clip(),
        clip(CLIPTextModelWithProjection, 2 * WIDTH, 10),
        clip_tokenizer(folder),
        clip_tokenizer(folder),
        unet(
            seed,
            **{
                "cross_attention_dim": 3 * WIDTH,
                "addition_embed_type": "text_time",
                "addition_time_embed_dim": 4,
                "projection_class_embeddings_input_dim": 6 * 4 + 10,
                "transformer_layers_per_block": [1, 2],
                "use_linear_projection": True,
                "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
                "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
                **(network or {}),
            },
        ),
        scheduler or EulerDiscreteScheduler(timestep_spacing="leading", **BETAS),
        force_zeros_for_empty_prompt=zeros,
        add_watermarker=False,
    )
    pipeline.save_pretrained(folder)
    return folder


def save_kandinsky(folder, seed=0, prior=True):
    """Writes the decoder of Kandinsky 2.2, with its prior as a `KandinskyV22CombinedPipeline` if asked."""
    network = unet(
        seed,
        in_channels=4,
        out_channels=8,
        addition_embed_type="image",
        encoder_hid_dim=IMAGE_WIDTH,
        encoder_hid_dim_type="image_proj",
        **SIMPLE,
    )
    movq = VQModel(
        down_block_types=("DownEncoderBlock2D", "AttnDownEncoderBlock2D"),
        up_block_types=("AttnUpDecoderBlock2D", "UpDecoderBlock2D"),
        block_out_channels=(32, 32),  # a multiple of the 32 groups of its normalisation
        latent_channels=4,
        num_vq_embeddings=8,
        norm_num_groups=4,
        norm_type="spatial",
        vq_embed_dim=4,
    )
    scheduler = DDPMScheduler(
        num_train_timesteps=STEPS,
        beta_start=0.00085,
        beta_end=0.012,
        clip_sample=False,
        variance_type="learned_range",
    )
    if prior:
        pipeline = KandinskyV22CombinedPipeline(network, scheduler, movq, *_prior(folder))
    else:
        pipeline = KandinskyV22Pipeline(network, scheduler, movq)
    pipeline.save_pretrained(folder)
    return folder


def _prior(folder):
    image = CLIPVisionConfig(
        hidden_size=WIDTH,
        intermediate_size=2 * WIDTH,
        projection_dim=IMAGE_WIDTH,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=8,
        patch_size=4,
    )
    prior = PriorTransformer(
        num_attention_heads=2, attention_head_dim=6, num_layers=1, embedding_dim=IMAGE_WIDTH
    )
    with torch.no_grad():
        prior.clip_std.fill_(1)  # as in diffusers' own tests: a new prior has none
    return (
        prior,
        CLIPVisionModelWithProjection(image).eval(),
        clip(CLIPTextModelWithProjection, IMAGE_WIDTH),
        clip_tokenizer(folder),
        UnCLIPScheduler(
            variance_type="fixed_small_log",
            prediction_type="sample",
            num_train_timesteps=STEPS,
            clip_sample_range=5.0,
        ),
        CLIPImageProcessor(),
    )


def save_deepfloyd(folder, seed=0):
    """Writes the first stage of DeepFloyd IF; returns the folder."""
    network = unet(
        seed,
        sample_size=PIXELS,
        in_channels=3,
        out_channels=6,
        addition_embed_type="text",
        addition_embed_type_num_heads=2,
        encoder_hid_dim=2 * WIDTH,
        cross_attention_dim=32,  # a multiple of the 32 groups of its normalisation
        cross_attention_norm="group_norm",
        act_fn="gelu",
        resnet_skip_time_act=True,
        resnet_out_scale_factor=1.414,
        time_embedding_act_fn="gelu",
        **SIMPLE,
    )
    scheduler = DDPMScheduler(
        num_train_timesteps=STEPS, beta_schedule="squaredcos_cap_v2", variance_type="learned_range"
    )
    pipeline = IFPipeline(
        t5_tokenizer(), t5(2 * WIDTH), network, scheduler, None, None, None, requires_safety_checker=False
    )
    pipeline.save_pretrained(folder)
    return folder
