"""CLIP's tokens, by hand on a vocabulary of a few words, and what is refused of its files."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from client.generators.importers.clip_text import TextEncoder, Tokenizer, pieces, text_encoder, tokenizer
from common.errors import UnreadableModel

WORDS = [
    "<|startoftext|>",
    "<|endoftext|>",
    "!",
    *"lowers",
    "lo",
    "low",
    "low</w>",
    "e",
    "r</w>",
    "er</w>",
    "Ã",
    "¤</w>",
]
MERGES = ["l o", "lo w", "lo w</w>", "e r</w>"]
ABOUT = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 5}


def made(padding: str = "<|endoftext|>", length: int = 8) -> Tokenizer:
    return tokenizer({word: i for i, word in enumerate(WORDS)}, MERGES, length, padding)


def words(text: str, **said: Any) -> list[str]:
    return [WORDS[number] for number in made(**said).numbers(text)]


def test_pairs_are_merged_in_the_order_of_the_file() -> None:
    assert words("  Low \n LOWER")[:5] == ["<|startoftext|>", "low</w>", "low", "er</w>", "<|endoftext|>"]


def test_marks_beyond_ascii_are_bytes_and_a_composed_letter_is_as_its_parts() -> None:
    assert words("ä")[1:3] == words("a\N{COMBINING DIAERESIS}")[1:3] == ["Ã", "¤</w>"]


def test_a_long_text_is_cut_and_keeps_its_end_and_a_short_one_is_padded() -> None:
    assert words("low " * 20) == ["<|startoftext|>", *["low</w>"] * 6, "<|endoftext|>"]
    assert words("low", padding="!")[2:] == ["<|endoftext|>", *"!!!!!"]


def test_texts_are_split_as_the_original_expression_splits_them() -> None:
    found = list(pieces("it's 42 o'clock!?'s <|endoftext|>we'll"))
    assert found == ["it", "'s", "4", "2", "o", "'", "clock", "!?'", "s", "<|endoftext|>", "we", "'ll"]


def test_a_token_sees_only_those_before_it() -> None:
    torch.manual_seed(1)
    encoder = TextEncoder(ABOUT).eval()
    one, other = (encoder(torch.tensor([[1, 2, 3, last]])).detach() for last in (0, 4))
    assert torch.equal(one[:, :3], other[:, :3])
    assert not torch.allclose(one[:, 3], other[:, 3])


@pytest.mark.parametrize(
    ("vocabulary", "merges", "length", "why"),
    [
        ({"a": 0}, [], 8, "knows no '<|startoftext|>'"),
        ({word: i for i, word in enumerate(WORDS)}, ["a b c"], 8, "something else than pairs"),
        ({word: str(i) for i, word in enumerate(WORDS)}, [], 8, "something else than numbers"),
        ({word: i for i, word in enumerate(WORDS)}, [], 2, "gives 2 tokens"),
    ],
)
def test_damaged_vocabularies_are_refused(vocabulary: dict[str, Any], merges: list[str], length: int, why: str) -> None:
    with pytest.raises(UnreadableModel, match=why.replace("|", r"\|")):
        tokenizer(vocabulary, merges, length, "<|endoftext|>")


def test_weights_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    path, whole = tmp_path / "model.safetensors", TextEncoder(ABOUT).state_dict()
    save_file(whole, path)
    assert text_encoder(ABOUT, path).longest == 77
    first = next(iter(whole))
    for damaged, why in (
        (dict(itertools.islice(whole.items(), 1, None)), first),
        ({**whole, "more": torch.zeros(1)}, "more"),
        ({**whole, first: torch.zeros(2, 2)}, first),
        ({**whole, first: torch.full_like(whole[first], torch.nan)}, "NaN"),
    ):
        save_file(damaged, path)
        with pytest.raises(UnreadableModel, match=why):
            text_encoder(ABOUT, path)
    for about in ({}, {**ABOUT, "hidden_act": "swish"}, {**ABOUT, "use_attention_mask": True}):
        with pytest.raises(UnreadableModel):
            text_encoder(about, path)
