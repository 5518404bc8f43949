"""Training loop for the small networks that are trained during fit.

The library has its own loop for two reasons. Budgets are counted in steps or in seconds, and a resumed run must equal
an uninterrupted run bit for bit. skorch counts in epochs. Lightning Fabric and accelerate do not include a loop, so the
loop would still have to be written.
"""

import copy
import io
import math
import time
from pathlib import Path
from typing import NamedTuple
from warnings import warn

import numpy as np
from tqdm.auto import tqdm

from sklearn_exdd._files import write_whole
from sklearn_exdd._torch import seeded

_WARM_UP = 20  # number of steps over which the learning rate rises, because AdamW's first steps are its largest
_MEMORY = 0.99  # decay of the smoothed loss, which is thus an average over about 100 steps
_MIN_FALL = 0.01  # smallest relative decrease of the loss that counts as progress


class TrainingRun(NamedTuple):
    """Result of a training run.

    Attributes
    ----------
    losses : ndarray of shape (n_steps,), dtype float64
        Loss of every step, including the steps before training was resumed.
    stopped_by : {"steps", "seconds", "plateau", "nan", "interrupt"}
        Reason why training ended.
    seconds : float
        Total wall time, including the time before training was resumed.
    evaluations : ndarray of shape (n_evaluations, 2), dtype float64
        One row for each evaluation: the number of completed steps, and the loss on held-out data.
    """

    losses: np.ndarray
    stopped_by: str
    seconds: float
    evaluations: np.ndarray

    @property
    def complete(self):
        """Whether training reached its planned end."""
        return self.stopped_by not in ("nan", "interrupt")


def train(
    module,
    loss_of_step,
    *,
    max_steps,
    max_seconds=None,
    seed=0,
    learning_rate=1e-3,
    weight_decay=1e-2,
    optimizer="AdamW",
    schedule="cosine",
    ema_decay=0.995,
    clip_norm=1.0,
    patience=None,
    evaluate=None,
    evaluate_every=100,
    checkpoint=None,
    checkpoint_every=100,
    verbose=0,
    description="training",
):
    """Train a module in place.

    Parameters
    ----------
    module : torch.nn.Module
        Module to train, on its device. Afterwards it is in evaluation mode and has the averaged weights.
    loss_of_step : callable
        Function called as ``loss_of_step(step, random_state)``. It returns the scalar loss of step number `step`, which
        must depend only on the module and the two arguments. Each step gets a new RandomState. The global generators of
        torch, which dropout uses, are also seeded for each step, and restored afterwards.
    max_steps : int
        Maximum number of steps, and length of the learning-rate schedule.
    max_seconds : float, default=None
        Maximum wall time in seconds. Training ends when the first of the two limits, steps or seconds, is reached, and
        the learning-rate schedule ends at the same time. With a time limit, the result depends on the speed of the
        machine.
    seed : int, default=0
    learning_rate, weight_decay : float
    optimizer : str, default="AdamW"
        Name of a class of torch.optim.
    schedule : {"cosine", "constant"}, default="cosine"
    ema_decay : float or None, default=0.995
        Decay of the exponential average of the weights. In step n, the decay is at most (1 + n) / (10 + n). None uses
        the last weights instead of an average.
    clip_norm : float or None, default=1.0
        Maximum norm of the gradients. Larger gradients are scaled down to this norm. None leaves gradients unchanged.
    patience : int, default=None
        Number of steps without progress after which training ends. Progress means that the smoothed loss has fallen by
        1 % or, with `evaluate`, that an evaluation has given the lowest loss yet. None trains to the end.
    evaluate : callable, default=None
        Function called as ``evaluate(module)``. It returns the loss on held-out data. The module passed is in
        evaluation mode and has the averaged weights. The function may change the buffers of the module. Training
        returns the weights with the lowest loss.
    evaluate_every : int, default=100
        Number of steps between evaluations. The module is also evaluated after the last step.
    checkpoint : path-like, default=None
        File to which the state of the training is saved every `checkpoint_every` steps. If the file exists at the
        start, training resumes from it. The caller deletes the file once the result is saved.
    checkpoint_every : int, default=100
        Number of steps between checkpoints.
    verbose : int, default=0
        If > 0, show a progress bar.
    description : str
        Name of the training run in messages.

    Returns
    -------
    run : TrainingRun

    Raises
    ------
    FloatingPointError
        If the loss is not finite and earlier weights do not exist.

    Examples
    --------
    >>> import torch
    >>> from sklearn_exdd._training import seeded, train
    >>> with seeded(0):
    ...     module = torch.nn.Linear(1, 1)
    >>> def loss_of_step(step, random_state):
    ...     x = torch.from_numpy(random_state.uniform(-1, 1, size=(8, 1)).astype("float32"))
    ...     return (module(x) - 3 * x).square().mean()
    >>> run = train(module, loss_of_step, max_steps=200, learning_rate=0.1)
    >>> run.stopped_by, bool(run.losses[-1] < 0.01)
    ('steps', True)
    """
    import torch

    settings = (max_steps, seed, learning_rate, weight_decay, optimizer, schedule, ema_decay, clip_norm, patience)
    settings = repr((*settings, evaluate_every if evaluate else None))
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    device = parameters[0].device
    stepper = getattr(torch.optim, optimizer)(parameters, lr=learning_rate, weight_decay=weight_decay)
    average = torch.optim.swa_utils.AveragedModel(module, avg_fn=_running_average(ema_decay))
    state = {"settings": settings, "losses": [], "seconds": 0.0, "smooth": None, "best": np.inf, "best_step": 0}
    state |= {"evaluations": [], "best_weights": None}
    resumed = _load(checkpoint, settings, description)
    if resumed is not None:
        module.load_state_dict(resumed.pop("module"))
        stepper.load_state_dict(resumed.pop("optimizer"))
        average.load_state_dict(resumed.pop("average"))
        state.update(resumed)
    good = copy.deepcopy(average.module.state_dict()) if state["losses"] else None
    stopped_by, writable, started = "steps", checkpoint is not None, time.monotonic() - state["seconds"]
    n_done = len(state["losses"])
    bar = tqdm(total=max_steps, initial=n_done, desc=description, unit="step", disable=not verbose)
    module.train()
    try:
        for step in range(n_done, max_steps):
            state["seconds"] = time.monotonic() - started
            progress = step / max_steps
            if max_seconds is not None:
                progress = max(progress, state["seconds"] / max_seconds)
                if progress >= 1:
                    stopped_by = "seconds"
                    break
            rate = learning_rate * min(1, (step + 1) / _WARM_UP)
            for group in stepper.param_groups:
                group["lr"] = rate * (1 + math.cos(math.pi * progress)) / 2 if schedule == "cosine" else rate
            random_state = np.random.RandomState([seed, step])
            with seeded(random_state.randint(2**31 - 1), device):
                loss = loss_of_step(step, random_state)
            stepper.zero_grad(set_to_none=True)
            loss.backward()
            norm = torch.nn.utils.clip_grad_norm_(parameters, clip_norm or np.inf)
            value = float(loss.detach())
            if not (np.isfinite(value) and np.isfinite(float(norm))):
                stopped_by = "nan"
                break
            stepper.step()
            average.update_parameters(module)
            state["losses"].append(value)
            smooth = value if state["smooth"] is None else _MEMORY * state["smooth"] + (1 - _MEMORY) * value
            state["smooth"] = smooth
            if evaluate is None:
                if smooth < (1 - _MIN_FALL) * state["best"]:
                    state["best"], state["best_step"] = smooth, step
            elif (step + 1) % evaluate_every == 0 or step + 1 == max_steps:
                with seeded(seed, device), torch.no_grad():
                    held_out = float(evaluate(average.module.eval()))
                state["evaluations"].append([step + 1, held_out])
                if held_out < state["best"]:
                    state["best"], state["best_step"] = held_out, step
                    state["best_weights"] = copy.deepcopy(average.module.state_dict())
            bar.set_postfix(loss=f"{smooth:.4f}", refresh=False)
            bar.update()
            if patience is not None and step - state["best_step"] >= patience:
                stopped_by = "plateau"
                break
            if (step + 1) % checkpoint_every == 0 and step + 1 < max_steps:
                good = copy.deepcopy(average.module.state_dict())
                state["seconds"] = time.monotonic() - started
                parts = {"module": module, "optimizer": stepper, "average": average}
                states = {name: part.state_dict() for name, part in parts.items()}
                writable = writable and _save(checkpoint, {**state, **states}, description)
    except KeyboardInterrupt:
        if not state["losses"]:
            raise
        stopped_by = "interrupt"
    finally:
        bar.close()
    n_done = len(state["losses"])
    if stopped_by == "interrupt":
        warn(
            f"{description}: interrupted after {n_done} of {max_steps} steps; the weights reached so far are used. "
            "Train again for the full budget.",
            RuntimeWarning,
            stacklevel=2,
        )
    if stopped_by == "nan":
        message = (
            f"{description}: expected a finite loss, got {value:g} with gradients of norm {float(norm):g} at step "
            f"{n_done}. Lower the learning rate, or look for constant or extreme images."
        )
        if good is None and state["best_weights"] is None:
            raise FloatingPointError(message)
        kept = n_done // checkpoint_every * checkpoint_every
        kept = kept if state["best_weights"] is None else state["best_step"] + 1
        warn(f"{message} The weights of step {kept} are used.", RuntimeWarning, stacklevel=2)
    last = good if stopped_by == "nan" else average.module.state_dict()
    module.load_state_dict(state["best_weights"] or last)
    module.eval()
    evaluations = np.array(state["evaluations"], dtype=np.float64).reshape(-1, 2)
    return TrainingRun(np.array(state["losses"]), stopped_by, time.monotonic() - started, evaluations)


