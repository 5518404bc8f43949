"""DriftMonitor: its promise about false alarms, the changes it notices, and restarts that change nothing."""

import copy

import numpy as np
import pytest
from assertions import each_way_to_store
from conftest import CellStatistics
from PIL import Image
from scipy import integrate, ndimage, stats
from sklearn.base import BaseEstimator, clone
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from sklearn_exdd import CombinedDefectDetector, DriftDisplay, DriftMonitor, ExDDDetector, persistence
from sklearn_exdd.monitor import drift
from sklearn_exdd.monitor.image_statistics import image_statistics
from sklearn_exdd.monitor.martingales import bet, no_bets, paying_change, smoothed_p_value

N_NORMALS = 40


def draw_images(n_images, seed, shape=(32, 32)):
    """Return smoothed noise as uint8, with brightness and contrast that vary from image to image."""
    rng = np.random.RandomState(seed)
    noise = ndimage.gaussian_filter(rng.normal(size=(n_images, *shape)), (0, 1, 1))
    light = rng.normal(120, 4, n_images)[:, None, None]
    return np.clip(np.rint(light * (1 + 0.3 * noise)), 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def normals():
    return draw_images(N_NORMALS, seed=0)


@pytest.fixture(scope="module")
def detector(normals):
    return ExDDDetector(CellStatistics(), random_state=0).fit(normals)


@pytest.fixture
def monitor(detector, normals):
    return DriftMonitor(detector, random_state=0).fit(normals)


def state_of(monitor):
    return {name: value for name, value in vars(monitor).items() if name.endswith("_") or name.startswith("_")}


# Martingales


def p_values_of(streams, n_reference, *, joins=True, seed=0):
    """Return p-values. Each row is a reference followed by a stream, which joins the reference if `joins`."""
    uniform, rows = np.random.RandomState(seed).uniform(size=streams.shape), []
    for values, tie_breaks in zip(streams, uniform):
        pool, row = np.sort(values[:n_reference]), []
        for value, tie_break in zip(values[n_reference:], tie_breaks):
            row.append(smoothed_p_value(pool, value, tie_break))
            if joins:
                pool = np.insert(pool, np.searchsorted(pool, value), value)
        rows.append(row)
    return np.array(rows)


def highest_values(p_values):
    """Return the highest decimal logarithm that the martingale of each row reaches."""
    log_capitals, highest = no_bets(len(p_values)), np.zeros(len(p_values))
    for n_seen, column in enumerate(p_values.T):
        log_capitals, values = bet(log_capitals, column, n_seen)
        highest = np.maximum(highest, values)
    return highest


@pytest.mark.parametrize("n_levels", [3, 10**9], ids=["ties", "no ties"])
def test_p_values_of_an_exchangeable_stream_are_uniform_and_independent(n_levels):
    p_values = p_values_of(np.random.RandomState(0).randint(n_levels, size=(400, 45)), n_reference=5)
    assert stats.kstest(p_values.ravel(), "uniform").pvalue > 0.01
    # The mean of independent p-values has this variance. The streams estimate it to within about 7 %.
    assert p_values.mean(axis=1).var() == pytest.approx(1 / 12 / 40, rel=0.2)


def test_each_bet_is_fair():
    def after(p_value):
        return 10 ** bet(log_capitals, np.array([p_value]), n_seen)[1][0]

    log_capitals, before = no_bets(1), np.zeros(1)
    for n_seen, p_value in enumerate([0.01, 0.4, 0.93]):
        # The integral is split into halves, because the densities are infinite at both ends.
        mean = sum(integrate.quad(after, low, high, epsrel=1e-6)[0] for low, high in ((0, 0.5), (0.5, 1)))
        assert mean == pytest.approx(10 ** before[0], rel=1e-3)
        log_capitals, before = bet(log_capitals, np.array([p_value]), n_seen)


@pytest.mark.parametrize("alpha", [0.02, 0.1, 0.5])
def test_false_alarms_are_as_rare_as_promised(alpha):
    highest = highest_values(np.random.RandomState(0).uniform(size=(2000, 300)))
    assert np.mean(highest >= np.log10(1 / alpha)) <= alpha


def test_a_reference_that_stays_fixed_would_break_the_promise():
    streams = np.random.RandomState(0).normal(size=(100, 320))
    shares = [
        np.mean(highest_values(p_values_of(streams, 20, joins=joins)) >= np.log10(1 / 0.1)) for joins in (True, False)
    ]
    assert shares[0] <= 0.1
    assert shares[1] > 0.5


@pytest.mark.parametrize(
    ("p_value", "change"), [(0.001, "higher"), (0.999, "lower"), (0.5, "less spread"), ((0.01, 0.99), "more spread")]
)
def test_both_directions_and_both_spreads_are_bet_on(p_value, change):
    p_values = np.resize(p_value, 40)
    assert highest_values(p_values[None])[0] > 3
    log_capitals = no_bets(1)
    for n_seen, one in enumerate(p_values):
        log_capitals, _ = bet(log_capitals, np.array([one]), n_seen)
    assert paying_change(log_capitals[0]) == change


def test_a_late_change_is_noticed_nearly_as_soon_as_an_early_one():
    delays = []
    for n_before in (100, 100_000):
        log_capitals = no_bets(1)
        for n_seen in range(n_before, n_before + 30):  # starts as if all bets so far were lost
            log_capitals, values = bet(log_capitals, np.array([0.003]), n_seen)
            if values[0] >= 3:
                break
        delays.append(n_seen - n_before)
    assert delays[1] <= delays[0] + 4


def test_dropping_half_of_a_large_pool_leaves_p_values_uniform_and_independent(monkeypatch):
    monkeypatch.setattr(drift, "_MAX_POOL", 16)
    rng, rows = np.random.RandomState(0), []
    random = np.random.Generator(np.random.PCG64(0))
    for values in rng.normal(size=(400, 65)):
        pool, row = np.sort(values[:5]), []
        for value in values[5:]:
            row.append(smoothed_p_value(pool, value, rng.uniform()))
            pool = drift._joined(pool, value, random)
            assert len(pool) <= 16
            assert (np.diff(pool) >= 0).all()
        rows.append(row)
    assert stats.kstest(np.ravel(rows), "uniform").pvalue > 0.01
    assert np.mean(rows, axis=1).var() == pytest.approx(1 / 12 / 60, rel=0.2)


# Statistics of pixels


def test_each_statistic_answers_to_its_cause():
    image = draw_images(1, seed=0, shape=(64, 48))[0][..., None] / np.float32(255)
    plain, dimmed = image_statistics(image), image_statistics(image * np.float32(0.5))
    assert dimmed.pop("brightness") == pytest.approx(plain["brightness"] / 2)
    assert dimmed == pytest.approx({name: plain[name] for name in dimmed}, rel=1e-5)
    blurred = image_statistics(ndimage.gaussian_filter(image, (1, 1, 0)))
    assert blurred["sharpness"] < 0.6 * plain["sharpness"]
    assert blurred["brightness"] == pytest.approx(plain["brightness"], rel=0.01)
    assert (plain["height"], plain["width"]) == (64, 48)
    assert image_statistics(np.repeat(image, 3, axis=2)) == pytest.approx(plain, rel=1e-5)


@pytest.mark.parametrize("level", [0, 0.3, 1])
@pytest.mark.parametrize("shape", [(9, 7, 1), (1, 1, 3)])
def test_statistics_of_a_constant_image_are_finite(level, shape):
    found = image_statistics(np.full(shape, level, dtype=np.float32))
    assert found["contrast"] == found["sharpness"] == 0
    assert found["brightness"] == pytest.approx(level)


# Streams


def test_an_undisturbed_stream_raises_no_alarm(monitor):
    result = monitor.update(draw_images(300, seed=1))
    assert not result.alarm
    assert (result.which, result.changes, result.n_seen) == ([], {}, 300)
    assert list(result.log10_martingales) == ["score", "brightness", "contrast", "sharpness", "height", "width"]
    assert max(result.log10_martingales.values()) < monitor.log10_threshold_ == pytest.approx(np.log10(600))


@pytest.mark.parametrize(
    ("change", "statistic", "direction"),
    [
        (lambda X: 0.7 * X, "brightness", "lower"),
        (lambda X: 1.3 * X, "brightness", "higher"),
        (lambda X: ndimage.gaussian_filter(X, (0, 1, 1)), "sharpness", "lower"),
        (
            lambda X: X.mean(axis=(1, 2), keepdims=True) + 0.4 * (X - X.mean(axis=(1, 2), keepdims=True)),
            "contrast",
            "lower",
        ),
        (lambda X: X[:, :28], "height", "lower"),
        (lambda X: np.pad(X, ((0, 0), (0, 0), (0, 4)), mode="reflect"), "width", "higher"),
        (lambda X: np.where(np.arange(32) < 8, 250, X), "score", "higher"),
    ],
    ids=["dark", "bright", "blur", "haze", "lower", "wider", "foreign"],
)
def test_each_kind_of_drift_is_noticed_and_named(monitor, change, statistic, direction):
    monitor.update(draw_images(100, seed=1))
    changed = change(draw_images(60, seed=2).astype(float)).clip(0, 255).astype(np.uint8)
    result = monitor.update(changed)
    assert result.alarm
    assert result.changes[statistic] == direction
    assert 102 <= monitor.alarms_[statistic] <= 130


def test_an_alarm_remains_until_reset(monitor):
    first = monitor.update(draw_images(30, seed=1) // 2)
    assert set(first.which) == {"brightness", "score"}
    alarms = dict(monitor.alarms_)
    assert monitor.update(draw_images(30, seed=2)).alarm
    assert alarms.items() <= monitor.alarms_.items()
    monitor.reset()
    assert (monitor.n_seen_, monitor.alarms_, monitor.changes_) == (0, {}, {})
    assert not monitor.update(draw_images(30, seed=2)).alarm


def test_a_higher_share_of_defects_is_drift_of_the_scores(monitor):
    assert not monitor.update(draw_images(200, seed=1)).alarm
    X = draw_images(100, seed=2)
    X[::4, :6, :6] = 255
    assert monitor.update(X).changes["score"] == "higher"


def test_unseen_references_with_defects_make_such_defects_undisturbed(detector):
    X = draw_images(500, seed=1)
    X[np.random.RandomState(0).uniform(size=500) < 0.2, :6, :6] = 255
    monitor = DriftMonitor(detector, statistics=["score"], reference_scores="unseen", random_state=0).fit(X[:200])
    np.testing.assert_array_equal(monitor.reference_["score"], np.sort(detector.score_samples(X[:200])))
    assert not monitor.update(X[200:]).alarm


def test_sizes_of_a_line_with_many_sizes_are_no_drift(detector, normals):
    X = [image[: 32 - 4 * (i % 3)] for i, image in enumerate(draw_images(140, seed=1))]
    monitor = DriftMonitor(detector, statistics=["height", "width"], random_state=0).fit(X[:40])
    assert not monitor.update(X[40:]).alarm


def test_batches_do_not_matter(monitor):
    X = draw_images(40, seed=1)
    X[30:] //= 2
    at_once, in_turn = copy.deepcopy(monitor), monitor
    result = at_once.update(X)
    for image in X:
        last = in_turn.update(image[None])
    assert last == result
    np.testing.assert_equal(state_of(in_turn), state_of(at_once))


def test_known_scores_are_not_computed_again(monitor, detector, monkeypatch):
    X = draw_images(20, seed=1)
    scores, twin = detector.score_samples(X), copy.copy(monitor)
    expected = monitor.update(X)
    twin.update(X[:1], scores=scores[:1])  # only the first score is compared
    monkeypatch.setattr(ExDDDetector, "_score", None)
    assert twin.update(X[1:], scores=scores[1:]) == expected


@pytest.mark.parametrize("method", ["decision_function", "p_values"])
@pytest.mark.parametrize("as_paths", [False, True])
def test_other_numbers_than_scores_are_refused(monitor, detector, method, as_paths, tmp_path):
    X = draw_images(3, seed=1)
    if as_paths:
        for i, image in enumerate(X):
            Image.fromarray(image).save(tmp_path / f"{i}.png")
        X = sorted(tmp_path.glob("*.png"))
    monitor.reset()
    with pytest.raises(ValueError, match=r"^scores\[0\]: expected the result of score_samples for X\[0\], "):
        monitor.update(X, scores=getattr(detector, method)(X))
    assert monitor.n_seen_ == 0
    assert monitor.update(X, scores=detector.score_samples(X)).n_seen == 3


@each_way_to_store
def test_a_stored_monitor_goes_on_as_if_nothing_had_happened(monitor, through):
    X = draw_images(40, seed=1)
    X[20:] //= 2
    monitor.detector = FrozenEstimator(monitor.detector)  # as in a Pipeline
    monitor.update(X[:20])
    again = through_known(through, monitor)
    assert again.update(X[20:]) == monitor.update(X[20:])
    np.testing.assert_equal(state_of(again), state_of(monitor))


def through_known(through, monitor):
    """Store and restore a monitor, trusting the extractor of the tests as well."""
    if "skops" not in through.__name__:
        return through(monitor)
    return through(monitor, ours=("sklearn_exdd.", "conftest."))


def test_a_monitor_is_one_file_with_its_detector(normals, tmp_path):
    X = draw_images(40, seed=1, shape=(64, 64))
    X[30:] //= 2
    detector = ExDDDetector("gabor", random_state=0).fit(X[:10])
    with pytest.warns(
        UserWarning, match=r"at least 20 reference values, got fewer for score \(10\), brightness \(10\)"
    ):
        monitor = DriftMonitor(detector, random_state=0).fit(X[:10])
    monitor.update(X[10:25])
    persistence.dump(monitor, tmp_path / "monitor.safetensors")
    again = persistence.load(tmp_path / "monitor.safetensors")
    assert again.update(X[25:]) == monitor.update(X[25:])
    np.testing.assert_equal(state_of(again), state_of(monitor))


def test_the_seed_decides_how_ties_are_broken(detector, normals):
    X = draw_images(20, seed=1)
    runs = [DriftMonitor(detector, random_state=seed).fit(normals).update(X).log10_martingales for seed in (0, 0, 1)]
    assert runs[0] == runs[1]
    assert runs[0]["width"] != runs[2]["width"]
    assert runs[0] != DriftMonitor(detector, random_state=0).fit(normals).reset().update(X).log10_martingales


@pytest.mark.parametrize("kind", ["pipeline", "search", "frozen", "combined"])
def test_detectors_inside_others_are_found(normals, detector, kind):
    X = draw_images(20, seed=1)
    if kind == "pipeline":
        estimator = make_pipeline(FunctionTransformer(lambda X: X // 2), clone(detector)).fit(normals)
        found = estimator[-1].score_samples(X // 2)
    elif kind == "search":
        y = np.arange(N_NORMALS) % 8 == 0
        estimator = GridSearchCV(clone(detector), {"blur": [0, 4]}, cv=2, scoring="roc_auc").fit(normals, y)
        found = estimator.best_estimator_.score_samples(X)
    elif kind == "frozen":
        estimator, found = FrozenEstimator(detector), detector.score_samples(X)
    else:
        twins = [("one", clone(detector)), ("two", clone(detector))]
        estimator = CombinedDefectDetector(twins, validation_fraction=0.5, random_state=0).fit(normals)
        found = estimator.score_samples(X)
    one = DriftMonitor(estimator, random_state=0).fit(normals)
    other = copy.copy(one)
    assert one.update(X) == other.update(X, scores=found)
    brightness = [image.mean() / 255 for image in normals]  # of the images as they came
    np.testing.assert_allclose(one.reference_["brightness"], np.sort(brightness), rtol=1e-5)


def test_files_and_arrays_give_the_same_result(monitor, write_images):
    X, twin = draw_images(10, seed=1), copy.copy(monitor)
    assert monitor.update(X) == twin.update(write_images(X))


def test_feature_rows_have_scores_only():
    X = np.random.RandomState(0).normal(size=(150, 3))
    detector = ExDDDetector(random_state=0).fit(X[:50])
    monitor = DriftMonitor(detector, statistics=["score"], random_state=0).fit(X[:50])
    assert not monitor.update(X[50:100]).alarm
    assert monitor.update(3 * X[100:]).which == ["score"]
    with pytest.raises(ValueError, match=r"^statistics: expected \['score'\] for feature rows, which have no pixels"):
        DriftMonitor(detector).fit(X[:50])


def test_the_history_of_a_long_stream_stays_short(monitor, monkeypatch):
    monkeypatch.setattr(drift, "_MAX_HISTORY", 16)
    monitor.update(draw_images(15, seed=1))
    monitor.update(draw_images(30, seed=2))
    assert monitor.history_[:, 0].tolist() == list(range(0, 45, 4))
    assert monitor.history_[0, 1:].tolist() == [0] * 6


# Refusals


def test_a_monitor_or_a_detector_that_is_not_fitted_is_an_error(detector, normals):
    with pytest.raises(NotFittedError):
        DriftMonitor(detector).update(normals)
    with pytest.raises(NotFittedError):
        DriftMonitor(detector).reset()
    with pytest.raises(NotFittedError):
        DriftMonitor(ExDDDetector()).fit(normals)
    with pytest.raises(NotFittedError):
        DriftDisplay.from_estimator(DriftMonitor(detector))


@pytest.mark.parametrize(
    ("X", "scores", "message"),
    [
        ([], None, r"^X: expected at least one image, got none"),
        (np.full((2, 32, 32), np.nan), None, r"^X\[0\]: expected finite values"),
        (np.zeros((2, 32, 32, 3), dtype=np.uint8), None, r"^X\[0\]: expected 1 channel \(grey\) as in fit, got 3"),
        (np.zeros((2, 32, 32), dtype=np.uint8), [1.0], r"^scores: expected 2 scores, one for each image of X, got 1"),
        (np.zeros((2, 32, 32), dtype=np.uint8), [1.0, np.nan], r"^scores\[1\]: expected a finite number, got nan"),
    ],
)
def test_bad_input_is_named_and_leaves_the_monitor_as_it_was(monitor, X, scores, message):
    monitor.update(draw_images(3, seed=1))
    before = copy.deepcopy(state_of(monitor))
    with pytest.raises(ValueError, match=message):
        monitor.update(X, scores=scores)
    np.testing.assert_equal(state_of(monitor), before)


def test_a_detector_that_has_changed_is_noticed(normals):
    detector = ExDDDetector(CellStatistics(), random_state=0).fit(normals)
    monitor = DriftMonitor(detector, random_state=0).fit(normals)
    detector.partial_fit(draw_images(1, seed=5), [0])
    with pytest.raises(ValueError, match=r"^detector: expected the detector as it was when the monitor was fitted"):
        monitor.update(normals)
    monitor.fit(normals).update(normals)
    detector.threshold_ += 1  # an attribute that the monitor does not use
    monitor.update(normals)


def test_training_images_are_not_taken_for_unseen_ones(detector, normals):
    mixed = np.concatenate([draw_images(30, seed=1), normals[:2]])
    with pytest.raises(ValueError, match=r"^X: expected images that the detector has not seen, got 2 .* X\[30\]"):
        DriftMonitor(detector, reference_scores="unseen").fit(mixed)


class Brightest(BaseEstimator):
    """Detector without calibration scores."""

    def fit(self, X, y=None):
        self.threshold_ = 1.0
        return self

    def predict_map(self, X):
        return X / 255

    def score_samples(self, X):
        return X.max(axis=(1, 2)) / 255


def test_a_detector_without_calibration_scores_needs_unseen_images(normals):
    with pytest.raises(ValueError, match=r"^detector: expected finite calibration_scores_, got none from Brightest"):
        DriftMonitor(Brightest().fit(normals)).fit(normals)
    monitor = DriftMonitor(Brightest().fit(normals), reference_scores="unseen", random_state=0).fit(normals)
    assert not monitor.update(draw_images(20, seed=1)).alarm


@pytest.mark.parametrize("statistics", [["colour"], [], ["score", "score"], ["score", None]])
def test_statistics_are_known_names_each_once(detector, normals, statistics):
    with pytest.raises(ValueError, match=r"^statistics: expected 'all' or some of \['score', 'brightness'"):
        DriftMonitor(detector, statistics=statistics).fit(normals)


# Display


def test_the_display_shows_each_martingale_and_marks_the_alarm(monitor):
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    monitor.update(draw_images(50, seed=1))
    monitor.update(draw_images(50, seed=2) // 2)
    display = DriftDisplay.from_estimator(monitor)
    labels = [text.get_text() for text in display.ax_.get_legend().get_texts()]
    assert labels[1] == f"brightness: alarm after {monitor.alarms_['brightness']} images"
    assert labels[4:] == ["height", "width", "alarm at 2.78"]
    curves = {line.get_label(): line for line in display.ax_.lines}
    np.testing.assert_array_equal(curves["height"].get_xydata(), monitor.history_[:, [0, 5]])
    (x,), (y,) = next(line for line in display.ax_.lines if line.get_marker() == "o").get_data()
    assert x == monitor.alarms_["score"]
    assert y >= monitor.log10_threshold_
    assert DriftDisplay.from_estimator(monitor, ax=display.ax_).figure_ is display.figure_


def test_the_display_refuses_curves_of_other_lengths():
    pytest.importorskip("matplotlib")
    with pytest.raises(ValueError, match=r"^log10_martingales\['score'\]: expected one value for each of the 3 points"):
        DriftDisplay(n_seen=[0, 1, 2], log10_martingales={"score": [0, 1]}, log10_threshold=2).plot()
