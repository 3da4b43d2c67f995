"""What pipelines with a codec share: its parts in their folder, and how those are saved and opened."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import ClassVar

from diffusers import DiffusionPipeline
from transformers import PreTrainedModel

from latdiff.checkpoints import CheckpointError, may_be_id, shipped
from latdiff.codecs.files import load_text_model
from latdiff.codecs.protocol import Codec
from latdiff.codecs.t5 import TextCodec
from latdiff.errors import UserError, shown
from latdiff.heads.inputs import check_name
from latdiff.heads.linear import LinearHead
from latdiff.hub import push
from latdiff.models.backbone import keep_tokens_alone
from latdiff.pipelines.index import check_finished, check_index
from latdiff.versions import record_versions

OF_HUB = ("revision", "cache_dir", "token", "local_files_only", "force_download")  # settings of a download
CODEC_PARTS = ["tokenizer", "text_model", "autoencoder", "codec"]


class CodecPipeline(DiffusionPipeline):
    """A pipeline whose codec is one part, `codec`, or the three parts of a TextCodec, which stand beside the others."""

    _optional_components: ClassVar[list[str]] = CODEC_PARTS

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, **settings):
        """As diffusers', also by the name of a pipeline that comes with latdiff, such as english.

        Weights are read from safetensors alone, and no code of a checkpoint is run. Only owner/name is a hub id, and
        only where there is no folder of that owner here.

        Raises:
            CheckpointError: For a folder that is none or holds no pipeline, and for one whose index is refused.
        """
        place = shipped(pretrained_model_name_or_path)
        if place.exists() or not may_be_id(pretrained_model_name_or_path) or place.parent.exists():
            check_finished(place)
            check_index(place)
        safely = {"use_safetensors": True, "trust_remote_code": False}
        return super().from_pretrained(place if place.exists() else pretrained_model_name_or_path, **settings | safely)

    @classmethod
    def download(cls, pretrained_model_name, **settings):
        """The folder that a pipeline of the hub was fetched into, heads and all.

        diffusers itself would look for the code of parts that are not its own. The index is checked before a part is
        opened.
        """
        from huggingface_hub import snapshot_download

        folder = snapshot_download(pretrained_model_name, **{key: settings[key] for key in OF_HUB if key in settings})
        check_finished(Path(folder))
        check_index(Path(folder))
        return folder

    @classmethod
    def load_config(cls, *arguments, **settings):
        """As diffusers'; pipelines of before 0.1.0 name files of latdiff, such as latdiff.autoencoder."""
        config = super().load_config(*arguments, **settings)
        for value in (config[0] if isinstance(config, tuple) else config).values():
            if isinstance(value, list) and str(value[0]).startswith("latdiff."):
                value[0] = "latdiff"
        return config

    @classmethod
    def parts_of(cls, folder: Path) -> dict:
        """Parts of a saved pipeline that `open_checkpoint` loads apart: transformers only warns of missing weights."""
        if not (folder / "text_model").is_dir():
            return {}
        return dict(zip(("tokenizer", "text_model"), load_text_model(folder), strict=True))

    def save_pretrained(self, save_directory, *arguments, push_to_hub: bool = False, **settings) -> None:
        """As diffusers', which would leave a codec that cannot be saved out of the folder with a log line."""
        if push_to_hub:
            raise UserError("push_to_hub is True, which would upload all that lies in the folder; call push_to_hub of "
                            "the pipeline, or `latdiff publish CHECKPOINT --to-hub owner/name`")
        if not isinstance(self.codec, TextCodec) and not hasattr(self.codec, "save_pretrained"):
            raise UserError(f"codec {type(self.codec).__name__} cannot be saved: it has no save_pretrained; make it a "
                            "diffusers ModelMixin")
        super().save_pretrained(save_directory, *arguments, **settings)
        record_versions(Path(save_directory))

    def push_to_hub(
        self, repo_id: str, heads: LinearHead | Iterable[LinearHead] = (), commit_message: str | None = None,
        private: bool | None = None, token: str | None = None, create_pr: bool = False,
    ) -> str:
        """Upload the pipeline, and heads, to the Hugging Face hub, where `open_checkpoint("owner/name")` finds it.

        The figures, the recipe and the card of a checkpoint's folder go along with `latdiff publish CHECKPOINT --to-hub
        owner/name`, which uploads large weights in half precision.

        Args:
            repo_id: Where to, owner/name; made where it does not exist.
            heads: Fitted heads, or one, each of a name of its own, for `latdiff sample owner/name --guide NAME=LABEL`.
            commit_message: Of the commit.
            private: Whether a repository that is made is private.
            token: Of the hub (default: that of `hf auth login`).
            create_pr: Open a pull request with it in place of a commit.

        Returns:
            The address of the commit.

        Raises:
            UserError: For a name that is none, what is no head, heads of one name, a head of another codec, a codec
                that names a model by a folder of this machine, and for what the hub refuses.
        """
        named = _by_name(heads)
        for name, head in named.items():
            if head.codec_digest not in (None, self.codec.digest):
                raise UserError(f"head {name!r} was fitted on latents of codec {head.codec_digest}, but the codec "
                                f"here is {self.codec.digest}; fit it again, or leave it out")

        def save(folder: Path) -> None:
            self.save_pretrained(folder)
            for name, head in named.items():
                head.save(folder / "heads" / name)

        snippet = f'from latdiff import open_checkpoint\n\npipe = open_checkpoint("{repo_id}")'
        return push(save, repo_id, "A latent diffusion model of text", snippet, commit_message, private, token,
                    create_pr)

    @property
    def codec(self) -> Codec:
        """Text to latents and back, for fitting heads and for looking at latents."""
        return self._codec or TextCodec(self.tokenizer, self.text_model, self.autoencoder)

    @codec.setter
    def codec(self, codec: Codec | None) -> None:
        self._codec = codec

    def _check_codec(self, known: str, what: str) -> None:
        """Raise CheckpointError where the codec is not the one that a part was trained on."""
        if self.codec.digest != known:
            raise CheckpointError(
                f"the {what} was trained on latents of codec {known}, but the codec here is {self.codec.digest}; "
                "take all parts from one checkpoint, or retrain it"
            )


def _by_name(heads: object) -> dict[str, LinearHead]:
    """Heads, or one, by their names. Raises UserError for what is no head, and for a name that no folder can have."""
    named: dict[str, LinearHead] = {}
    for head in heads if isinstance(heads, Iterable) and not isinstance(heads, str) else [heads]:
        if not isinstance(head, LinearHead):
            raise UserError(f"heads has {shown(head)}, must be fitted heads: heads=[load_head(...)]")
        check_name(head.name)
        if head.name in named:
            raise UserError(f"two of the heads are called {head.name!r}, and each has a folder of its name; rename one "
                            "with head.name = ...")
        named[head.name] = head
    return named


def codec_parts(tokenizer, text_model, autoencoder, codec: Codec | None) -> dict:
    """Modules to register of what a pipeline was given: a TextCodec is taken apart, for it is saved so."""
    if isinstance(codec, TextCodec):
        tokenizer, text_model, autoencoder, codec = *codec.components.values(), None
    if isinstance(text_model, PreTrainedModel):  # which diffusers has loaded, where `open_checkpoint` has not
        keep_tokens_alone(text_model)
    return dict(zip(CODEC_PARTS, (tokenizer, text_model, autoencoder, codec), strict=True))
