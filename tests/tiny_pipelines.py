"""Complete diffusers inpainting pipelines with tiny random networks: no download, a few MiB, 0.1 s per image."""

import json
from pathlib import Path
from tempfile import TemporaryDirectory

_VOCABULARY_SIZE = 516


def save_tiny_pipeline(folder, kind="sdxl", unet_channels=9, seed=0):
    """Save an inpainting pipeline with random weights.

    Parameters
    ----------
    folder : pathlib.Path
    kind : {"sdxl", "sd"}
    unet_channels : {4, 9}
        Input channels of the U-Net: 9 as in networks for inpainting, 4 as in text-to-image networks.
    seed : int

    Returns
    -------
    folder : pathlib.Path
    """
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        pipeline = _sdxl(unet_channels) if kind == "sdxl" else _sd(unet_channels)
    pipeline.save_pretrained(folder)
    return folder


def _sdxl(unet_channels):
    from diffusers import EulerDiscreteScheduler, StableDiffusionXLInpaintPipeline
    from transformers import CLIPTextModel, CLIPTextModelWithProjection

    text = _text_config(projection_dim=32)
    return StableDiffusionXLInpaintPipeline(
        vae=_vae(force_upcast=True),
        text_encoder=CLIPTextModel(text),
        text_encoder_2=CLIPTextModelWithProjection(text),
        tokenizer=_tokenizer(),
        tokenizer_2=_tokenizer(),
        unet=_unet(
            unet_channels,
            cross_attention_dim=64,
            attention_head_dim=(2, 4),
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=80,
        ),
        scheduler=EulerDiscreteScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012),
        add_watermarker=False,
    )


def _sd(unet_channels):
    from diffusers import DDIMScheduler, StableDiffusionInpaintPipeline
    from transformers import CLIPTextModel

    return StableDiffusionInpaintPipeline(
        vae=_vae(),
        text_encoder=CLIPTextModel(_text_config()),
        tokenizer=_tokenizer(),
        unet=_unet(unet_channels, cross_attention_dim=32, attention_head_dim=4),
        scheduler=DDIMScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, steps_offset=1),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def _vae(**options):
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        block_out_channels=(8, 16),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=4,
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        **options,
    )


def _unet(in_channels, **options):
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        sample_size=32,
        in_channels=in_channels,
        out_channels=4,
        block_out_channels=(16, 32),
        layers_per_block=1,
        norm_num_groups=8,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        **options,
    )


def _text_config(**options):
    from transformers import CLIPTextConfig

    return CLIPTextConfig(
        hidden_size=32,
        intermediate_size=37,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=77,
        vocab_size=_VOCABULARY_SIZE,
        bos_token_id=_VOCABULARY_SIZE - 2,
        eos_token_id=_VOCABULARY_SIZE - 1,
        pad_token_id=_VOCABULARY_SIZE - 1,
        **options,
    )


def _tokenizer():
    """Return a tokenizer that knows bytes, bytes that end a word, two merges and two special tokens."""
    from transformers import CLIPTokenizer

    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters = [chr(code) for code in printable] + [chr(256 + i) for i in range(256 - len(printable))]
    words = [*letters, *(f"{letter}</w>" for letter in letters), "th", "the</w>", "<|startoftext|>", "<|endoftext|>"]
    assert len(words) == _VOCABULARY_SIZE
    with TemporaryDirectory() as folder:
        vocabulary, merges = Path(folder, "vocab.json"), Path(folder, "merges.txt")
        vocabulary.write_text(json.dumps({word: i for i, word in enumerate(words)}), encoding="utf-8")
        merges.write_text("#version: 0.2\nt h\nth e</w>\n", encoding="utf-8")
        return CLIPTokenizer(str(vocabulary), str(merges), model_max_length=77)
