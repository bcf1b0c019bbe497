"""What a prompted pipeline is told: CLIP's byte-pair tokens and its text transformer (Radford et al. 2021), in torch.

Written out here, so that a prompt needs no further library and a folder names no class that is loaded.
"""

from __future__ import annotations

import itertools
import unicodedata
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from client.generators.importers.weights import Weights, read_checkpoint
from common.errors import UnreadableModel

START, END = "<|startoftext|>", "<|endoftext|>"
_SHORT = ("'s", "'t", "'re", "'ve", "'m", "'ll", "'d")
_WORD_END = "</w>"
_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),
    "gelu": functional.gelu,
}
_PREFIX = "text_model."


@dataclass(frozen=True, kw_only=True)
class Tokenizer:
    """Byte-pair tokens of a text (Sennrich, Haddow and Birch 2016, on bytes).

    Attributes:
        vocabulary: number of each token.
        merges: pairs of tokens that become one, the most frequent first.
        length: tokens that come out, with start, end and padding.
        padding: token after the end.

    Raises:
        UnreadableModel: start, end or padding is not in the vocabulary.
    """

    vocabulary: Mapping[str, int]
    merges: tuple[tuple[str, str], ...]
    length: int
    padding: str = END

    def __post_init__(self) -> None:
        if missing := [name for name in (START, END, self.padding) if name not in self.vocabulary]:
            raise UnreadableModel(f"the tokenizer knows no {missing[0][:40]!r}; get the folder again")

    def numbers(self, text: str) -> list[int]:
        """``length`` token numbers of a text; what does not fit is cut off."""
        plain = " ".join(unicodedata.normalize("NFC", text).split()).lower()
        end = self.vocabulary[END]
        found = [self.vocabulary.get(part, end) for piece in pieces(plain) for part in self._parts(piece)]
        whole = [self.vocabulary[START], *found[: self.length - 2], end]
        return whole + [self.vocabulary[self.padding]] * (self.length - len(whole))

    @cached_property
    def _ranks(self) -> dict[tuple[str, str], int]:
        return {pair: rank for rank, pair in enumerate(self.merges)}

    def _parts(self, piece: str) -> list[str]:
        if piece in (START, END):
            return [piece]
        letters = [_LETTERS[byte] for byte in piece.encode()]
        parts = [*letters[:-1], letters[-1] + _WORD_END]
        while len(parts) > 1:
            pairs = [self._ranks.get(pair, len(self.merges)) for pair in itertools.pairwise(parts)]
            best = min(pairs)
            if best == len(self.merges):
                break
            at = pairs.index(best)
            parts[at : at + 2] = ["".join(parts[at : at + 2])]
        return parts


def pieces(text: str) -> Iterator[str]:
    """Words, single digits and runs of other marks, as CLIP splits a text without capitals."""
    i = 0
    while i < len(text):
        special = next((each for each in (START, END, *_SHORT) if text.startswith(each, i)), "")
        kind, end = _kind(text[i]), i + 1
        if special:
            end = i + len(special)
        elif kind != "digit":
            while end < len(text) and _kind(text[end]) == kind:
                end += 1
        if special or kind != "space":
            yield text[i:end]
        i = end


class _Layer(nn.Module):
    """Attention to the tokens before, then a two-layer network, each beside a short cut."""

    def __init__(self, width: int, inner: int, heads: int, activation: str, eps: float) -> None:
        super().__init__()
        self.heads, self.activation = heads, _ACTIVATIONS[activation]
        self.self_attn = nn.ModuleDict({f"{name}_proj": nn.Linear(width, width) for name in ("q", "k", "v", "out")})
        self.layer_norm1, self.layer_norm2 = nn.LayerNorm(width, eps), nn.LayerNorm(width, eps)
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(width, inner), "fc2": nn.Linear(inner, width)})

    def forward(self, x: Tensor) -> Tensor:
        normed = self.layer_norm1(x)
        q, k, v = (self.self_attn[f"{name}_proj"](normed).unflatten(2, (self.heads, -1)) for name in "qkv")
        q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
        seen = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.self_attn["out_proj"](seen.transpose(1, 2).flatten(2))
        out: Tensor = x + self.mlp["fc2"](self.activation(self.mlp["fc1"](self.layer_norm2(x))))
        return out


