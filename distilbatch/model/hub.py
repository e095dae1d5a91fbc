"""Brings the checkpoint of a hub id, at one commit, into Hugging Face's cache.

The one home of ``huggingface_hub``, whose errors become ours here. That library reads its own settings when it is
imported: ``HF_HOME`` (the cache), ``HF_ENDPOINT``, ``HF_HUB_OFFLINE``, and ``HF_TOKEN`` at each call.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import huggingface_hub
from huggingface_hub import constants, errors

from distilbatch import __version__
from distilbatch.errors import CheckpointError
from distilbatch.masking import mask, mask_logs_of
from distilbatch.model.configuration import CONFIG_FILE
from distilbatch.model.files import TOKENIZER_FILES
from distilbatch.model.source import DEFAULT_REVISION, PLACE, Source
from distilbatch.model.weight_files import WEIGHT_FILES, choose_weights, is_index, read_index
from distilbatch.oserrors import storage_error

_SAID = 300  # characters of the library's messages, which go on with advice on its own options


def fetch(
    repo_id: str,
    *,
    revision: str = DEFAULT_REVISION,
    allow_pickle: bool = False,
    local_files_only: bool = False,
    endpoint: str | None = None,
    cache_dir: Path | None = None,
) -> Source:
    """Bring config, tokenizer and weights of a hub id into the cache, and nothing else.

    The revision is resolved once, and every file is of that commit. Where the hub cannot be reached, the commit
    that the cache holds for the revision serves.

    Args:
        repo_id: ``org/name``, or ``name`` for the oldest models.
        revision: A branch, tag or commit.
        allow_pickle: Take ``pytorch_model.bin`` where there are no safetensors.
        local_files_only: Do not ask the hub; ``HF_HUB_OFFLINE=1`` does the same for every call.
        endpoint: The hub; ``HF_ENDPOINT`` or huggingface.co without it.
        cache_dir: The cache; the one under ``HF_HOME`` without it.

    Raises:
        CheckpointError: The hub has no such model, revision or file, refuses access or cannot be reached, and the
            cache cannot help; or only a pickle is there.
        StopError: The cache cannot be written.
    """
    # Else each call names torch's version to the hub, and asks it which assistants to look for on this machine.
    constants.HF_HUB_DISABLE_TELEMETRY = True
    mask_logs_of("huggingface_hub")  # which names the URL whenever it tries again
    with _translated(repo_id, revision):
        download = partial(
            huggingface_hub.hf_hub_download,
            repo_id,
            cache_dir=cache_dir,
            endpoint=endpoint,
            local_files_only=local_files_only,
            library_name="distilbatch",
            library_version=__version__,
        )
        # The first file resolves the revision and notes it in the cache, for the day the hub cannot be reached.
        folder = Path(download(CONFIG_FILE, revision=revision)).parent
        commit = folder.name
        names = None if local_files_only else _listing(repo_id, commit, endpoint=endpoint)
        _fetch_files(repo_id, folder, names, partial(download, revision=commit), allow_pickle=allow_pickle)
    return Source(folder, repo_id, commit)


def _listing(repo_id: str, commit: str, *, endpoint: str | None) -> set[str] | None:
    # The files of a commit; None where the hub cannot be reached, for they may all be in the cache.
    try:
        api = huggingface_hub.HfApi(endpoint=endpoint, library_name="distilbatch", library_version=__version__)
        return set(api.list_repo_files(repo_id, revision=commit))
    except (errors.HTTPError, OSError):
        return None


def _fetch_files(
    repo_id: str, folder: Path, names: set[str] | None, download: Callable[[str], str], *, allow_pickle: bool
) -> None:
    cached = {path.name for path in folder.iterdir()}
    if names is not None:
        weights = choose_weights(names, f"hub model {repo_id}", allow_pickle=allow_pickle)
    elif cached.isdisjoint(WEIGHT_FILES):
        weights = WEIGHT_FILES[0]  # not in the cache: the download says why it cannot be had
    else:
        weights = choose_weights(cached, f"checkpoint {folder}", allow_pickle=allow_pickle)
    for name in sorted((cached if names is None else names).intersection(TOKENIZER_FILES)):
        download(name)
    path = Path(download(weights))
    if is_index(weights):
        for name in sorted(set(read_index(path).values())):
            download(name)


@contextmanager
def _translated(repo_id: str, revision: str) -> Iterator[None]:
    what = f"hub model {repo_id}"
    token = "give a token in HF_TOKEN"
    try:
        yield
    except errors.GatedRepoError as exc:
        remedy = f"accept its terms on its page of the hub, then {token}"
        raise CheckpointError(f"{what}: gated", found="no access to it", remedy=remedy) from exc
    except errors.RepositoryNotFoundError as exc:
        remedy = f"check the name, which is of no folder here either; for a private model, {token}"
        raise CheckpointError(f"{what}: the hub has no such model", expected=PLACE, remedy=remedy) from exc
    except errors.RevisionNotFoundError as exc:
        raise CheckpointError(
            f"{what}: no such revision",
            expected="a branch, tag or commit of it",
            found=revision,
            remedy="look at its list of files on the hub",
        ) from exc
    except errors.LocalEntryNotFoundError as exc:
        if exc.__cause__ is None or isinstance(exc.__cause__, errors.OfflineModeIsEnabled):
            found = "offline mode, and not all of it in the cache"
            remedy = "load it once with access to the hub: without HF_HUB_OFFLINE and local_files_only"
        else:
            found = f"{_said(exc.__cause__)}, and not all of it in the cache"
            remedy = "check the network, the proxy and HF_ENDPOINT, or name a folder with the model"
        raise CheckpointError(f"{what}: revision {revision} cannot be fetched", found=found, remedy=remedy) from exc
    except errors.EntryNotFoundError as exc:
        remedy = "choose a repository that holds a transformers checkpoint of DistilBERT"
        raise CheckpointError(f"{what}: a file is missing", found=_said(exc), remedy=remedy) from exc
    except (errors.HTTPError, OSError, ValueError) as exc:
        if isinstance(exc, OSError) and exc.errno is not None:
            raise storage_error(exc, doing="write", path=Path(exc.filename or constants.HF_HUB_CACHE)) from exc
        raise CheckpointError(
            f"{what}: revision {revision} cannot be fetched",
            found=_said(exc),
            remedy=f"run it again, files that are complete are kept; if the hub refuses access, {token}",
        ) from exc


def _said(exc: BaseException) -> str:
    text = mask(" ".join(str(exc).split()))  # before it is cut, which may be in the middle of a URL
    return f"{type(exc).__name__}: {text[:_SAID]}" if text else type(exc).__name__