def _running_average(decay):
    def update(average, current, n_averaged):
        kept = 0.0 if decay is None else min(decay, (1 + float(n_averaged)) / (10 + float(n_averaged)))
        return average.lerp(current, 1 - kept)

    return update


def _load(checkpoint, settings, description):
    """Return the state in a checkpoint. A missing or unusable file gives None, and an unusable file a warning."""
    import torch

    if checkpoint is None or not Path(checkpoint).exists():
        return None
    try:
        state = torch.load(checkpoint, map_location="cpu", weights_only=True)
        if state["settings"] == settings:
            return state
        reason = "a checkpoint of a run with other settings"
    except Exception as error:  # damaged files raise many types of errors
        reason = f"a damaged file ({type(error).__name__})"
    warn(
        f"{description}: expected a checkpoint of this run in {checkpoint}, got {reason}. Training starts from the "
        "beginning.",
        RuntimeWarning,
        stacklevel=3,
    )
    return None


def _save(checkpoint, state, description):
    """Write a checkpoint atomically and return True. If it cannot be written, warn and return False."""
    import torch

    checkpoint, buffer = Path(checkpoint), io.BytesIO()
    torch.save(state, buffer)
    try:
        checkpoint.parent.mkdir(parents=True, exist_ok=True)
        write_whole(checkpoint, buffer.getvalue())
        return True
    except OSError as error:
        warn(
            f"{description}: expected to write the checkpoint {checkpoint}, got {type(error).__name__}: {error}. "
            "Training continues without a checkpoint; an interruption would lose its progress.",
            RuntimeWarning,
            stacklevel=3,
        )
        return False
