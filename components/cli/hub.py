"""Download of models from a hub into a folder that params.yaml can name; runs then depend on the folder, by digest."""

import shutil
from pathlib import Path

from components.errors import BadInput, Unreachable, disk_error
from components.pipeline.stage import folder_digest

# Weights as safetensors, configurations as JSON and text; other files of a repository are not downloaded.
WANTED = ["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja"]


def fetch(model: str, folder: Path, wanted: str | None = None) -> tuple[str, str]:
    """Bring `model`, NAME or NAME@REVISION (branch, tag or commit), into `folder`; its commit and the folder's digest.

    Complete files are not downloaded again, so an interrupted download resumes.

    Raises:
        BadInput: no such model or revision, no right to read it, or what is in the folder then has not the digest `wanted`.
        Unreachable: the hub does not answer, or breaks off.
        OSError: `folder` cannot be written, or the disk is full.
    """
    import httpx2  # huggingface_hub's HTTP client, whose errors it passes on
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, RepositoryNotFoundError, RevisionNotFoundError

    name, _, revision = model.partition("@")
    api = HfApi()
    try:
        commit = api.model_info(name, revision=revision or None).sha
        if commit is None:
            raise BadInput(model, f"{api.endpoint} names no commit of it")
        snapshot_download(name, revision=commit, local_dir=folder, allow_patterns=WANTED)
    except (RepositoryNotFoundError, RevisionNotFoundError, HFValidationError) as error:
        raise BadInput(model, f"not on {api.endpoint}, or no permission to read it ({type(error).__name__})") from error
    except (HfHubHTTPError, httpx2.HTTPError, OSError) as error:
        if disk_error(error) is not None:
            raise
        raise Unreachable(api.endpoint, str(error).splitlines()[0]) from error
    # The client's metadata has dates, which the digest must not depend on.
    shutil.rmtree(folder / ".cache", ignore_errors=True)
    digest = folder_digest(folder)
    if wanted and digest != wanted:
        raise BadInput(folder, f"has digest {digest}, expected was {wanted} ({name} at commit {commit}): do not use it")
    return commit, digest
