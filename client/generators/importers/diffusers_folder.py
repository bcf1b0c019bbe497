"""Folders of the diffusers library: configuration as JSON, weights as safetensors, classes from a list of ours.

Neither a pickle nor code of the folder is ever loaded: a folder without safetensors is refused.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import nn

from client.generators.importers import clip_text
from client.generators.importers.clip_text import TextEncoder, Tokenizer
from client.generators.interface import Origin
from common.errors import FetchError, SettingError, UnreadableModel

INDEX, CONFIG = "model_index.json", "config.json"
MODELS = ("UNet2DModel", "UNet2DConditionModel", "AutoencoderKL")
"""Classes of diffusers that are filled from a folder."""
TOKENIZERS, ENCODERS = ("CLIPTokenizer", "CLIPTokenizerFast"), ("CLIPTextModel", "CLIPTextModelWithProjection")
_FETCHED = ("*.json", "*.safetensors", "*.txt")
_LARGEST_JSON = 1 << 24
_EXTRA = "it needs the diffusers library: pip install 'plgl[diffusers]'"


def library(name: str) -> Any:
    """The module ``diffusers``, or one it needs.

    Raises:
        SettingError: it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise SettingError(f"{name} cannot be imported ({error}); {_EXTRA}") from error


def folder_of(path: Path) -> Path:
    """The folder meant by a folder, by one of its JSON files, or by the name of a model on the hub, fetched then.

    Raises:
        UnreadableModel: none of these.
        FetchError: the hub did not give it.
    """
    if path.is_dir():
        return path
    if path.is_file():
        return path.parent
    name = path.as_posix()
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}", name):
        raise UnreadableModel(f"there is no folder {path}; give a pipeline's folder, or owner/name of one on the hub")
    return _fetched(name)


def _fetched(name: str) -> Path:
    hub = library("huggingface_hub")
    try:
        return Path(hub.snapshot_download(name, allow_patterns=list(_FETCHED)))
    except Exception as error:  # the hub has an error of its own for each cause, and passes on those of the network
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise FetchError(f"{name} could not be fetched from the hub: {first[:200]}; or give a folder") from error


def read_json(path: Path) -> dict[str, Any]:
    """One JSON object.

    Raises:
        UnreadableModel: no such file, too large, or no object.
    """
    try:
        with path.open("rb") as file:
            content = file.read(_LARGEST_JSON + 1)
        about = json.loads(content) if len(content) <= _LARGEST_JSON else None
    except (OSError, ValueError, RecursionError) as error:
        raise UnreadableModel(f"{path} cannot be read: {error}; get the folder again") from error
    if not isinstance(about, dict):
        raise UnreadableModel(f"{path} is no description of a model; get the folder again")
    return about


def model(folder: Path, name: str = "") -> Any:
    """A network of a folder, in eval mode.

    Args:
        folder: of the pipeline, or of the network itself.
        name: sub-folder, such as ``unet``; empty for the folder itself.

    Raises:
        UnreadableModel: its class is not one of `MODELS`, it has no safetensors, or they do not fit the class.
    """
    place = folder / name if name else folder
    kind = _class_of(folder, place, name, MODELS)
    _refuse_links(place)
    if not any(place.glob("*.safetensors")):
        raise _without_weights(place)
    with _loading(place):
        found, about = getattr(library("diffusers"), kind).from_pretrained(
            str(place),
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
            low_cpu_mem_usage=False,
        )
    for what in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if names := [str(each) for each in about.get(what, ())]:
            raise UnreadableModel(f"{place} has {what.replace('_', ' ')} such as {names[0][:80]}; get it again")
    return _checked(found, place)


def text_parts(folder: Path) -> tuple[Tokenizer, TextEncoder]:
    """Tokenizer and text encoder of a prompted pipeline.

    Raises:
        UnreadableModel: they are not CLIP's, or a file is missing or damaged.
    """
    place = folder / "text_encoder"
    _class_of(folder, place, place.name, ENCODERS)
    if not (place / "model.safetensors").is_file():
        raise _without_weights(place)
    encoder = clip_text.text_encoder(read_json(place / CONFIG), place / "model.safetensors")
    _class_of(folder, folder / "tokenizer", "tokenizer", TOKENIZERS)
    return _tokenizer(folder / "tokenizer", encoder.longest), encoder


