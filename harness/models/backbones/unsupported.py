"""What the denoising networks of diffusers are that have no family here, by class. No torch."""

from collections.abc import Mapping, Sequence

VIDEOS = "a network of videos; only networks of images are read"
SOUNDS = "a network of sounds; only networks of images are read"
EDITING = "a network that edits given images; only those that make images of noise are read"
PART = "a part of other networks, which none of diffusers' pipelines runs by itself"
NOT_YET = "a network of images that has no family here yet"

NETWORKS: Mapping[str, Sequence[str]] = {
    VIDEOS: (
        "AllegroTransformer3DModel",
        "AnyFlowFARTransformer3DModel",
        "AnyFlowTransformer3DModel",
        "ChronoEditTransformer3DModel",
        "CogVideoXTransformer3DModel",
        "ConsisIDTransformer3DModel",
        "CosmosTransformer3DModel",
        "EasyAnimateTransformer3DModel",
        "HeliosTransformer3DModel",
        "HunyuanVideo15Transformer3DModel",
        "HunyuanVideoFramepackTransformer3DModel",
        "HunyuanVideoTransformer3DModel",
        "I2VGenXLUNet",
        "Kandinsky6SRTransformer3DModel",
        "LTXVideoTransformer3DModel",
        "LatteTransformer3DModel",
        "MochiTransformer3DModel",
        "MotifVideoTransformer3DModel",
        "SanaVideoTransformer3DModel",
        "SanaWMLTX2RefinerTransformer3DModel",
        "SanaWMTransformer3DModel",
        "SkyReelsV2Transformer3DModel",
        "UNet3DConditionModel",
        "UNetMotionModel",
        "UNetSpatioTemporalConditionModel",
        "WanAnimate2Transformer3DModel",
        "WanAnimateTransformer3DModel",
        "WanTransformer3DModel",
        "WanVACETransformer3DModel",
    ),
    "a network of videos and their sound; only networks of images are read": (
        "Kandinsky6Transformer3DModel",
        "LTX2VideoTransformer3DModel",
        "MiniMaxH3Transformer3DModel",
    ),
    "a network of images, videos, sound and actions; only networks of images are read": (
        "Cosmos3OmniTransformer",
    ),
    "a network of videos and images, whose latents have frames; only networks of images are read": (
        "Kandinsky5Transformer3DModel",
    ),
    SOUNDS: (
        "AceStepTransformer1DModel",
        "AudioLDM2UNet2DConditionModel",
        "LongCatAudioDiTTransformer",
        "MiniMaxMusic3Transformer1DModel",
        "StableAudio3DiTModel",
        "StableAudioDiTModel",
        "T5FilmDecoder",
    ),
    "a network of sequences with one dimension; only networks of images are read": ("UNet1DModel",),
    "a network of proteins; only networks of images are read": ("RFD4ProteinaTransformer",),
    EDITING: ("JoyImageEditPlusTransformer3DModel", "JoyImageEditTransformer3DModel"),
    "a network of image embeddings, not of images; give the pipeline that decodes them": (
        "PriorTransformer",
    ),
    "a stage of Stable Cascade, whose prior and decoder are one class; it has no family here": (
        "StableCascadeUNet",
    ),
    "a network of discrete tokens, to which no Gaussian noise is added": ("UVit2DModel",),
    "a language model that also denoises images among its tokens; it has no family here": (
        "OmniGenTransformer2DModel",
    ),
    PART: ("DreamLiteTransformer2DModel", "TransformerTemporalModel"),
    NOT_YET: (
        "CogView4Transformer2DModel",
        "HunyuanImageTransformer2DModel",
        "BriaFibo2Transformer2DModel",
        "BriaFiboTransformer2DModel",
        "BriaTransformer2DModel",
        "CogView3PlusTransformer2DModel",
        "DreamLiteUNetModel",
        "ErnieImageTransformer2DModel",
        "Flux3Transformer2DModel",
        "GlmImageTransformer2DModel",
        "HiDreamImageTransformer2DModel",
        "Ideogram4Transformer2DModel",
        "Kandinsky3UNet",
        "Krea2Transformer2DModel",
        "LongCatImageTransformer2DModel",
        "LuminaNextDiT2DModel",
        "NucleusMoEImageTransformer2DModel",
        "OvisImageTransformer2DModel",
        "PRXTransformer2DModel",
        "QwenImage21Transformer2DModel",
    ),
}
STEERING = ("ControlNet", "T2IAdapter", "MotionAdapter")  # in the names of networks that steer another one


def unsupported(name: str) -> str | None:
    """Returns in words what a class of diffusers is that has no family; None if it is not known."""
    if any(word in name for word in STEERING):
        return "which steers another network and is none itself; give the pipeline that it steers"
    return next((what for what, names in NETWORKS.items() if name in names), None)
