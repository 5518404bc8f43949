"""Plain, slow versions of the computations of ExDDDetector, and comparisons of detectors."""

import numpy as np
from assertions import naive_p_value

# Parameters that keep all patches and treat patches at the border like other patches.
EVERYTHING = {"normal_coreset": 1.0, "defect_coreset": 1.0, "max_defect_patches": None, "border_rings": 0}


def assert_same_detector(first, second, X):
    np.testing.assert_array_equal(first.score_samples(X), second.score_samples(X))
    np.testing.assert_array_equal(first.predict_map(X), second.predict_map(X))
    assert first.threshold_ == second.threshold_
    assert first.false_alarm_rate_ == second.false_alarm_rate_
    assert first.epsilon_ == second.epsilon_
    for bank in ("normal_bank_", "defect_bank_"):
        assert_same_rows(getattr(first, bank), getattr(second, bank))


def assert_same_rows(first, second):
    assert (first is None) == (second is None)
    if first is not None:
        np.testing.assert_array_equal(first.features, second.features)


def patch_rows(detector, image):
    """Return the features and the centres of the patches of one image."""
    (feature_map,) = detector.feature_extractor_.transform([image])
    centers = detector.feature_extractor_.patch_centers(feature_map.shape, image.shape)
    rows, columns = np.meshgrid(*centers, indexing="ij")
    return feature_map.reshape(-1, feature_map.shape[2]), np.column_stack([rows.ravel(), columns.ravel()])


def places(bank):
    return np.column_stack([bank.provenance["row"], bank.provenance["column"]])


def lie_on(mask, centers, reach=4):
    """Tell for each patch whether it overlaps the mask. The side of a patch is 2 * reach pixels."""
    return np.array(
        [
            mask[max(0, int(row) - reach + 1) : int(row) + reach + 1, max(0, int(column) - reach + 1) :][
                :, : 2 * reach
            ].any()
            for row, column in centers
        ]
    )


def distances_to(rows, patch):
    return np.sqrt(((np.asarray(rows, dtype=np.float64) - patch) ** 2).sum(axis=1))


def naive_distances(bank, features, n_neighbors, kept=slice(None)):
    """Return the mean distance of each patch to the `n_neighbors` nearest kept rows of a bank."""
    return np.array([np.sort(distances_to(bank.features[kept], patch))[:n_neighbors].mean() for patch in features])


def naive_threshold(scores, rate, groups=None):
    scores, groups = np.array(scores), np.arange(len(scores)) if groups is None else groups
    rate = max(rate, 1 / (1 + len(np.unique(groups)))) + 1e-9
    return max(score for score in scores if naive_p_value(score, scores, groups) > rate)


def assert_finds(detector, images, is_defect):
    """Check that all defects are found and score far above all normal images. Normal images may raise alarms."""
    scores = detector.score_samples(images)
    assert (detector.decision_function(images)[is_defect] > 0).all()
    assert scores[is_defect].min() > 1.2 * scores[~is_defect].max()
