"""The limit on this machine: positive rates, and kernels that are not here are left out by name."""

from __future__ import annotations

import pytest
import torch
from bench_fakes import make_workload

from distilbatch.bench import limit as limit_module
from distilbatch.bench.limit import FLOAT32, Limit
from distilbatch.model.configuration import CONFIG_FILE, DistilBertConfig
from distilbatch.model.flops import linear_shapes


@pytest.fixture
def workload(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.backends.quantized, "engine", torch.backends.quantized.engine)
    threads = torch.get_num_threads()
    config = DistilBertConfig(n_layers=1, n_heads=2, dim=64, hidden_dim=128)
    (tmp_path / "model").mkdir()
    config.save(tmp_path / "model" / CONFIG_FILE)
    yield make_workload(tmp_path)
    torch.set_num_threads(threads)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_every_shape_has_a_positive_rate_in_every_format_that_is_here(workload):
    limit = Limit(workload, rows=64)
    rates = limit.run("limit")["rates"]
    assert FLOAT32 in rates
    for found in rates.values():
        assert found.keys() == linear_shapes(DistilBertConfig()).keys()
        assert all(rate > 1e6 for rate in found.values())
    about = limit.describe()
    assert about["kernels"].keys() == rates.keys()
    assert rates.keys() | about["left_out"].keys() == {"float32", "bfloat16", "int8"}


def test_a_kernel_that_is_not_here_is_left_out_with_its_reason(workload, monkeypatch):
    def missing(rows, shape, device):
        raise RuntimeError("not for this processor\nand more")

    plain = limit_module.plain_kernels()[FLOAT32]
    monkeypatch.setattr(limit_module, "kernels_of", lambda device: {FLOAT32: {**plain, "other": missing}})
    limit = Limit(workload, rows=64)
    assert limit.describe()["left_out"] == {FLOAT32: {"other": "not for this processor"}}
    assert set(limit.describe()["kernels"][FLOAT32].values()) == {"linear"}
