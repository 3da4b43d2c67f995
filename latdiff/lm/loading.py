"""How is a language model of transformers loaded, and how much does it read?"""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedConfig
from transformers.utils import (
    ADAPTER_CONFIG_NAME,
    CONFIG_NAME,
    SAFE_WEIGHTS_INDEX_NAME,
    SAFE_WEIGHTS_NAME,
    cached_file,
)
from transformers.utils.hub import get_checkpoint_shard_files

from latdiff.bars import without_bars
from latdiff.errors import UserError, first_line
from latdiff.fetch import MODELS, located
from latdiff.offline import not_waiting_for_the_hub
from latdiff.precision import default_device
from latdiff.weights import WeightsError, config_of, count, held_in, refuse_sizes

PACKED = 16  # so many numbers at most are one in the file of a model whose weights are quantised
SLACK = 2  # so many are, at most, in others: a file need not hold what is tied to another weight


class LanguageModelError(UserError):
    """A language model that cannot be loaded or used, in one sentence."""


def load_pretrained(
    auto, path: str | Path, refuse: Callable[[str], UserError], tokenizer: str | Path | None = None,
    prepare: Callable[[PreTrainedConfig], None] | None = None,
) -> tuple:
    """Tokenizer and model, in float32 and ready to read.

    Weights are read from safetensors alone and no code of the repository's is run; a folder is never looked up on the
    hub. Weights are held against the configuration before memory is taken for them, those of a hub id once they are
    fetched. A pooler may lack weights, for nothing here reads it.

    Args:
        auto: a transformers auto class, such as AutoModelForCausalLM.
        path: a folder or a hub id.
        refuse: makes the error to raise of a reason, such as "lacks 2 weights, the first is ...".
        tokenizer: the folder or hub id of one that lies elsewhere.
        prepare: gets the configuration before a weight is read, to refuse it or to change it.
    """
    with _refusing(path, refuse), not_waiting_for_the_hub(not Path(path).is_dir()):
        most = _numbers_that_fit(Path(path) if Path(path).is_dir() else _fetched(str(path)))
        config = AutoConfig.from_pretrained(path, **_safely(path))
        if prepare:
            prepare(config)
        _refuse_more(auto, config, most)
        read = load_tokenizer(tokenizer or path, refuse)
        with without_bars():  # what takes long was fetched above
            model, loading = auto.from_pretrained(path, config=config, dtype=torch.float32, use_safetensors=True,
                                                  output_loading_info=True, **_safely(path))
        lost = sorted(name for name in loading["missing_keys"] if "pooler" not in name)
        if lost:  # transformers only warns, and leaves them random
            raise refuse(f"lacks {len(lost)} weights, the first is {lost[0]}; copy or save it again")
        for name in loading["missing_keys"]:  # a pooler's, which are the same at every loading
            torch.nn.init.zeros_(model.get_parameter(name))
        broken = [name for name, value in model.named_parameters() if not value.isfinite().all()]
        if broken:
            raise refuse(f"has weights that are not finite, the first is {broken[0]}; copy or train it again")
        rows = model.get_input_embeddings().num_embeddings
        if len(read) > rows:
            raise refuse(f"has embeddings of {rows:,} tokens, but a tokenizer of {len(read):,}; take its own")
    return read, model.eval()


def load_tokenizer(path: str | Path, refuse: Callable[[str], UserError]):
    """The tokenizer of a folder or a hub id.

    Args:
        path: a folder or a hub id.
        refuse: makes the error to raise of a reason.
    """
    with _refusing(path, refuse):
        found = AutoTokenizer.from_pretrained(path, **_safely(path))
        if not found("a", add_special_tokens=False).input_ids:  # transformers makes an empty one where there is none
            raise refuse("has no tokenizer; save its own beside it")
        return found


