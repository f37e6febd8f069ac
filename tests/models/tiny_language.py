"""Tiny models prompted through language models, saved as the Hub has them: Sana, Lumina2, Z-Image."""

import string

import torch
from diffusers import (
    AutoencoderDC,
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    Lumina2Pipeline,
    Lumina2Transformer2DModel,
    SanaPipeline,
    SanaSprintPipeline,
    SanaTransformer2DModel,
    SCMScheduler,
    ZImagePipeline,
    ZImageTransformer2DModel,
)
from tiny_models import PIXELS, WIDTH, tiny_vae
from transformers import (
    Gemma2Config,
    Gemma2Model,
    GemmaTokenizer,
    Qwen2Tokenizer,
    Qwen3Config,
    Qwen3Model,
)

SIZES = {
    "hidden_size": WIDTH,
    "intermediate_size": 2 * WIDTH,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
}
LETTERS = ["\u2581", *string.ascii_letters, *".,:;'-"]
TEMPLATE = (
    "{% for message in messages %}[{{ message.role }}]{{ message.content }}{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)


def gemma():
    """Returns Gemma 2 with two layers."""
    return Gemma2Model(Gemma2Config(vocab_size=5 + len(LETTERS), **SIZES)).eval()


def gemma_tokenizer(letters=LETTERS):
    """Returns Gemma's tokenizer with a vocabulary of letters; what is between them is one unknown token."""
    words = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", *letters]
    vocabulary = {word: number for number, word in enumerate(words)}
    return GemmaTokenizer(vocab=vocabulary, merges=[], add_bos_token=True)


def qwen():
    """Returns Qwen 3 with two layers."""
    return Qwen3Model(Qwen3Config(vocab_size=128, **SIZES)).eval()


def qwen_tokenizer():
    """Returns Qwen's tokenizer with a vocabulary of letters and a chat template."""
    words = ["<|endoftext|>", *string.printable[:94], "\u0120"]
    tokenizer = Qwen2Tokenizer(vocab={word: number for number, word in enumerate(words)}, merges=[])
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def tiny_dc(seed=0):
    """Returns a deep compression autoencoder that halves images once, into four latent channels."""
    torch.manual_seed(seed)
    return AutoencoderDC(
        latent_channels=4,
        attention_head_dim=4,
        encoder_block_out_channels=(8, 8),
        decoder_block_out_channels=(8, 8),
        encoder_layers_per_block=(1, 1),
        decoder_layers_per_block=(1, 1),
        encoder_qkv_multiscales=((), ()),
        decoder_qkv_multiscales=((), ()),
        scaling_factor=0.41407,
    ).eval()


def tiny_sana(seed=0, **settings):
    """Returns a `SanaTransformer2DModel` with three blocks."""
    torch.manual_seed(seed)
    return SanaTransformer2DModel(
        in_channels=4,
        num_attention_heads=2,
        attention_head_dim=8,
        num_layers=3,
        num_cross_attention_heads=2,
        cross_attention_head_dim=8,
        cross_attention_dim=16,
        caption_channels=WIDTH,
        sample_size=PIXELS // 2,
        **{"out_channels": 4, **settings},
    ).eval()


def save_sana(folder, seed=0, **settings):
    """Writes a `SanaPipeline`; returns the folder."""
    scheduler = DPMSolverMultistepScheduler(
        num_train_timesteps=20, prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
    )
    transformer = tiny_sana(seed, **settings)
    pipeline = SanaPipeline(gemma_tokenizer(), gemma(), tiny_dc(seed), transformer, scheduler)
    pipeline.save_pretrained(folder)
    return folder


def save_sana_sprint(folder, seed=0):
    """Writes a `SanaSprintPipeline`; returns the folder."""
    transformer = tiny_sana(seed, guidance_embeds=True, qk_norm="rms_norm_across_heads")
    pipeline = SanaSprintPipeline(gemma_tokenizer(), gemma(), tiny_dc(seed), transformer, SCMScheduler())
    pipeline.save_pretrained(folder)
    return folder


def save_lumina2(folder, seed=0):
    """Writes a `Lumina2Pipeline`; returns the folder."""
    vae = tiny_vae(seed, shift_factor=0.06, scaling_factor=1.5)
    torch.manual_seed(seed)
    transformer = Lumina2Transformer2DModel(
        sample_size=PIXELS // 2,
        in_channels=4,
        hidden_size=24,
        num_layers=2,
        num_refiner_layers=1,
        num_attention_heads=2,
        num_kv_heads=1,
        multiple_of=16,
        axes_dim_rope=(4, 4, 4),
        axes_lens=(300, 16, 16),
        cap_feat_dim=WIDTH,
    )
    scheduler = FlowMatchEulerDiscreteScheduler()
    tokenizer = gemma_tokenizer("ad")  # of which the system prompt has as many tokens as in words
    pipeline = Lumina2Pipeline(transformer, scheduler, vae, gemma(), tokenizer)
    pipeline.save_pretrained(folder)
    return folder


def save_z_image(folder, seed=0):
    """Writes a `ZImagePipeline`; returns the folder."""
    vae = tiny_vae(seed, shift_factor=0.06, scaling_factor=1.5)
    torch.manual_seed(seed)
    transformer = ZImageTransformer2DModel(
        in_channels=4,
        dim=24,
        n_layers=2,
        n_refiner_layers=1,
        n_heads=2,
        n_kv_heads=2,
        cap_feat_dim=WIDTH,
        axes_dims=[4, 4, 4],
        axes_lens=[1024, 16, 16],
    )
    torch.nn.init.normal_(transformer.x_pad_token)
    torch.nn.init.normal_(transformer.cap_pad_token)
    scheduler = FlowMatchEulerDiscreteScheduler()
    pipeline = ZImagePipeline(scheduler, vae, qwen(), qwen_tokenizer(), transformer)
    pipeline.save_pretrained(folder)
    return folder
