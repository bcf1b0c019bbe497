"""Tiny folders of diffusers with random weights, built from configurations and saved by the library itself."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

diffusers: Any = importlib.import_module("diffusers")  # half of it has types, which says less than none
SIDE = 16


def lively(network: Any, seed: int) -> Any:
    """Weights large enough that pictures differ from their noise and from each other."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in network.named_parameters():
            scale = 0.3 if value.ndim == 1 else 1.2 / value[0].numel() ** 0.5
            value.copy_(torch.randn(value.shape, generator=generator) * scale)
            if value.ndim == 1 and "norm" in name and name.endswith("weight"):
                value.add_(1)
    return network.eval()


def unet(channels: int = 3, side: int = SIDE) -> Any:
    return lively(
        diffusers.UNet2DModel(
            sample_size=side,
            in_channels=channels,
            out_channels=channels,
            layers_per_block=1,
            block_out_channels=(8, 16),
            down_block_types=("DownBlock2D", "AttnDownBlock2D"),
            up_block_types=("AttnUpBlock2D", "UpBlock2D"),
            norm_num_groups=4,
            attention_head_dim=8,
        ),
        1,
    )


def vae() -> Any:
    return lively(
        diffusers.AutoencoderKL(
            block_out_channels=(8, 8),
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            latent_channels=4,
            norm_num_groups=4,
            sample_size=SIDE,
            scaling_factor=0.5,
        ),
        2,
    )


def ddim(folder: Path, **scheduler: Any) -> Any:
    made = diffusers.DDIMPipeline(unet(), diffusers.DDIMScheduler(**scheduler))
    made.save_pretrained(folder)
    return made


def flow(folder: Path) -> tuple[nn.Module, Any]:
    """A rectified flow of a UNet2DModel, in the layout of a pipeline."""
    network, scheduler = unet(), diffusers.FlowMatchEulerDiscreteScheduler(shift=2.0)
    network.save_pretrained(folder / "unet")
    scheduler.save_pretrained(folder / "scheduler")
    index = {
        "_class_name": "RectifiedFlowPipeline",
        "_diffusers_version": diffusers.__version__,
        "unet": ["diffusers", "UNet2DModel"],
        "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
    }
    (folder / "model_index.json").write_text(json.dumps(index))
    return network, scheduler


WORDS, TOKENS, WIDTH = 32, 8, 16
SAID = {"beta_schedule": "scaled_linear", "beta_start": 0.001, "beta_end": 0.012, "steps_offset": 1}


def stable(folder: Path) -> tuple[Any, Any, TextReference]:
    """A prompted pipeline in the layout of Stable Diffusion: its network, autoencoder and text encoder."""
    network = lively(
        diffusers.UNet2DConditionModel(
            sample_size=SIDE // 2,
            layers_per_block=1,
            block_out_channels=(8, 16),
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            cross_attention_dim=WIDTH,
            norm_num_groups=4,
            attention_head_dim=2,
        ),
        3,
    )
    decoder, text = vae(), TextReference()
    network.save_pretrained(folder / "unet")
    decoder.save_pretrained(folder / "vae")
    diffusers.PNDMScheduler(skip_prk_steps=True, **SAID).save_pretrained(folder / "scheduler")
    text.save(folder / "text_encoder")
    tokenizer(folder / "tokenizer")
    index = {
        "_class_name": "StableDiffusionPipeline",
        "_diffusers_version": diffusers.__version__,
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
        "scheduler": ["diffusers", "PNDMScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "safety_checker": [None, None],
    }
    (folder / "model_index.json").write_text(json.dumps(index))
    return network, decoder, text


class TextReference(nn.Module):
    """CLIP's text encoder from torch's own transformer layer, saved under the names the files of pipelines have."""

    def __init__(self, words: int = WORDS, tokens: int = TOKENS, width: int = WIDTH) -> None:
        super().__init__()
        self.tokens, self.places = nn.Embedding(words, width), nn.Embedding(tokens, width)
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(
                width, 2, 24, 0.0, lambda x: x * torch.sigmoid(1.702 * x), batch_first=True, norm_first=True
            )
            for _ in range(2)
        )
        self.last = nn.LayerNorm(width)
        lively(self, 4)

    def forward(self, tokens: Tensor) -> Tensor:
        x, mask = (
            self.tokens(tokens) + self.places.weight,
            nn.Transformer.generate_square_subsequent_mask(tokens.shape[1]),
        )
        for layer in self.layers:
            x = layer(x, src_mask=mask, is_causal=True)
        made: Tensor = self.last(x)
        return made

    def save(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        words, width = self.tokens.weight.shape
        about = {"hidden_size": width, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
        about |= {"vocab_size": words, "max_position_embeddings": len(self.places.weight), "hidden_act": "quick_gelu"}  # type: ignore[dict-item]
        (folder / "config.json").write_text(json.dumps(about))
        saved = {"embeddings.token_embedding.weight": self.tokens.weight}
        saved |= {"embeddings.position_embedding.weight": self.places.weight}
        saved |= {f"final_layer_norm.{name}": value for name, value in self.last.state_dict().items()}
        for i, layer in enumerate(self.layers):
            saved |= {f"encoder.layers.{i}.{name}": value for name, value in _renamed(layer.state_dict()).items()}
        save_file(
            {f"text_model.{name}": value.detach().contiguous() for name, value in saved.items()},
            folder / "model.safetensors",
        )


def _renamed(layer: dict[str, Tensor]) -> dict[str, Tensor]:
    names = {"linear1": "mlp.fc1", "linear2": "mlp.fc2", "norm1": "layer_norm1", "norm2": "layer_norm2"}
    names["self_attn.out_proj"] = "self_attn.out_proj"
    renamed = {f"{new}.{kind}": layer[f"{old}.{kind}"] for old, new in names.items() for kind in ("weight", "bias")}
    for kind in ("weight", "bias"):
        for name, value in zip("qkv", layer[f"self_attn.in_proj_{kind}"].chunk(3), strict=True):
            renamed[f"self_attn.{name}_proj.{kind}"] = value
    return renamed


def tokenizer(folder: Path) -> None:
    """A byte-pair vocabulary of single letters and two longer tokens, in the older layout."""
    folder.mkdir()
    letters = "abcdefghijklm'"
    words = ["<|startoftext|>", "<|endoftext|>", *letters, *(f"{letter}</w>" for letter in letters), "ab", "abc</w>"]
    (folder / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\na b\nab c</w>\n")
    said = {"model_max_length": TOKENS, "pad_token": {"content": "<|endoftext|>"}}
    (folder / "tokenizer_config.json").write_text(json.dumps(said))


def plain_unet() -> Any:
    """The smallest network there is, which exports quickly."""
    return diffusers.UNet2DModel(
        sample_size=SIDE,
        layers_per_block=1,
        block_out_channels=(8,),
        down_block_types=("DownBlock2D",),
        up_block_types=("UpBlock2D",),
        mid_block_type=None,
        norm_num_groups=4,
    )
