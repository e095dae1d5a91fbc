"""The head's fit: on states whose classes are known, whatever their scale, and the same every time."""

from __future__ import annotations

import pytest
import torch

from distilbatch.errors import ConfigError, DataError
from distilbatch.train.fitting import FitOptions, apply_head, fit_head, score

OPTIONS = FitOptions(epochs=15, batch_rows=32, max_lr=2e-2, dropout=0.1)


def clouds(rows: int, *, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Three clouds in ``(N, 8)``, far from zero, in a wide and a constant column as well."""
    random = torch.Generator().manual_seed(seed)
    labels = torch.arange(rows) % 3
    states = torch.randn((rows, 8), generator=random) * 0.3
    states[torch.arange(rows), labels] += 2
    states = states * 7 + 50
    states[:, 6] *= 100
    states[:, 7] = 1.5
    return states, labels


def test_the_head_takes_states_as_they_are_and_tells_the_clouds_apart():
    fitted = fit_head(clouds(300, seed=1), clouds(90, seed=2), num_labels=3, options=OPTIONS)
    states, labels = clouds(90, seed=3)
    assert fitted.dev.accuracy > 0.95
    assert score(apply_head(fitted.tensors, states), labels).accuracy > 0.95


def test_the_head_has_the_names_and_shapes_of_a_checkpoint_and_is_finite_in_half_precision():
    tensors = fit_head(clouds(300, seed=1), clouds(90, seed=2), num_labels=3, options=OPTIONS).tensors
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    assert shapes == {
        "pre_classifier.weight": (8, 8),
        "pre_classifier.bias": (8,),
        "classifier.weight": (3, 8),
        "classifier.bias": (3,),
    }
    assert all(tensor.dtype == torch.float16 and bool(tensor.isfinite().all()) for tensor in tensors.values())


def test_the_same_seed_gives_the_same_head_whatever_was_drawn_before():
    fits = []
    for seed in (0, 0, 1):
        torch.rand(5)
        fits.append(
            fit_head(clouds(90, seed=1), clouds(30, seed=2), num_labels=3, options=FitOptions(epochs=1, seed=seed))
        )
    first, again, other = ([*fit.tensors.values()] for fit in fits)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0], other[0])


def test_the_kept_epoch_is_the_best_on_the_dev_rows():
    # On dev rows with labels drawn at random no epoch is better than chance, and which one is best differs.
    dev = clouds(60, seed=2)[0], torch.randint(3, (60,), generator=torch.Generator().manual_seed(4))
    train = clouds(60, seed=1)
    best = [fit_head(train, dev, num_labels=3, options=FitOptions(epochs=n, max_lr=1e-2)) for n in (1, 12)]
    assert 1 <= best[1].epoch <= 12
    assert best[1].dev == score(apply_head(best[1].tensors, dev[0]), dev[1])


def test_rare_classes_count_for_more_when_classes_are_weighed():
    # Two classes that overlap, 20 to 1: without weights the rare one is never said.
    random = torch.Generator().manual_seed(0)
    labels = (torch.arange(420) % 21 == 0).long()
    states = torch.randn((420, 4), generator=random) + labels[:, None] * 0.8
    said = []
    for power in (0.0, 1.0):
        options = FitOptions(epochs=10, max_lr=1e-2, class_weight_power=power)
        head = fit_head((states, labels), (states, labels), num_labels=2, options=options)
        said.append(int(apply_head(head.tensors, states).argmax(1).sum()))
    assert said[1] > said[0]


@pytest.mark.parametrize("steps", [1, 2, 3, 9, 10, 11, 20])
def test_any_number_of_steps_is_a_fit(steps):
    options = FitOptions(epochs=steps, batch_rows=64)
    fitted = fit_head(clouds(60, seed=1), clouds(30, seed=2), num_labels=3, options=options)
    assert 1 <= fitted.epoch <= steps


@pytest.mark.parametrize("rows", [1, 40])
def test_states_that_do_not_differ_teach_how_frequent_classes_are(rows):
    states = torch.full((rows, 8), 3.0)
    labels = (torch.arange(rows) % 4 == 3).long()
    options = FitOptions(epochs=60, max_lr=2e-2, class_weight_power=0.0)
    tensors = fit_head((states, labels), (states, labels), num_labels=2, options=options).tensors
    assert all(bool(tensor.isfinite().all()) for tensor in tensors.values())
    assert apply_head(tensors, states).argmax(1).tolist() == [0] * rows


def test_a_head_that_half_precision_cannot_hold_is_refused():
    (states, labels), dev = clouds(60, seed=1), clouds(30, seed=2)
    with pytest.raises(DataError, match=r"^the head does not fit into float16; .* NaN or infinity in pre_classifier"):
        fit_head((states * 1e-9, labels), dev, num_labels=3, options=OPTIONS)


@pytest.mark.parametrize("name", ["epochs", "batch_rows"])
def test_a_fit_of_nothing_is_refused(name):
    with pytest.raises(ConfigError, match=f"{name}; expected at least 1; found 0"):
        FitOptions(**{name: 0})


def test_scores_of_a_known_table():
    predicted, labels = [0, 0, 1, 1, 2, 0], [0, 0, 0, 1, 1, 2]
    found = score(torch.eye(3)[predicted], torch.tensor(labels))
    assert found.accuracy == pytest.approx(3 / 6)
    assert found.macro_f1 == pytest.approx((4 / 6 + 2 / 4 + 0) / 3)
    assert (found.majority_share, found.rows) == (pytest.approx(3 / 6), 6)
