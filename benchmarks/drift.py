"""False alarms of a DriftMonitor on undisturbed streams, and delays until the monitor detects a change.

    python benchmarks/drift.py
    python benchmarks/drift.py undisturbed --normals 30 --streams 100 --images 2000
    python benchmarks/drift.py delays --before 500
    python benchmarks/drift.py defects --delay-streams 10
    python benchmarks/drift.py cost

Each stream has its own detector, fitted on its own normal surfaces (``make_surface_defects``, 64 x 64 pixels). The
detector must be fast, because many long streams are tested: it uses filters on images resized to 32 pixels. All images
of a stream are drawn anew, and no image is used twice.

The tasks are:

* ``undisturbed`` counts the streams in which an alarm is raised. For comparison, the same martingales also bet on
  p-values that are computed only from the fixed reference.
* ``delays`` changes the images after a number of undisturbed images. It simulates two production lines. On the first
  line, the light is steady, and the brightness of images varies by 2 %. On the second line, the surfaces are used as
  generated, and their brightness varies from 85 to 155 grey levels.
* ``defects`` mixes a fraction of defect images into the stream, either from the first image on or after undisturbed
  images. The reference does not contain defects.
* ``cost`` measures the time of the monitor itself.
"""

import argparse
import copy
import time
from collections import Counter

import numpy as np
from scipy import ndimage

from sklearn_exdd import DriftMonitor, ExDDDetector, GaborFeatureExtractor
from sklearn_exdd.datasets import make_surface_defects
from sklearn_exdd.monitor.martingales import bet, no_bets, smoothed_p_value

_MEAN = 120  # mean grey level under steady light
_UNIT = 100  # number of changed images per update of a stream


def surfaces(n_images, seed, *, steady=False, defect_fraction=0.0, texture="metal"):
    X, _, _ = make_surface_defects(
        n_images, defect_fraction=defect_fraction, image_shape=(64, 64), texture=texture, random_state=seed
    )
    return under_steady_light(X, seed) if steady else X


def under_steady_light(X, seed):
    factors = _MEAN * np.random.RandomState(seed).normal(1, 0.02, len(X)) / X.mean(axis=(1, 2))
    return np.clip(np.rint(X * factors[:, None, None]), 0, 255).astype(np.uint8)


def light(factor):
    return lambda X: np.rint(X * factor).astype(np.uint8)


def blurred(X):
    return np.stack([ndimage.gaussian_filter(image, 0.7) for image in X])


def shifted(X):
    """Simulate a moved camera: a dark margin of 4 pixels beyond the part enters the image."""
    moved = np.full_like(X, 20)
    moved[:, :, 4:] = X[:, :, :-4]
    return moved


def coarser(X):
    """Simulate a new batch of parts, whose texture is a quarter coarser under the same light."""
    zoomed = np.stack([ndimage.zoom(image.astype(float), 1.25, order=1)[8:72, 8:72] for image in X])
    factors = X.mean(axis=(1, 2)) / zoomed.mean(axis=(1, 2))
    return np.clip(np.rint(zoomed * factors[:, None, None]), 0, 255).astype(np.uint8)


def trimmed(X):
    return X[:, :, :-2]


CHANGES = {
    "no change": lambda X: X,
    "light -10 %": light(0.9),
    "light -30 %": light(0.7),
    "blur, 0.7 pixels": blurred,
    "shifted crop, 4 pixels": shifted,
    "new batch, coarser texture": coarser,
    "images 2 pixels narrower": trimmed,
}


def new_monitor(n_normals, seed, alpha, steady):
    X = surfaces(n_normals, seed, steady=steady)
    detector = ExDDDetector(GaborFeatureExtractor(n_levels=2, image_size=32), random_state=seed).fit(X)
    return DriftMonitor(detector, alpha=alpha, random_state=seed).fit(X)


def first_alarm_of_fixed_reference(monitor, scores):
    """Return the number of scores until an alarm with p-values from the fixed reference only, or None."""
    log_capitals, uniform = no_bets(1), np.random.RandomState(0).uniform(size=len(scores))
    for n_seen, (score, tie_break) in enumerate(zip(scores, uniform)):
        p_value = smoothed_p_value(monitor.reference_["score"], score, tie_break)
        log_capitals, values = bet(log_capitals, np.array([p_value]), n_seen)
        if values[0] >= monitor.log10_threshold_:
            return n_seen + 1
    return None


def undisturbed(arguments):
    """Print the number of undisturbed streams in which a false alarm is raised."""
    n_alarms, n_fixed, which, start = 0, 0, Counter(), time.perf_counter()
    for stream in range(arguments.streams):
        monitor = new_monitor(arguments.normals, 2 * stream, arguments.alpha, steady=False)
        X = surfaces(arguments.images, 2 * stream + 1)
        scores = monitor.detector.score_samples(X)
        result = monitor.update(X, scores=scores)
        n_alarms += result.alarm
        which.update(result.which)
        n_fixed += first_alarm_of_fixed_reference(monitor, scores) is not None
        if (stream + 1) % 10 == 0:
            print(
                f"{stream + 1} streams of {arguments.images} images, {arguments.normals} normal images in fit: "
                f"{n_alarms} with a false alarm {dict(which)} (alpha {arguments.alpha:g}); "
                f"scores against a fixed reference: {n_fixed}; {time.perf_counter() - start:.0f} s",
                flush=True,
            )


