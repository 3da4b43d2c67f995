"""Codecs on disk: the parts of a T5 codec beside each other, or any other kind in a folder of its own."""

from __future__ import annotations

from pathlib import Path

import torch

from latdiff.checkpoints import CheckpointError, class_of, folder_of, save_whole
from latdiff.codecs.protocol import Codec
from latdiff.codecs.t5 import TextCodec
from latdiff.errors import UserError, first_line
from latdiff.hub import push
from latdiff.models.autoencoder import LatentAutoencoder
from latdiff.models.backbone import BackboneError, load_backbone
from latdiff.models.saved import refuse_gaps


def save_codec(codec: Codec, folder: str | Path) -> None:
    """Write a codec into a checkpoint's folder, as `load_codec` and a pipeline read it.

    The configuration of its last part comes last, so that where it is the codec is whole.
    """
    parts = getattr(codec, "components", {"codec": codec})

    def save(place: Path) -> None:
        for name, part in parts.items():
            part.save_pretrained(place / name)

    save_whole(Path(folder), f"{list(parts)[-1]}/config.json", save)


def push_codec(codec: Codec, repo_id: str, *given) -> str:
    """Upload a codec as `save_codec` writes it; what is given besides is `push`'s from `commit_message` on."""
    snippet = f'from latdiff import load_codec\n\ncodec = load_codec("{repo_id}")'
    return push(lambda folder: save_codec(codec, folder), repo_id, "A codec between texts and latents", snippet, *given)


def load_codec(folder: str | Path) -> Codec:
    """The codec of a checkpoint, in float32.

    Args:
        folder: of the checkpoint, or the hub id of one.

    Raises:
        CheckpointError: When parts are missing, cut short, or of an unknown kind.
        UserError: When a model that the codec names is not here, or is another one.

    Examples:
        >>> from latdiff import load_codec
        >>> codec = load_codec("storyworld")
        >>> latents = codec.encode(["My aunt and I walk to the harbor."])
        >>> latents.shape[1:] == codec.latent_shape, len(codec.decode(latents))
        (True, 1)
    """
    folder = folder_of(folder)
    if (folder / "codec").is_dir():
        return _of_class(folder / "codec")
    missing = [part for part in ("tokenizer", "text_model", "autoencoder") if not (folder / part).is_dir()]
    if missing and (folder / "autoencoder").is_dir():  # trained last
        raise CheckpointError(f"{folder} is incomplete: no {' and no '.join(missing)}; copy the whole folder again")
    if missing:
        raise CheckpointError(f"{folder} holds no {' and no '.join(missing)}; train them with `latdiff train-ae`")
    tokenizer, text_model = load_text_model(folder)
    try:
        autoencoder = LatentAutoencoder.from_pretrained(folder / "autoencoder", local_files_only=True,
                                                        use_safetensors=True)
    except UserError:
        raise
    except Exception as error:  # diffusers, safetensors and json each raise kinds of their own
        raise CheckpointError(f"{folder / 'autoencoder'} is cut short or damaged: {first_line(error)}") from error
    refuse_gaps(folder / "autoencoder", autoencoder)
    return TextCodec(tokenizer, text_model, autoencoder.requires_grad_(False).eval())


def load_text_model(folder: Path) -> tuple:
    """Tokenizer and text model of a checkpoint. Raises CheckpointError where they are damaged or lack weights."""
    try:
        return load_backbone(str(folder / "text_model"), str(folder / "tokenizer"), what="the text model")
    except BackboneError as error:
        raise CheckpointError(f"{folder} is cut short or damaged: {error}") from error


def _of_class(folder: Path) -> Codec:
    """A codec that is one part, of the class that its config.json names."""
    kind = class_of(folder / "config.json")
    try:
        codec = kind.from_pretrained(folder)
    except UserError:
        raise
    except Exception as error:  # diffusers, peft, transformers and safetensors each raise kinds of their own
        raise CheckpointError(f"{folder} is no codec that latdiff knows, or is damaged: {first_line(error)}") from error
    if isinstance(codec, torch.nn.Module):
        refuse_gaps(folder, codec)
    return codec
