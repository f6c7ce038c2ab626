"""Giving a model folder to others on the Hugging Face hub."""

from __future__ import annotations

from pathlib import Path

from itm_fast.models.card import load_model
from itm_fast.models.hub import check_name, client


def push_model(folder: str | Path, repo_id: str, *, private: bool = False, token: str | None = None) -> str:
    """Upload a folder that `save_model` wrote; the repository is made if it does not exist.

    Args:
        folder: With model.safetensors, config.json and vocab.json.
        repo_id: "owner/name".
        private: Of a repository that is made now.
        token: Access token; None takes the one that `hf auth login` kept.

    Returns:
        Address of the commit.

    Raises:
        DataError: The folder is no model that can be loaded.
        FileNotFoundError: A file of it is missing.
        ImportError: huggingface_hub is not installed.
        ValueError: `repo_id` is no name of a repository.
    """
    check_name(repo_id)
    hub = client()
    load_model(folder)  # what cannot be loaded here is not given to others
    api = hub.HfApi(token=token)
    api.create_repo(repo_id, private=private, exist_ok=True)
    commit = api.upload_folder(
        repo_id=repo_id, folder_path=str(folder), ignore_patterns=[".*"], commit_message="itm-fast model"
    )
    return str(commit.commit_url)