def _fetched(name: str) -> Path:
    """The folder that a hub id's configuration and weights lie in, where transformers puts them."""
    optional = {"_raise_exceptions_for_missing_entries": False}
    cached_file(name, ADAPTER_CONFIG_NAME, **optional)  # so that it lies beside the others
    config = cached_file(name, CONFIG_NAME)
    if not cached_file(name, SAFE_WEIGHTS_NAME, **optional):
        index = cached_file(name, SAFE_WEIGHTS_INDEX_NAME, **optional)
        if index is None:
            return Path(name)  # which transformers looks for in other places
        get_checkpoint_shard_files(name, index)
    return Path(config).parent


def _numbers_that_fit(folder: Path) -> int | None:
    """How many numbers a model may have that is loaded from a folder, by its files.

    Raises WeightsError for files that cannot be used, and for a configuration that is not of such files.
    """
    if not (folder / "config.json").is_file():
        return None  # transformers says what a folder lacks
    if (folder / "adapter_config.json").exists():  # transformers would load another model, which that file names
        raise WeightsError("it holds an adapter (adapter_config.json) beside the model; merge it into the model's "
                           "weights and save those alone")
    held, config = held_in(folder), config_of(folder)
    refuse_sizes(config, held)
    return count(held) * (PACKED if "quantization_config" in config else SLACK)


def _refuse_more(auto, config: PreTrainedConfig, most: int | None) -> None:
    """Raise WeightsError for a configuration that asks for more numbers than there may be."""
    if most is None:
        return
    with torch.device("meta"):  # shapes alone
        made = auto.from_config(config, trust_remote_code=False)
    asked = sum(weight.numel() for weight in made.parameters())
    if asked > most:
        raise WeightsError(f"its config.json asks for {asked:,} numbers, more than its files can hold; copy the folder "
                           "again, or take another model")


def _safely(path: str | Path) -> dict:
    return {"local_files_only": Path(path).is_dir(), "trust_remote_code": False}


@contextlib.contextmanager
def _refusing(path: str | Path, refuse: Callable[[str], UserError]):
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # transformers, hub and safetensors each raise kinds of their own
        local, reason = Path(path).is_dir(), first_line(error)
        if re.search("no file named|use_safetensors", reason):
            reason = ("there are no weights in safetensors, and only those are read, for a pickle can run code; save "
                      "the model again with transformers' save_pretrained")
        place = "read from this folder" if local else "fetched from the hub (offline? give a local folder)"
        raise refuse(f"could not be {place}: {reason}") from error


def load_language_model(auto, path: str | Path) -> tuple:
    """Tokenizer and model, on the GPU where there is one.

    Args:
        auto: a transformers auto class, such as AutoModelForCausalLM.
        path: a folder, a hub id, or a name that `latdiff fetch` knows.

    Raises:
        UserError: Where there is no such model.
    """
    path = located(str(path)) if path in MODELS else str(path)
    if not Path(path).is_dir() and path.count("/") != 1:
        raise LanguageModelError(f"no language model {path!r}: a folder or a hub id, e.g. openai-community/gpt2")
    tokenizer, model = load_pretrained(
        auto, path, lambda reason: LanguageModelError(f"the language model {path!r} {reason}")
    )
    return tokenizer, model.to(default_device())


def causal_language_model(path: str | Path) -> tuple:
    """Tokenizer, model and the id that a text begins after.

    Raises:
        LanguageModelError: Where there is no causal language model.
    """
    tokenizer, model = load_language_model(AutoModelForCausalLM, path)
    start = model.config.bos_token_id if model.config.bos_token_id is not None else model.config.eos_token_id
    if not isinstance(start, int):
        raise LanguageModelError(f"the language model {str(path)!r} has no beginning-of-text token; take another")
    return tokenizer, model, start


def class_prefix(tokenizer, label: str, start: int) -> list[int]:
    """Ids that stand between beginning-of-text and a text of a class: the label's, and beginning-of-text again.

    Args:
        tokenizer: the language model's.
        label: the class.
        start: the id of beginning-of-text.
    """
    return [*(piece for piece in tokenizer(label).input_ids if piece != tokenizer.eos_token_id), start]


def context(model) -> int:
    """The most tokens that the model can read, by its configuration; without bound where that does not say."""
    return getattr(model.config, "max_position_embeddings", None) or sys.maxsize
