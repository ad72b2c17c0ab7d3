"""Models of the transformers library from a folder or a configuration, without running any code of the folder's."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lepton.errors import CheckpointError, ConfigurationError, import_extra, nearest

__all__ = ["OWNER", "encoder_of", "load_model", "read_model_config"]

OWNER = "HuggingFaceTrunk"
"""Who speaks in messages."""

_CODE = ("auto_map", "attn_implementation", "experts_implementation")
"""Keys of a config.json that name code elsewhere: classes beside the weights, kernels of the hub. They are left out, as
are those that begin with an underscore, which also hold paths."""


def read_model_config(folder: Path | str) -> dict[str, Any]:
    """Return what the `config.json` of a folder, or of a model on the hub, says.

    Args:
        folder: a folder, or `owner/name` on the hub where there is no such folder.

    Raises:
        ConfigurationError: there is no such folder, no config.json in it, or it is no JSON.
    """
    path = Path(folder)
    if not path.is_dir():
        return _hub_config(str(folder))
    file = path / "config.json"
    if not file.is_file():
        found = sorted(entry.name for entry in path.iterdir())[:12]
        raise ConfigurationError(
            f"{OWNER}: there is no config.json in {str(path)!r}, which holds {found}: give a folder that "
            "save_pretrained wrote."
        )
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigurationError(f"{OWNER}: {str(file)!r} is not JSON: {error}") from error
    return content if isinstance(content, dict) else {}


def _hub_config(name: str) -> dict[str, Any]:
    path = Path(name)
    siblings = [entry.name for entry in path.parent.iterdir() if entry.is_dir()] if path.parent.is_dir() else []
    if name.count("/") != 1 or path.parent.is_dir():  # not `owner/name`, or a folder beside those of a known place
        words = f"{OWNER}: there is no folder {name!r}.{nearest(path.name, siblings)}"
        raise ConfigurationError(f"{words} A model on the hub is written owner/name.")
    transformers = _transformers()
    try:
        found: dict[str, Any] = transformers.PreTrainedConfig.get_config_dict(name)[0]
    except OSError as error:
        raise ConfigurationError(
            f"{OWNER}: there is no folder {name!r}, and no model of that name could be read from the hub: {error}"
        ) from error
    return found


def load_model(config: Mapping[str, Any], folder: Path | str | None) -> tuple[nn.Module, dict[str, Any], set[str]]:
    """Return the model, its complete configuration as JSON holds it, and the parameters that the weights lack.

    Args:
        config: what a config.json says.
        folder: where the weights are; None for random weights.

    Raises:
        ConfigurationError: an architecture that transformers does not know, weights that are no safetensors.
        CheckpointError: weights that are damaged, or of another model than the configuration's.
    """
    made = _config_object(config)
    content = _plain(json.loads(made.to_json_string(use_diff=False)))
    made.use_cache = False  # keys and values of past tokens are of no use where whole texts are read
    auto = _transformers().AutoModel
    if folder is None:
        return auto.from_config(made, trust_remote_code=False, dtype=torch.float32), content, set()
    if Path(folder).is_dir():
        _check_weights(Path(folder))
    try:
        with _quiet():
            model, info = auto.from_pretrained(
                folder,
                config=made,
                trust_remote_code=False,
                use_safetensors=True,
                local_files_only=Path(folder).is_dir(),
                dtype=torch.float32,
                output_loading_info=True,
            )
    except (OSError, RuntimeError, ValueError, import_extra("safetensors", "hf", OWNER).SafetensorError) as error:
        raise CheckpointError(f"{OWNER}: the weights in {str(folder)!r} cannot be loaded: {error}") from error
    return model, content, set(info["missing_keys"])


def _transformers() -> Any:
    return import_extra("transformers", "hf", OWNER)


def _plain(content: Any) -> Any:
    """Return a configuration without the keys that name code or places."""
    if isinstance(content, Mapping):
        kept = {key: value for key, value in content.items() if key not in _CODE and not str(key).startswith("_")}
        return {key: _plain(value) for key, value in kept.items()}
    return content


def _config_object(config: Mapping[str, Any]) -> Any:
    known = _transformers().CONFIG_MAPPING
    kind = config.get("model_type")
    if kind not in known:
        raise ConfigurationError(
            f"{OWNER}: the configuration's model_type is {kind!r}, which transformers does not know."
            f"{nearest(str(kind), known)} Code that comes with a model is never run."
        )
    if config.get("quantization_config") is not None:
        raise ConfigurationError(
            f"{OWNER}: the weights are quantised (quantization_config), which cannot be trained: give the model from "
            "which they were made."
        )
    strict = import_extra("huggingface_hub.errors", "hf", OWNER).StrictDataclassError
    try:
        return known[kind].from_dict(_plain(config))
    except (TypeError, ValueError, strict) as error:
        raise ConfigurationError(f"{OWNER}: the configuration of {kind!r} has a wrong value: {error}") from error


def _check_weights(folder: Path) -> None:
    if not any(folder.glob("*.safetensors")):
        found = sorted(entry.name for entry in folder.iterdir())[:12]
        raise ConfigurationError(
            f"{OWNER}: {str(folder)!r} has no model.safetensors; it holds {found}. Pickled weights (.bin) are "
            "never read, since that can run code: write them anew with save_pretrained, or take random weights with "
            "initialise=False."
        )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the table of missing and unexpected weights: heads and decoders are left out here on purpose."""
    logging = import_extra("transformers.utils.logging", "hf", OWNER)
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def encoder_of(model: Any) -> nn.Module:
    """Return the part that reads: the encoder of an encoder-decoder, otherwise the whole model.

    Raises:
        ConfigurationError: the model reads something else than tokens.
    """
    # By its parts: an encoder that was saved alone says in its configuration that it is no encoder-decoder.
    both = all(getattr(model, part, None) is not None for part in ("encoder", "decoder"))
    found: Any = model.get_encoder() if both else model
    reads = getattr(found, "main_input_name", "input_ids")
    if reads != "input_ids":
        raise ConfigurationError(f"{OWNER}: {type(model).__name__} reads {reads}, not the tokens of a text.")
    return found  # type: ignore[no-any-return]