def delays(arguments):
    """Print the number of changed images until the alarm."""
    print("| light | change | detected | images until the alarm: median | 90 % quantile | first statistic |")
    print("|---|---|---|---|---|---|", flush=True)
    for kind, steady in (("steady", True), ("varied", False)):
        found = {name: [] for name in CHANGES}
        firsts = {name: Counter() for name in CHANGES}
        for stream in range(arguments.delay_streams):
            monitor = new_monitor(arguments.normals, 10_000 + 3 * stream, arguments.alpha, steady)
            monitor.update(surfaces(arguments.before, 10_001 + 3 * stream, steady=steady))
            changed = surfaces(arguments.after, 10_002 + 3 * stream, steady=steady)
            for name, change in CHANGES.items():
                twin = copy.copy(monitor)  # enough, because update replaces attributes
                for begin in range(0, len(changed), _UNIT):
                    if twin.update(change(changed[begin : begin + _UNIT])).alarm:
                        break
                first = min(twin.alarms_.values(), default=None)
                found[name].append(np.inf if first is None else first - arguments.before)
                firsts[name].update([f"{one} {twin.changes_[one]}" for one in list(twin.alarms_)[:1]])
        for name, own in found.items():
            median, late = np.quantile(own, [0.5, 0.9], method="higher")
            first = firsts[name].most_common(1)[0][0] if firsts[name] else ""
            row = [kind, name, f"{np.isfinite(own).sum()} of {len(own)}", f"{median:g}", f"{late:g}", first]
            print(f"| {' | '.join(row)} |", flush=True)


def defects(arguments):
    """Print the number of streams with defects in which an alarm is raised, and the delay until the alarm."""
    print("| defects | normal images before | alarms | median number of images until an alarm | statistics |")
    print("|---|---|---|---|---|", flush=True)
    for before in (0, arguments.before):
        for share in (0.02, 0.05, 0.2):
            found, which = [], Counter()
            for stream in range(arguments.delay_streams):
                monitor = new_monitor(arguments.normals, 20_000 + 2 * stream, arguments.alpha, steady=True)
                if before:
                    monitor.update(surfaces(before, 20_001 + 2 * stream, steady=True))
                # Defects are spread evenly over the stream, because only their fraction matters.
                for unit in range(arguments.after // _UNIT):
                    seed = 21_000 + 100 * stream + unit
                    if monitor.update(surfaces(_UNIT, seed, steady=True, defect_fraction=share)).alarm:
                        break
                found += [after - before for after in list(monitor.alarms_.values())[:1]]
                which.update(monitor.changes_.items())
            when = f"{np.median(found):g}" if found else ""
            names = ", ".join(f"{name} {change} ({count})" for (name, change), count in which.items())
            print(
                f"| {share:.0%} | {before} | {len(found)} of {arguments.delay_streams} | {when} | {names} |", flush=True
            )


def cost(arguments):
    """Print the time that a monitor needs for an image whose score is already known."""
    monitor = new_monitor(arguments.normals, 0, arguments.alpha, steady=True)
    for size in (64, 256, 1024):
        X, _, _ = make_surface_defects(20, defect_fraction=0, image_shape=(size, size), random_state=0)
        scores = monitor.detector.score_samples(X)
        monitor.reset().update(X[:1], scores=scores[:1])  # compares the first score
        start = time.process_time()
        monitor.update(X[1:], scores=scores[1:])
        elapsed = 1000 * (time.process_time() - start) / len(X[1:])
        print(f"{size} x {size} pixels: {elapsed:.1f} ms of one core per image")


TASKS = {"undisturbed": undisturbed, "delays": delays, "defects": defects, "cost": cost}


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tasks", nargs="*", choices=[*TASKS, []], metavar="TASK", help="default: all tasks")
    parser.add_argument("--streams", type=int, default=100, help="undisturbed streams (default: %(default)s)")
    parser.add_argument("--images", type=int, default=2000, help="images per undisturbed stream (default: %(default)s)")
    parser.add_argument("--normals", type=int, default=100, help="normal images in fit (default: %(default)s)")
    parser.add_argument("--delay-streams", type=int, default=20, help="streams per change (default: %(default)s)")
    parser.add_argument("--before", type=int, default=500, help="images before a change (default: %(default)s)")
    parser.add_argument("--after", type=int, default=500, help="most images after a change (default: %(default)s)")
    parser.add_argument("--alpha", type=float, default=0.01)
    arguments = parser.parse_args(arguments)
    for task in arguments.tasks or TASKS:
        TASKS[task](arguments)


if __name__ == "__main__":
    main()
