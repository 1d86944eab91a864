"""Models of the Hugging Face hub, `hub:owner/name`, copied to the user's cache through huggingface_hub. Only a user's own words name one."""

import functools
import os
import re
from pathlib import Path
from typing import Any

from meanstep.program.console import UserError
from meanstep.program.disk import made

PREFIX = "hub:"
NAME = re.compile(r"[\w.-]+/[\w.-]+")
WANTED = ("*.json", "*.yaml", "*.safetensors", "README.md")
"""What is copied: nothing that could run."""


def local(path: Path) -> Path:
    """The folder itself, or the copy of `hub:owner/name[@revision]`; `UserError` if there is no such model, or it cannot be had."""
    spec = str(path)
    return _copied(spec.removeprefix(PREFIX)) if spec.startswith(PREFIX) else path


@functools.cache
def _copied(spec: str) -> Path:
    name, _, revision = spec.partition("@")
    from meanstep.program.data.ensured import user_folder  # which imports torch

    library, folder = hub(f"{PREFIX}{spec}"), user_folder() / "hub" / spec.replace("/", "--")
    check(name, f"{PREFIX}{spec}")
    try:
        how: dict[str, Any] = {"allow_patterns": list(WANTED), "local_dir": made(folder), "endpoint": endpoint()}
        return Path(library.snapshot_download(name, revision=revision or None, **how))
    except Exception as error:  # the library raises dozens of kinds, of its own and of the network's
        raise UserError(f"cannot fetch {PREFIX}{spec}: {told(error)}") from None


def hub(what: str) -> Any:
    """huggingface_hub; `UserError` without it."""
    try:
        import huggingface_hub
    except ImportError:
        raise UserError(f"{what} needs huggingface_hub: pip install 'meanstep[hub]'") from None
    return huggingface_hub


def check(name: str, what: str) -> None:
    """`UserError` unless it is `owner/name`."""
    if not NAME.fullmatch(name) or ".." in name:
        raise UserError(f"{what}: a model of the hub is named owner/name")


def endpoint() -> str | None:
    """Where the hub is, if not in its usual place: $HF_ENDPOINT, now."""
    return os.environ.get("HF_ENDPOINT") or None


def told(error: BaseException) -> str:
    """An error in one line, without anything that looks like a token."""
    text = " ".join(str(error).split()) or type(error).__name__
    return re.sub(r"hf_\w+|Bearer \S+", "(token)", text)[:200]
