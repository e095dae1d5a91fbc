"""How many documents a race takes."""

from __future__ import annotations

from distilbatch.bench.sizing import ENOUGH_DOCUMENTS, MIN_DOCUMENTS, affordable_documents

BASE_FLOPS = 5.5e9  # of a document of 65 tokens


def test_a_slow_machine_gets_what_the_budget_allows_and_a_few_at_least():
    cpu = {"float32": 1e11, "int8": 4e11}
    # 0.6 of the rate: 0.0917 s a document and pass.
    assert affordable_documents(cpu, BASE_FLOPS, passes=10, budget_s=100.0, device="cpu") == 109
    assert affordable_documents(cpu, BASE_FLOPS, passes=10, budget_s=1.0, device="cpu") == MIN_DOCUMENTS
    assert affordable_documents(cpu, BASE_FLOPS, passes=1, budget_s=1e6, device="cpu") == ENOUGH_DOCUMENTS


def test_a_pass_on_a_large_gpu_is_no_matter_of_milliseconds():
    gpu = {"float32": 5e13, "bfloat16": 7e14}
    documents = affordable_documents(gpu, BASE_FLOPS, passes=60, budget_s=450.0, device="cuda:0")
    assert documents * BASE_FLOPS / gpu["bfloat16"] > 0.1
    assert documents * 5e-3 < 450.0  # each by itself, for the reference
    enough = affordable_documents(gpu, BASE_FLOPS, passes=1, budget_s=1e6, device="cuda")
    assert enough * BASE_FLOPS / (0.6 * gpu["bfloat16"]) <= 1.0
