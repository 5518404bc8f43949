"""Comparisons shared by several test files, and the ways to store an estimator that these files compare."""

import io
import os
import pickle
import signal
import time

import joblib
import numpy as np
import pytest

from sklearn_exdd.augment import SyntheticDefects


def assert_same_maps(maps, expected, **tolerance):
    """Check float32 maps of equal shapes: bit for bit, or within a tolerance for `numpy.testing.assert_allclose`."""
    assert [one.shape for one in maps] == [one.shape for one in expected]
    for one, other in zip(maps, expected):
        assert one.dtype == np.float32
        np.testing.assert_allclose(one, other, **{"rtol": 0, "atol": 0, **tolerance})


def assert_same_samples(samples, expected, *, provenance=True):
    """Check synthetic defects: images and masks bit for bit, and their provenance unless it may differ."""
    assert len(samples.images) == len(expected.images)
    assert len(samples.masks) == len(expected.masks)
    for part in ("images", "masks"):
        for one, other in zip(getattr(samples, part), getattr(expected, part)):
            assert one.dtype == other.dtype
            np.testing.assert_array_equal(one, other)
    if provenance:
        assert samples.provenance == expected.provenance


def naive_p_value(score, scores, groups):
    """Return the p-value of a score among the scores of normal samples, with equal weight for every group."""
    shares = [np.mean(scores[groups == group] >= score) for group in np.unique(groups)]
    return (1 + sum(shares)) / (1 + len(shares))


def beginning(synthetic, n_samples):
    """Return the first samples of synthetic defects."""
    return SyntheticDefects(synthetic.images[:n_samples], synthetic.masks[:n_samples], synthetic.provenance[:n_samples])


def through_pickle(estimator):
    """Return the estimator after pickling and unpickling."""
    return pickle.loads(pickle.dumps(estimator))


def through_joblib(estimator):
    """Return the estimator after a round trip through joblib."""
    file = io.BytesIO()
    joblib.dump(estimator, file)
    file.seek(0)
    return joblib.load(file)


def through_skops(estimator, ours=("sklearn_exdd.",)):
    """Return the estimator after a round trip through skops, and check that it has no untrusted types but ours."""
    skops_io = pytest.importorskip("skops.io")
    data = skops_io.dumps(estimator)
    unknown = skops_io.get_untrusted_types(data=data)
    assert [name for name in unknown if not name.startswith(ours)] == []
    return skops_io.loads(data, trusted=unknown)


STORES = ["pickle", "joblib", "skops"]
each_way_to_store = pytest.mark.parametrize("through", [through_pickle, through_joblib, through_skops], ids=STORES)


def status_of(process, patience=300):
    """Wait for a forked process and return its status as `os.waitpid` does; kill it after `patience` seconds."""
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        ended, status = os.waitpid(process, os.WNOHANG)
        if ended:
            return status
        time.sleep(0.005)
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)
    pytest.fail(f"The forked process {process} did not end within {patience} s.")


def run_onnx(path, images, layout="NHWC"):
    """Run an ONNX file on images of one shape; return its outputs by name."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    batch = np.stack([image if image.ndim == 3 else image[..., None] for image in images])
    batch = batch if layout == "NHWC" else np.ascontiguousarray(batch.transpose(0, 3, 1, 2))
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, {"image": batch})))


def assert_onnx_agrees(path, detector, images, layout="NHWC", tolerance=1e-5, level=0.0):
    """Check an ONNX file against its detector on images of one shape: scores, decisions, labels and maps.

    If scores and maps are differences that may be close to 0, `level` is the magnitude of the numbers subtracted.
    """
    outputs, scores = run_onnx(path, images, layout), detector.score_samples(images)
    level = max(level, abs(detector.threshold_))
    scale = np.maximum(np.abs(scores), level)
    assert (np.abs(outputs["score"] - scores) <= tolerance * scale).all()
    np.testing.assert_array_equal(outputs["decision"], outputs["score"] - np.float32(detector.threshold_))
    clear = np.abs(scores - detector.threshold_) > 1e-4 * scale
    np.testing.assert_array_equal(outputs["is_defect"][clear], (scores > detector.threshold_)[clear])
    for own, expected in zip(outputs["anomaly_map"], detector.predict_map(images), strict=True):
        assert own.shape == expected.shape
        assert np.abs(own - expected).max() <= 1e-4 * max(np.abs(expected).max(), level)
