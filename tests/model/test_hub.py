"""Hub ids: only the files needed, at one commit, from the cache when it must be; every refusal says what to do."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import logging
from pathlib import Path

import pytest
import torch
from hub_server import CUT, DEAD, SHORT, TOKEN, Hub
from huggingface_hub import constants

from distilbatch.errors import CheckpointError, ResourceError, SetupError
from distilbatch.model import auto, hub
from distilbatch.model.configuration import CONFIG_FILE
from distilbatch.model.modeling import DistilBertForSequenceClassification

NEEDED = {CONFIG_FILE, "model.safetensors", "tokenizer.json", "vocab.txt", "special_tokens_map.json"}
OTHERS = {
    "README.md": b"#",
    "pytorch_model.bin": b"\x80",
    "tf_model.h5": b"h",
    "onnx/model.onnx": b"o",
    "onnx/config.json": b"{}",
    "other.safetensors": b"s",
    "training_args.bin": b"\x80",
}
TOKENIZER = {"tokenizer.json": b'{"added_tokens": []}', "vocab.txt": b"[PAD]\n", "special_tokens_map.json": b"{}"}
IDS = torch.arange(12).view(2, 6)


@pytest.fixture
def tiny(server: Hub, tiny_checkpoint) -> tuple[Path, str]:
    """``org/tiny`` on the server with one commit: the folder it was made of, and the commit."""
    folder = tiny_checkpoint()
    return folder, server.repo("org/tiny").commit_folder(folder, "v1", **TOKENIZER, **OTHERS)


def files_of(source: hub.Source) -> set[str]:
    return {path.relative_to(source.folder).as_posix() for path in source.folder.rglob("*") if path.is_file()}


def test_the_files_needed_are_fetched_and_no_other(server, tiny, fetch):
    folder, commit = tiny
    source = fetch("org/tiny")
    assert (source.repo_id, source.commit, source.folder.name) == ("org/tiny", commit, commit)
    assert files_of(source) == NEEDED
    assert (source.folder / "model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()
    expected = DistilBertForSequenceClassification.from_pretrained(folder)(IDS).logits
    assert torch.equal(auto.load(source.folder)(IDS).logits, expected)


def test_every_file_is_of_the_commit_the_revision_stood_for_at_first(server, tiny, fetch):
    _, commit = tiny
    fetch("org/tiny")
    first, *others = server.paths()
    assert first == "/org/tiny/resolve/main/config.json"
    assert [path for path in others if f"/{commit}" not in path and not path.endswith("/main/config.json")] == []


def test_nothing_is_told_to_the_hub_but_what_is_wanted(server, tiny, fetch):
    fetch("org/tiny")
    agents = {request.headers["user-agent"] for request in server.requests}
    assert all(agent.startswith("distilbatch/") and "torch" not in agent for agent in agents)
    allowed = ("/org/tiny/resolve/", "/api/models/org/tiny/tree/", "/cdn/")
    assert [path for path in server.paths() if not path.startswith(allowed)] == []


def test_a_second_fetch_downloads_no_file_again(server, tiny, fetch):
    first = fetch("org/tiny")
    server.paths()
    assert fetch("org/tiny") == first
    assert {r.method for r in server.requests if "/resolve/" in r.path} == {"HEAD"}
    assert not any("/cdn/" in path for path in server.paths())


def test_a_revision_is_a_branch_a_tag_or_a_commit(server, tiny, fetch):
    old = tiny[1]
    repo = server.repo("org/tiny")
    new = repo.commit(repo.commits[old] | {"vocab.txt": b"new\n"}, "wip/branch")
    assert [fetch("org/tiny", revision=name).commit for name in ("main", "v1", old, new)] == [new, old, old, new]
    assert (fetch("org/tiny").folder / "vocab.txt").read_bytes() == b"new\n"
    assert (fetch("org/tiny", revision="v1").folder / "vocab.txt").read_bytes() == b"[PAD]\n"


def test_the_cache_serves_when_the_hub_is_down(server, tiny, fetch):
    found = {name: fetch("org/tiny", revision=name) for name in ("main", "v1", tiny[1])}
    server.status = 503
    assert {name: fetch("org/tiny", revision=name) for name in found} == found
    server.stop()
    assert {name: fetch("org/tiny", revision=name) for name in found} == found


def test_local_files_only_asks_nobody(server, tiny, fetch):
    found = fetch("org/tiny")
    server.repo("org/tiny").commit({"config.json": b"{}"})
    server.paths()
    assert fetch("org/tiny", local_files_only=True) == found
    with pytest.raises(CheckpointError, match=r"hub model org/tiny: revision v1 cannot be fetched; found offline mode"):
        fetch("org/tiny", revision="v1", local_files_only=True)
    assert server.paths() == []


def test_what_is_not_in_the_cache_cannot_be_had_offline(tiny, fetch):
    with pytest.raises(
        CheckpointError,
        match=r"hub model org/tiny: revision main cannot be fetched; found offline mode, and not all of it in the "
        r"cache; load it once with access to the hub: without HF_HUB_OFFLINE and local_files_only",
    ):
        fetch("org/tiny", local_files_only=True)


@pytest.mark.parametrize("lost", ["model.safetensors", "config.json"])
def test_a_cache_with_half_a_model_is_not_used_offline(tiny, fetch, lost):
    (fetch("org/tiny").folder / lost).unlink()
    with pytest.raises(CheckpointError, match="offline mode, and not all of it in the cache"):
        fetch("org/tiny", local_files_only=True)


def test_a_hub_out_of_reach_is_named(server, tiny, fetch):
    server.stop()
    message = r"cannot be fetched; found Connect\w+: .* and not all of it in the cache; check the network, the proxy"
    with pytest.raises(CheckpointError, match=message):
        fetch("org/tiny")


@pytest.mark.parametrize("status", [0, 403, 503])
def test_credentials_of_the_endpoint_are_used_and_not_told(server, tiny, fetch, capfd, status):
    endpoint = server.url.replace("://", "://user:s3cret@")
    server.status = status
    if status:
        with pytest.raises(CheckpointError, match="cannot be fetched") as caught:
            fetch("org/tiny", endpoint=endpoint)
        assert "://***@127.0.0.1" in str(caught.value)
        assert "s3cret" not in str(caught.value)
    else:
        assert files_of(fetch("org/tiny", endpoint=endpoint)) == NEEDED
    expected = "Basic " + base64.b64encode(b"user:s3cret").decode()
    sent = [{key.lower(): value for key, value in request.headers.items()} for request in server.requests]
    assert {headers.get("authorization") for headers in sent[:1]} == {expected}
    out, err = capfd.readouterr()
    assert "s3cret" not in out + err


def test_the_library_tells_no_credentials_when_it_tries_again(server, tiny, fetch, monkeypatch):
    server.stop()
    written = io.StringIO()
    for handler in logging.getLogger("huggingface_hub").handlers:
        monkeypatch.setattr(handler, "stream", written)
        monkeypatch.setattr(handler, "formatter", None)
    with pytest.raises(CheckpointError):
        fetch("org/tiny", endpoint=server.url.replace("://", "://user:s3cret@"))
    assert "s3cret" not in written.getvalue()


def test_a_hub_in_trouble_is_named(server, tiny, fetch):
    server.status = 503
    with pytest.raises(CheckpointError, match=r"cannot be fetched; found HfHubHTTPError: .*503.*check the network"):
        fetch("org/tiny")


def test_an_unknown_model_is_refused(fetch):
    message = (
        "hub model org/none: the hub has no such model; expected a checkpoint folder, or a hub id .*check the name"
    )
    with pytest.raises(CheckpointError, match=message):
        fetch("org/none")


def test_an_unknown_revision_is_refused(tiny, fetch):
    message = "org/tiny: no such revision; expected a branch, tag or commit of it; found v9; look at"
    with pytest.raises(CheckpointError, match=message):
        fetch("org/tiny", revision="v9")
    with pytest.raises(CheckpointError, match="no such revision"):
        fetch("org/tiny", revision="0" * 40)


def test_a_gated_model_wants_a_token_and_the_file_store_never_sees_it(server, tiny, fetch, monkeypatch):
    server.repo("org/tiny").gated = True
    with pytest.raises(CheckpointError, match=r"org/tiny: gated; found no access to it; accept its terms .*HF_TOKEN"):
        fetch("org/tiny")
    monkeypatch.setenv("HF_TOKEN", "hf_bad")
    with pytest.raises(CheckpointError, match="gated"):
        fetch("org/tiny")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    server.requests.clear()
    assert files_of(fetch("org/tiny")) == NEEDED
    shown = {"authorization" in {key.lower() for key in r.headers}: r.path.startswith("/cdn/") for r in server.requests}
    assert shown == {True: False, False: True}


def test_a_model_that_moved_is_followed(server, tiny, fetch):
    server.moved["old-name"] = "org/tiny"
    source = fetch("old-name")
    assert (source.repo_id, source.commit) == ("old-name", tiny[1])
    assert files_of(source) == NEEDED


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json"])
def test_a_download_that_is_cut_never_leaves_half_a_file(server, tiny, fetch, name, monkeypatch):
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1)  # a part is kept from one chunk on
    server.faults[name] = [CUT]
    with contextlib.suppress(CheckpointError):  # the oldest releases that are supported give up, newer ones resume
        fetch("org/tiny")
    assert (fetch("org/tiny").folder / name).read_bytes() == server.repo("org/tiny").commits[tiny[1]][name]


@pytest.mark.parametrize("fault", [SHORT, DEAD])
def test_a_truncated_download_is_refused_and_never_cached(server, tiny, fetch, fault):
    server.faults["model.safetensors"] = [fault] * 20
    with pytest.raises(CheckpointError, match=r"revision main cannot be fetched; found \w+: .*; run it again"):
        fetch("org/tiny")
    assert list(Path(fetch.keywords["cache_dir"]).rglob("*.safetensors")) == []
    server.faults.clear()
    assert files_of(fetch("org/tiny")) == NEEDED


def sharded(server: Hub, folder: Path, index: str = "model.safetensors.index.json", **rename: str) -> None:
    weights = (folder / "model.safetensors").read_bytes()
    names = dict.fromkeys(("a", "b"), "m-1.safetensors") | {"c": "m-2.safetensors"} | rename
    files = dict.fromkeys(("m-1.safetensors", "m-2.safetensors", "m-1.bin", "unused.safetensors"), weights)
    config = {CONFIG_FILE: (folder / CONFIG_FILE).read_bytes()}
    server.repo("org/shards").commit(files | config | {index: json.dumps({"weight_map": names}).encode()})


def test_the_shards_of_an_index_are_fetched(server, tiny, fetch):
    sharded(server, tiny[0])
    expected = {CONFIG_FILE, "model.safetensors.index.json", "m-1.safetensors", "m-2.safetensors"}
    assert files_of(fetch("org/shards")) == expected
    server.stop()
    source = fetch("org/shards", local_files_only=True)
    (source.folder / "m-2.safetensors").unlink()
    with pytest.raises(CheckpointError, match="offline mode, and not all of it in the cache"):
        fetch("org/shards", local_files_only=True)


@pytest.mark.parametrize("name", ["../../config.json", "/etc/passwd", "sub/m.safetensors", "m-1.bin"])
def test_an_index_asks_for_no_file_elsewhere(server, tiny, fetch, name):
    sharded(server, tiny[0], c=name)
    with pytest.raises(CheckpointError, match="file of c; expected a safetensors file in the same folder; found"):
        fetch("org/shards")
    assert not any("/cdn/" in path for path in server.paths())


def test_an_index_whose_shard_is_missing_is_refused(server, tiny, fetch):
    sharded(server, tiny[0], c="m-3.safetensors")
    with pytest.raises(CheckpointError, match=r"org/shards: a file is missing; .*m-3.safetensors"):
        fetch("org/shards")


@pytest.mark.parametrize("index", ["", "pytorch_model.bin.index.json"])
def test_a_pickle_is_fetched_on_request_only(server, tiny, fetch, index):
    config = (tiny[0] / CONFIG_FILE).read_bytes()
    files = {index: b'{"weight_map": {"a": "m.bin"}}', "m.bin": b"x"} if index else {"pytorch_model.bin": b"x"}
    server.repo("org/old").commit({CONFIG_FILE: config, **files})
    message = rf"hub model org/old: only {index or 'pytorch_model.bin'}; .*a pickle, which can run code.*allow_pickle"
    with pytest.raises(CheckpointError, match=message):
        fetch("org/old")
    assert not any("/cdn/" in path for path in server.paths())
    assert files_of(fetch("org/old", allow_pickle=True)) == {CONFIG_FILE, *files}
    with pytest.raises(CheckpointError, match="only pytorch_model"):
        fetch("org/old", local_files_only=True)


def test_a_repository_without_a_checkpoint_is_refused(server, fetch):
    repo = server.repo("org/other")
    repo.commit({"README.md": b"#"})
    with pytest.raises(CheckpointError, match=r"org/other: a file is missing; .*config.json.*choose a repo"):
        fetch("org/other")
    repo.commit({CONFIG_FILE: b"{}", "tf_model.h5": b"h"})
    with pytest.raises(CheckpointError, match=r"hub model org/other: no weights; .*found config.json, tf_model.h5"):
        fetch("org/other")


def test_a_cache_that_cannot_be_written_is_named(tiny, server, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(SetupError, match=r"cannot write .*/file") as error:
        hub.fetch("org/tiny", endpoint=server.url, cache_dir=tmp_path / "file")
    assert not isinstance(error.value, (CheckpointError, ResourceError))
