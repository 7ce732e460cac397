"""Push a directory to the Hugging Face hub, privately unless told otherwise. Knows no model."""

from __future__ import annotations

from pathlib import Path

from train.errors import ExportError


def push_directory(
    directory: Path, repository: str, *, private: bool = True, endpoint: str | None = None
) -> str:
    """Upload a directory as a model repository, which is made if it does not exist; return its address.

    Args:
        directory: all of its files are uploaded; those in directories whose names begin with a dot are not.
        repository: such as `you/whisper-base-mr`.
        private: whether a repository that is made now can be seen by its owner alone.
        endpoint: address of the hub; huggingface_hub's own (HF_ENDPOINT) if None.

    Raises:
        ExportError: there is no token, or the hub refuses; one sentence says which.
    """
    from huggingface_hub import HfApi, get_token
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    if (token := get_token()) is None:
        raise ExportError("there is no Hugging Face token: set HF_TOKEN, or log in with 'hf auth login'")
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
        raise ExportError(f"'{repository}' is no name of a repository such as you/whisper-base-mr") from error
    except HfHubHTTPError as error:
        reason = f"{error.response.status_code} {error.response.reason_phrase}"
        raise ExportError(f"the hub refuses {repository} ({reason}): may this token write there?") from error
    except Exception as error:  # of the HTTP library that huggingface_hub happens to use
        raise ExportError(f"the hub at {api.endpoint} cannot be used: {error}") from error
    return str(made)
