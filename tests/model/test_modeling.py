"""Every head equals the reference: logits, losses, gradients, hidden states, over random configurations and inputs."""

from __future__ import annotations

import pytest
import torch
from model_oracle import ATTENTIONS, HEADS, MASKS, POOLING, TOLERANCE, Case, draw
from torch import Tensor

CASES_A_HEAD = 150
GRADIENTS_A_HEAD = 25


def close(ours: Tensor, theirs: Tensor, what: str) -> None:
    bound = TOLERANCE[theirs.dtype]
    error = (ours - theirs).abs().max().item() if theirs.numel() else 0.0
    assert ours.shape == theirs.shape, what
    assert error <= bound * max(1.0, theirs.abs().max().item()), f"{what}: {error}"


def visible(case: Case, name: str, x: Tensor) -> Tensor:
    """Zero what ``packed`` attention does not compute: masked places of outputs by token."""
    if case.attention != "packed" or case.mask is None or (case.head in POOLING and name != "hidden"):
        return x
    keep = case.mask.view(*case.mask.shape, *[1] * (x.dim() - 2))
    return torch.where(keep, x, torch.zeros_like(x))


def check_outputs(case: Case) -> None:
    with torch.no_grad():
        theirs = case.reference(**case.inputs)
        ours = case.ours(**case.inputs)
    for name in ("last_hidden_state", "logits", "start_logits", "end_logits"):
        assert (name in theirs) == hasattr(ours, name)
        if name in theirs:
            close(visible(case, name, ours[name]), visible(case, name, theirs[name]), name)


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("seed", range(CASES_A_HEAD))
def test_outputs_and_loss_equal_the_reference(head, seed):
    case = draw(seed, head)
    check_outputs(case)
    if case.labels:
        with torch.no_grad():
            theirs = case.reference(**case.inputs, **case.labels).loss
            ours = case.ours(**case.inputs, **case.labels).loss
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("seed", range(1000, 1000 + GRADIENTS_A_HEAD))
def test_gradients_equal_the_reference(head, seed):
    case = draw(seed, head)
    for model in (case.ours, case.reference):
        model.train()  # without dropout: draw_config sets it to zero
        out = model(**case.inputs, **case.labels)
        loss = out.loss if case.labels else visible(case, "last", out.last_hidden_state).square().mean()
        loss.backward()
    theirs = {name: p.grad for name, p in case.reference.named_parameters() if p.requires_grad}
    ours = {name: p.grad for name, p in case.ours.named_parameters() if p.requires_grad}
    assert ours.keys() == theirs.keys()
    scale = max(grad.abs().max().item() for grad in theirs.values() if grad is not None)
    for name, grad in theirs.items():
        if grad is None:
            assert ours[name] is None
        else:
            # Some gradients are zero but for rounding (a key bias, a bias before a softmax): those have the scale's.
            bound = 1e-6 + 1e-4 * max(grad.abs().max().item(), 1e-2 * scale)
            assert (ours[name] - grad).abs().max().item() <= bound, name


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("seed", range(2000, 2015))
def test_hidden_states_and_attentions_equal_the_reference(head, seed):
    case = draw(seed, head)
    with torch.no_grad():
        ask = {"output_hidden_states": True, "output_attentions": case.attention == "eager"}
        theirs, ours = case.reference(**case.inputs, **ask), case.ours(**case.inputs, **ask)
    assert len(ours.hidden_states) == case.ours.config.n_layers + 1
    for mine, other in zip(ours.hidden_states, theirs.hidden_states, strict=True):
        close(visible(case, "hidden", mine), visible(case, "hidden", other), "hidden state")
    if case.attention == "eager":
        for mine, other in zip(ours.attentions, theirs.attentions, strict=True):
            close(mine, other, "attention")
    else:
        assert ours.attentions is None


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("seed", range(3000, 3006))
def test_outputs_equal_the_reference_in_other_dtypes(head, dtype, seed):
    check_outputs(draw(seed, head, dtype=dtype))


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("attention", ATTENTIONS)
@pytest.mark.parametrize("mask", MASKS)
def test_every_attention_with_every_mask(head, attention, mask):
    check_outputs(draw(4000, head, attention=attention, mask=mask))


@pytest.mark.parametrize("head", HEADS)
def test_token_types_change_nothing(head):
    case = draw(6000, head)
    types = torch.ones(case.inputs.get("input_ids", case.inputs.get("inputs_embeds")).shape[:2], dtype=torch.int64)
    with torch.no_grad():
        ours = case.ours(**case.inputs, token_type_ids=types)[0]
        assert torch.equal(ours, case.ours(**case.inputs)[0])
        case.reference(**case.inputs, token_type_ids=types)


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("seed", range(5000, 5005))
def test_tuples_are_in_the_references_order(head, seed):
    case = draw(seed, head, attention="eager")
    ask = {"output_hidden_states": True, "output_attentions": True, "return_dict": False}
    with torch.no_grad():
        theirs, ours = (
            case.reference(**case.inputs, **case.labels, **ask),
            case.ours(**case.inputs, **case.labels, **ask),
        )
    assert isinstance(ours, tuple)
    assert len(ours) == len(theirs)
    for mine, other in zip(ours, theirs, strict=True):
        assert type(mine) is type(other)
        for a, b in zip(mine, other, strict=True) if isinstance(mine, tuple) else [(mine, other)]:
            close(a, b, "element")