def _tokenizer(place: Path, longest: int) -> Tokenizer:
    """From ``tokenizer.json``, or from ``vocab.json`` and ``merges.txt``, which older versions wrote."""
    said = read_json(place / "tokenizer_config.json")
    if (place / "tokenizer.json").is_file():
        both = read_json(place / "tokenizer.json").get("model")
        vocabulary, merges = (both.get("vocab"), both.get("merges")) if isinstance(both, dict) else (None, None)
    else:
        vocabulary, merges = read_json(place / "vocab.json"), _lines(place / "merges.txt")
    if not isinstance(vocabulary, dict) or not isinstance(merges, list):
        raise UnreadableModel(f"{place} holds no byte-pair vocabulary; get the folder again")
    length, padding = said.get("model_max_length"), said.get("pad_token", clip_text.END)
    padding = padding.get("content") if isinstance(padding, dict) else padding
    length = min(length, longest) if isinstance(length, int | float) else longest
    return clip_text.tokenizer(vocabulary, merges, int(length), str(padding))


def origin_of_folder(folder: Path) -> Origin:
    """Name of a folder, and the SHA-256 of the names and SHA-256 of its JSON, text and safetensors files."""
    whole = hashlib.sha256()
    for path in sorted(p for pattern in _FETCHED for p in folder.rglob(pattern)):
        with path.open("rb") as file:
            line = f"{path.relative_to(folder).as_posix()} {hashlib.file_digest(file, 'sha256').hexdigest()}\n"
        whole.update(line.encode())
    return Origin(file=folder.resolve().name[:255] or "folder", sha256=whole.hexdigest())


def _class_of(folder: Path, place: Path, name: str, known: tuple[str, ...]) -> str:
    """Class of a part: as the pipeline's index says, else as its own configuration says; one of those known."""
    entry = read_json(folder / INDEX).get(name) if name and (folder / INDEX).is_file() else None
    if not isinstance(entry, list) or len(entry) != 2:
        entry = ["", read_json(place / CONFIG).get("_class_name", "")]
    kind = str(entry[1])
    if kind not in known:
        raise UnreadableModel(f"{place} is a {kind[:60]!r}; known: {', '.join(known)}")
    return kind


def _lines(path: Path) -> list[str]:
    """Lines of a text that are no comment.

    Raises:
        UnreadableModel: it cannot be read.
    """
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise UnreadableModel(f"{path} cannot be read: {error}; get the folder again") from error
    return [line for line in lines if line and not line.startswith("#version")]


def _without_weights(place: Path) -> UnreadableModel:
    return UnreadableModel(f"{place} holds no safetensors, and pickles are not opened; save it with them")


def _refuse_links(place: Path) -> None:
    """An index of shards may name files elsewhere."""
    for path in place.glob("*.safetensors.index.json"):
        names = read_json(path).get("weight_map", {})
        if not isinstance(names, dict) or any(Path(str(each)).name != each for each in names.values()):
            raise UnreadableModel(f"{path} names files outside its folder; get the folder again")


def _checked(network: nn.Module, place: Path) -> nn.Module:
    for name, value in network.state_dict().items():
        if value.is_floating_point() and not bool(value.isfinite().all()):
            raise UnreadableModel(f"{place} holds NaN or infinite weights in {name[:60]!r}; use an earlier one")
    return network.float().eval().requires_grad_(False)


@contextmanager
def _loading(place: Path) -> Iterator[None]:
    """Errors of the libraries as ours, and their advice to install more kept quiet."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    except Exception as error:  # each library raises errors of its own
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UnreadableModel(f"{place} cannot be loaded: {first[:200]}; get the folder again") from error
    finally:
        logging.disable(before)
