"""Transformers with joint text and image tokens at their smallest, saved as the Hub has them."""

import torch
from diffusers import (
    AuraFlowPipeline,
    AuraFlowTransformer2DModel,
    AutoencoderKLFlux2,
    AutoencoderKLQwenImage,
    ChromaPipeline,
    ChromaTransformer2DModel,
    FlowMatchEulerDiscreteScheduler,
    Flux2KleinPipeline,
    Flux2Pipeline,
    Flux2Transformer2DModel,
    FluxPipeline,
    FluxTransformer2DModel,
    QwenImagePipeline,
    QwenImageTransformer2DModel,
)
from tiny_models import PIXELS, WIDTH, clip, clip_tokenizer, t5, t5_tokenizer, tiny_vae
from tokenizers import Regex, Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Sequence, Split
from transformers import (
    Mistral3Config,
    Mistral3ForConditionalGeneration,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen3Config,
    Qwen3ForCausalLM,
)

T = 20  # noise levels of all of them
DYNAMIC = {"use_dynamic_shifting": True, "base_image_seq_len": 4, "max_image_seq_len": 64}
TEMPLATE = (
    "{% for one in messages %}<|im_start|> {{ one['role'] }} {% if one['content'] is string %}{{ one['content'] }}"
    "{% else %}{{ one['content'][0]['text'] }}{% endif %} <|im_end|> {% endfor %}"
)
WORDS = ("<pad>", "<unk>", "<|im_start|>", "<|im_end|>", "system", "user", "assistant", "\n", "a", "photo")
LANGUAGE = {  # of all language models
    "vocab_size": 16,
    "intermediate_size": 8,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "bos_token_id": 2,
    "eos_token_id": 3,
    "pad_token_id": 0,
}


def word_tokenizer():
    """Returns a tokenizer of words and signs with a chat template, as language models have."""
    tokenizer = Tokenizer(WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="<unk>"))
    pieces = Split(Regex(r"<\|\w+\|>|\w+|[^\w\s]|\n"), "isolated")
    tokenizer.pre_tokenizer = Sequence([Split(Regex(" "), "removed"), pieces])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>", chat_template=TEMPLATE
    )


def save_flux(folder, seed=0, guidance=True, kind=FluxPipeline):
    """Writes a pipeline of a `FluxTransformer2DModel`; returns the folder."""
    statistics = {"shift_factor": 0.1, "scaling_factor": 0.4}
    vae = tiny_vae(seed, latent_channels=2, use_quant_conv=False, use_post_quant_conv=False, **statistics)
    transformer = FluxTransformer2DModel(
        in_channels=8,
        num_layers=2,
        num_single_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=2 * WIDTH,
        pooled_projection_dim=WIDTH,
        guidance_embeds=guidance,
        axes_dims_rope=(4, 6, 6),
    )
    pipeline = kind(
        FlowMatchEulerDiscreteScheduler(num_train_timesteps=T, **DYNAMIC),
        vae,
        clip(),
        clip_tokenizer(folder),
        t5(2 * WIDTH),
        t5_tokenizer(),
        transformer,
    )
    pipeline.save_pretrained(folder)
    return folder


def save_chroma(folder, seed=0):
    """Writes a `ChromaPipeline`; returns the folder."""
    vae = tiny_vae(seed, latent_channels=2, shift_factor=0.1, scaling_factor=0.4)
    transformer = ChromaTransformer2DModel(
        in_channels=8,
        num_layers=2,
        num_single_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=2 * WIDTH,
        axes_dims_rope=(4, 6, 6),
        approximator_num_channels=16,
        approximator_hidden_dim=16,
        approximator_layers=1,
    )
    scheduler = FlowMatchEulerDiscreteScheduler(num_train_timesteps=T, **DYNAMIC)
    pipeline = ChromaPipeline(scheduler, vae, t5(2 * WIDTH), t5_tokenizer(), transformer)
    pipeline.save_pretrained(folder)
    return folder


