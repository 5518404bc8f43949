"""The training loop: budgets, averages, accidents, and runs that resume as if nothing had happened."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from sklearn_exdd import _training
from sklearn_exdd._torch import seeded
from sklearn_exdd._training import train


def build():
    with seeded(0):
        return nn.Sequential(nn.Linear(2, 8), nn.Dropout(0.2), nn.ReLU(), nn.BatchNorm1d(8), nn.Linear(8, 1))


def regression(module, calls=None):
    """Return the loss of fitting y = x_0 - 2 x_1. `calls` records the steps that are requested."""

    def loss_of_step(step, random_state):
        if calls is not None:
            calls.append(step)
        x = torch.from_numpy(random_state.uniform(-1, 1, size=(16, 2)).astype(np.float32))
        return (module(x)[:, 0] - x[:, 0] + 2 * x[:, 1]).square().mean()

    return loss_of_step


def failing(loss_of_step, at, error):
    """Return the same loss, which raises an error at a step."""

    def loss_or_failure(step, random_state):
        if step == at:
            raise error
        return loss_of_step(step, random_state)

    return loss_or_failure


def broken(loss_of_step, at):
    """Return the same loss, which is NaN from a step on."""
    return lambda step, random_state: loss_of_step(step, random_state) * (float("nan") if step >= at else 1)


def trained(**options):
    module = build()
    run = train(module, regression(module), **{"max_steps": 60, "learning_rate": 0.01, **options})
    return module, run


def assert_same_state(module, other):
    for (name, value), (_, expected) in zip(module.state_dict().items(), other.state_dict().items()):
        assert torch.equal(value, expected), name


@pytest.mark.slow
def test_the_loss_falls_and_the_module_ends_in_evaluation_mode():
    module, run = trained(max_steps=300)
    assert run.stopped_by == "steps"
    assert run.complete
    assert len(run.losses) == 300
    assert run.losses[-20:].mean() < 0.3 * run.losses[:20].mean()
    assert not module.training


def test_the_same_seed_gives_the_same_weights_and_another_seed_others():
    (module, run), (same, same_run), (other, _) = trained(seed=3), trained(seed=3), trained(seed=4)
    assert_same_state(module, same)
    np.testing.assert_array_equal(run.losses, same_run.losses)
    assert not torch.equal(module[0].weight, other[0].weight)


def test_the_global_random_generators_are_neither_read_nor_moved():
    results = []
    for seed in (0, 1):
        np.random.seed(seed)  # noqa: NPY002 - the test watches the global generator
        torch.manual_seed(seed)
        before = np.random.get_state()[1].copy(), torch.get_rng_state()  # noqa: NPY002
        results.append(trained(max_steps=5)[0])
        assert np.array_equal(np.random.get_state()[1], before[0])  # noqa: NPY002
        assert torch.equal(torch.get_rng_state(), before[1])
    assert_same_state(*results)


def test_seeded_builds_the_same_module_and_leaves_the_generator_where_it_was():
    before = torch.get_rng_state()
    assert_same_state(build(), build())
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("stop", [1, 19, 20, 21, 40, 59])
def test_a_resumed_training_equals_the_uninterrupted_one_bit_for_bit(tmp_path, stop):
    expected, expected_run = trained(checkpoint_every=10)
    options = {"max_steps": 60, "learning_rate": 0.01, "checkpoint": tmp_path / "a" / "c.pt", "checkpoint_every": 10}
    module, calls = build(), []
    with pytest.raises(OSError, match="the plug is pulled"):
        train(module, failing(regression(module), stop, OSError("the plug is pulled")), **options)
    resumed = build()
    run = train(resumed, regression(resumed, calls), **options)
    assert calls[0] == stop // 10 * 10
    assert_same_state(resumed, expected)
    np.testing.assert_array_equal(run.losses, expected_run.losses)
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["c.pt"] * (expected_run.stopped_by == "steps")


def test_a_resumed_training_ends_at_the_same_plateau(tmp_path):
    options = {"max_steps": 400, "patience": 15, "checkpoint_every": 10}
    _, expected_run = trained(**options)
    assert expected_run.stopped_by == "plateau"
    stop = len(expected_run.losses) - 3
    module = build()
    options |= {"learning_rate": 0.01, "checkpoint": tmp_path / "c.pt"}
    with pytest.raises(OSError, match="unplugged"):
        train(module, failing(regression(module), stop, OSError("unplugged")), **options)
    module = build()
    np.testing.assert_array_equal(train(module, regression(module), **options).losses, expected_run.losses)


def test_a_damaged_checkpoint_is_told_and_training_starts_anew(tmp_path):
    (tmp_path / "c.pt").write_bytes(b"not a checkpoint")
    with pytest.warns(RuntimeWarning, match=r"training: expected a checkpoint of this run in .*c\.pt, got"):
        module, _ = trained(checkpoint=tmp_path / "c.pt")
    assert_same_state(module, trained()[0])


@pytest.mark.slow
def test_a_checkpoint_of_other_settings_is_not_resumed(tmp_path):
    options = {"checkpoint": tmp_path / "c.pt", "checkpoint_every": 10}
    trained(**options)
    with pytest.warns(RuntimeWarning, match="got a checkpoint of a run with other settings. Training starts from the"):
        module, _ = trained(seed=1, **options)
    assert_same_state(module, trained(seed=1)[0])


def test_a_checkpoint_that_cannot_be_written_is_told_once(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.warns(RuntimeWarning, match="expected to write the checkpoint") as told:
        module, _ = trained(checkpoint=tmp_path / "file" / "c.pt", checkpoint_every=10)
    assert len(told) == 1
    assert_same_state(module, trained()[0])


def test_a_budget_in_seconds_ends_the_training_and_the_schedule(monkeypatch):
    clock = iter(np.arange(0, 1000, 0.5))
    monkeypatch.setattr(_training, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    _, run = trained(max_steps=1000, max_seconds=10)
    assert run.stopped_by == "seconds"
    assert run.complete
    assert 10 <= len(run.losses) < 25


def test_training_stops_when_the_loss_no_longer_falls():
    _, run = trained(max_steps=500, learning_rate=1e-9, patience=30)
    assert run.stopped_by == "plateau"
    assert 30 < len(run.losses) < 400


def test_a_loss_that_is_not_finite_leaves_the_last_good_weights():
    expected, _ = trained(max_steps=60, schedule="constant", checkpoint_every=20)
    module = build()
    with pytest.warns(
        RuntimeWarning, match=r"expected a finite loss, got nan .* at step 61.*weights of step 60 are used"
    ):
        run = train(
            module,
            broken(regression(module), 61),
            max_steps=100,
            learning_rate=0.01,
            schedule="constant",
            checkpoint_every=20,
        )
    assert (run.stopped_by, run.complete) == ("nan", False)
    assert_same_state(module, expected)


def test_a_loss_that_is_never_finite_is_an_error():
    module = build()
    with pytest.raises(
        FloatingPointError, match=r"expected a finite loss, got nan .* at step 0\. Lower the learning rate"
    ):
        train(module, broken(regression(module), 0), max_steps=5)


def test_an_interruption_keeps_what_was_learned_and_says_so():
    expected, _ = trained(max_steps=7, schedule="constant")
    module = build()
    with pytest.warns(RuntimeWarning, match="interrupted after 7 of 100 steps; the weights reached so far are used"):
        run = train(
            module,
            failing(regression(module), 7, KeyboardInterrupt()),
            max_steps=100,
            learning_rate=0.01,
            schedule="constant",
        )
    assert (run.stopped_by, run.complete) == ("interrupt", False)
    assert_same_state(module, expected)


def test_an_interruption_before_the_first_step_is_passed_on():
    module = build()
    with pytest.raises(KeyboardInterrupt):
        train(module, failing(regression(module), 0, KeyboardInterrupt()), max_steps=5)


def test_the_weights_are_averaged_unless_that_is_switched_off():
    averaged, last = trained()[0], trained(ema_decay=None)[0]
    assert not torch.equal(averaged[0].weight, last[0].weight)
    module = build()
    train(module, regression(module), max_steps=1, ema_decay=0.99)
    only = build()
    train(only, regression(only), max_steps=1, ema_decay=None)
    assert_same_state(module, only)


def test_gradients_are_clipped_to_the_norm():
    moved = []
    for clip_norm in (1e-3, None):
        module = build()
        start = module[0].weight.clone()
        train(
            module,
            regression(module),
            max_steps=1,
            optimizer="SGD",
            learning_rate=1.0,
            weight_decay=0,
            clip_norm=clip_norm,
        )
        moved.append(float((module[0].weight - start).detach().norm()))
    assert 0 < moved[0] < 1e-3 < moved[1]


def test_the_progress_bar_shows_the_loss(capsys):
    trained(max_steps=3, verbose=1, description="learning")
    shown = capsys.readouterr().err
    assert "learning" in shown
    assert "loss=" in shown
    trained(max_steps=3)
    assert capsys.readouterr().err == ""
