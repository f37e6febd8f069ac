"""Vision encoders of a few channels with random weights, in folders as `save_pretrained` leaves them."""

import json

import torch
import transformers as tf

TOKENS = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "image_size": 16,
    "patch_size": 4,
}
TEXT = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "vocab_size": 50,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
SIGHT = {"size": {"height": 16, "width": 16}, "image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.25, 0.3]}


def resnet():
    return tf.ResNetModel(
        tf.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic")
    )


def vit():
    return tf.ViTModel(tf.ViTConfig(**TOKENS))


def dino():
    """As facebook/dino-vitb16: a ViT saved without the pooler that its class has."""
    return tf.ViTModel(tf.ViTConfig(**TOKENS), add_pooling_layer=False)


def dinov2():
    return tf.Dinov2Model(
        tf.Dinov2Config(
            hidden_size=16, num_hidden_layers=2, num_attention_heads=2, image_size=16, patch_size=4
        )
    )


def mae():
    return tf.ViTMAEModel(tf.ViTMAEConfig(**TOKENS))


def clip():
    """As openai/clip-vit-base-patch32: images and text."""
    return tf.CLIPModel(tf.CLIPConfig(text_config=TEXT, vision_config=TOKENS, projection_dim=8))


def convnext():
    return tf.ConvNextModel(tf.ConvNextConfig(hidden_sizes=[8, 16], depths=[1, 1], num_stages=2))


def swin():
    return tf.SwinModel(
        tf.SwinConfig(
            embed_dim=8, depths=[1, 1], num_heads=[1, 2], image_size=16, patch_size=2, window_size=2
        )
    )


ALL = {
    "resnet": (resnet, 2, "pooler"),
    "vit": (vit, 2, "pooler"),
    "dino": (dino, 2, "class token"),
    "dinov2": (dinov2, 2, "pooler"),
    "mae": (mae, 2, "class token"),
    "clip": (clip, 2, "pooler"),
    "convnext": (convnext, 2, "pooler"),
    "swin": (swin, 2, "pooler"),
}


def saved(folder, name, seed=0, sight=SIGHT):
    """Writes the encoder `name` into `folder` and returns the network."""
    torch.manual_seed(seed)
    network = ALL[name][0]().eval()
    network.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(sight))
    return network