def save_flux2(folder, seed=0, klein=False):
    """Writes a `Flux2Pipeline`, or that of klein; returns the folder."""
    torch.manual_seed(seed)
    vae = AutoencoderKLFlux2(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 8),
        norm_num_groups=4,
        latent_channels=2,
        sample_size=PIXELS,
    ).eval()
    vae.bn.running_mean.normal_()
    vae.bn.running_var.uniform_(0.5, 2)
    transformer = Flux2Transformer2DModel(
        in_channels=8,
        num_layers=2,
        num_single_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=3 * 8,
        axes_dims_rope=(4, 4, 4, 4),
        guidance_embeds=not klein,
    )
    language = {**LANGUAGE, "hidden_size": 8, "num_hidden_layers": 27 if klein else 30, "head_dim": 4}
    if klein:
        kind, encoder = Flux2KleinPipeline, Qwen3ForCausalLM(Qwen3Config(**language))
    else:
        vision = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
        config = Mistral3Config(
            text_config={"model_type": "mistral", **language},
            vision_config={
                "model_type": "pixtral",
                "image_size": 8,
                "patch_size": 4,
                "head_dim": 4,
                **vision,
            },
            image_token_index=10,
        )
        kind, encoder = Flux2Pipeline, Mistral3ForConditionalGeneration(config)
    scheduler = FlowMatchEulerDiscreteScheduler(num_train_timesteps=T, **DYNAMIC)
    kind(scheduler, vae, encoder.eval(), word_tokenizer(), transformer).save_pretrained(folder)
    return folder


def save_aura_flow(folder, seed=0):
    """Writes an `AuraFlowPipeline`; returns the folder."""
    vae = tiny_vae(seed)
    transformer = AuraFlowTransformer2DModel(
        sample_size=4,
        num_mmdit_layers=2,
        num_single_dit_layers=2,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=2 * WIDTH,
        caption_projection_dim=16,
        pos_embed_max_size=36,
    )
    scheduler = FlowMatchEulerDiscreteScheduler(num_train_timesteps=T, shift=1.73)
    AuraFlowPipeline(t5_tokenizer(), t5(2 * WIDTH), vae, transformer, scheduler).save_pretrained(folder)
    return folder


def save_qwen_image(folder, seed=0):
    """Writes a `QwenImagePipeline`; returns the folder."""
    torch.manual_seed(seed)
    vae = AutoencoderKLQwenImage(
        base_dim=8,
        z_dim=2,
        dim_mult=[1, 2],
        num_res_blocks=1,
        temperal_downsample=[False],
        latents_mean=[0.3, -0.2],
        latents_std=[1.5, 0.7],
    ).eval()
    transformer = QwenImageTransformer2DModel(
        in_channels=8,
        out_channels=2,
        num_layers=3,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=WIDTH,
        axes_dims_rope=(4, 6, 6),
    )
    rotary = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 1000.0}
    language = {**LANGUAGE, "hidden_size": WIDTH, "num_hidden_layers": 2, "rope_parameters": rotary}
    vision = {"depth": 1, "hidden_size": 8, "intermediate_size": 8, "num_heads": 2, "out_hidden_size": WIDTH}
    names = ("vision_start", "vision_end", "vision", "image", "video")
    config = Qwen2_5_VLConfig(
        text_config=language,
        vision_config={**vision, "patch_size": 4, "fullatt_block_indexes": [0]},
        **{f"{name}_token_id": number for number, name in enumerate(names, start=11)},
    )
    encoder = Qwen2_5_VLForConditionalGeneration(config).eval()
    scheduler = FlowMatchEulerDiscreteScheduler(num_train_timesteps=T, **DYNAMIC)
    QwenImagePipeline(scheduler, vae, encoder, word_tokenizer(), transformer).save_pretrained(folder)
    return folder