class TextEncoder(nn.Module):
    """CLIP's text transformer: token numbers ``(n, t)`` to ``(n, t, width)``, after its last normalisation.

    Args:
        about: ``config.json`` of the encoder.
    """

    def __init__(self, about: Mapping[str, Any]) -> None:
        super().__init__()
        width, heads = int(about["hidden_size"]), int(about["num_attention_heads"])
        eps = float(about.get("layer_norm_eps", 1e-5))
        self.longest = int(about.get("max_position_embeddings", 77))
        tokens = nn.Embedding(int(about.get("vocab_size", 49408)), width)
        self.embeddings = nn.ModuleDict(
            {"token_embedding": tokens, "position_embedding": nn.Embedding(self.longest, width)}
        )
        said = (width, int(about["intermediate_size"]), heads, str(about.get("hidden_act", "quick_gelu")), eps)
        layers = nn.Sequential(*(_Layer(*said) for _ in range(int(about["num_hidden_layers"]))))
        self.encoder = nn.ModuleDict({"layers": layers})
        self.final_layer_norm = nn.LayerNorm(width, eps)

    def forward(self, tokens: Tensor) -> Tensor:
        """What the network is told about each token."""
        places = torch.arange(tokens.shape[1], device=tokens.device)
        x = self.embeddings["token_embedding"](tokens) + self.embeddings["position_embedding"](places)
        normed: Tensor = self.final_layer_norm(self.encoder["layers"](x))
        return normed


def text_encoder(about: Mapping[str, Any], path: Path) -> TextEncoder:
    """The encoder of a configuration with the weights of a safetensors file, in eval mode.

    Raises:
        UnreadableModel: an impossible configuration, or weights that do not fit it, are damaged or NaN.
    """
    if about.get("use_attention_mask"):
        raise UnreadableModel(f"{path.parent} masks its padding, which no pipeline of CLIP is known to do; use another")
    try:
        encoder = TextEncoder(about).requires_grad_(False).eval()
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise UnreadableModel(f"{path.parent} describes no text encoder of CLIP ({error}); get it again") from error
    weights = Weights(read_checkpoint(path), f"{path.parent.name}/{path.name}")
    prefix = _PREFIX if any(name.startswith(_PREFIX) for name in weights.names()) else ""
    wanted = {prefix + name: tuple(value.shape) for name, value in encoder.state_dict().items()}
    names = [name for name in (*wanted, *weights.names()) if name != "text_projection.weight"]  # compares with pictures
    if wrong := [name for name in names if name not in weights or weights.shape(name) != wanted.get(name)]:
        raise UnreadableModel(f"{path} does not fit its configuration in {wrong[0][:80]}; get the folder again")
    found = {name: weights.take(prefix + name, *value.shape) for name, value in encoder.state_dict().items()}
    encoder.load_state_dict(found)
    return encoder


def tokenizer(vocabulary: Mapping[str, Any], merges: list[Any], length: int, padding: str) -> Tokenizer:
    """A tokenizer from what its files hold; ``merges`` are pairs, or texts with a space between.

    Raises:
        UnreadableModel: the files hold something else.
    """
    pairs = [tuple(each.split(" ")) if isinstance(each, str) else tuple(each) for each in merges]
    if not all(len(pair) == 2 and all(isinstance(part, str) for part in pair) for pair in pairs):
        raise UnreadableModel("the tokenizer merges something else than pairs of tokens; get the folder again")
    if not all(isinstance(number, int) and number >= 0 for number in vocabulary.values()):
        raise UnreadableModel("the tokenizer's vocabulary holds something else than numbers; get the folder again")
    if length < 3:
        raise UnreadableModel(f"the tokenizer gives {length} tokens, 3 are the least; get the folder again")
    return Tokenizer(vocabulary=vocabulary, merges=tuple(pairs), length=length, padding=padding)  # type: ignore[arg-type]


def _kind(mark: str) -> str:
    if mark.isspace():
        return "space"
    category = unicodedata.category(mark)[0]
    return {"L": "letter", "N": "digit"}.get(category, "other")


def _letters() -> dict[int, str]:
    """A printable letter for each byte: itself where it is one, else the next beyond the 256 of Latin-1."""
    printable = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)}
    beyond = itertools.count(256)
    return {byte: chr(byte if byte in printable else next(beyond)) for byte in range(256)}


_LETTERS = _letters()
