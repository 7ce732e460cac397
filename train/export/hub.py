"""Push a directory to the Hugging Face hub, by default to a private repository. Knows no model."""

from __future__ import annotations

from pathlib import Path

from train.errors import ExportError


def push_directory(
    directory: Path, repository: str, *, private: bool = True, endpoint: str | None = None
) -> str:
    """Upload a directory to a model repository, creating it if needed; return its address.

    Args:
        directory: Directory whose files are uploaded, except hidden ones.
        repository: Name such as `you/whisper-base-mr`.
        private: Whether a new repository is private.
        endpoint: Address of the hub; None for huggingface_hub's own (HF_ENDPOINT).

    Raises:
        ExportError: There is no token, or the hub refuses.
    """
    from huggingface_hub import HfApi, get_token
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    if (token := get_token()) is None:
        raise ExportError("no Hugging Face token: set HF_TOKEN, or log in with 'hf auth login'")
    api = HfApi(endpoint=endpoint, token=token)
    try:
        made = api.create_repo(repository, private=private, exist_ok=True)
        api.upload_folder(
            repo_id=made.repo_id,
            folder_path=directory,
            ignore_patterns=["**/.*", ".*"],
            commit_message=f"Upload {directory.name}",
        )
    except HFValidationError as error:
        raise ExportError(
            f"'{repository}' is not the name of a repository, such as you/whisper-base-mr"
        ) from error
    except HfHubHTTPError as error:
        reason = f"{error.response.status_code} {error.response.reason_phrase}"
        raise ExportError(f"the hub refuses {repository} ({reason}): may this token write there?") from error
    except Exception as error:  # huggingface_hub lets errors of its HTTP library through
        raise ExportError(f"the hub at {api.endpoint} cannot be used: {error}") from error
    return str(made)
