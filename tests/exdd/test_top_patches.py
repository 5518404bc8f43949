"""Image scores from the patches that may have the highest scores. They equal the image scores from all patches."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sklearn_exdd import ExDDDetector, MemoryBank
from sklearn_exdd.banks import dual_bank, top_patches
from sklearn_exdd.banks.dual_bank import DualBank
from sklearn_exdd.features.patch_grid import PatchGrid


@given(
    seed=st.integers(0, 2**31 - 1),
    n_features=st.integers(1, 40),
    offset=st.sampled_from([0.0, 1.0, 1e3]),
    levels=st.sampled_from([None, 2]),
    n_neighbors=st.sampled_from(["auto", 1, 3]),
    n_top_patches=st.sampled_from([1, 10, 1000]),
    is_dual=st.booleans(),
    dtype=st.sampled_from([np.float32, np.float64]),
)
def test_scores_are_those_of_all_patches(seed, n_features, offset, levels, n_neighbors, n_top_patches, is_dual, dtype):
    rng = np.random.default_rng(seed)

    def rows(n):
        values = rng.normal(size=(n, n_features)) * rng.choice([0.1, 1, 3], size=(n, 1))
        values = values if levels is None else np.clip(np.rint(values), 0, levels)  # makes many distances equal
        return (values + offset).astype(dtype)

    defect = MemoryBank(rows(20)) if is_dual else None
    profile = np.array([1.5, 1.2, 1.0])
    banks = DualBank(
        MemoryBank(rows(200)),
        defect,
        0.3 if is_dual else None,
        profile,
        n_neighbors=n_neighbors,
        n_top_patches=n_top_patches,
        border_rings=2,
    )
    inside = rng.random((6, 8)) > 0.4
    inside[0, 0] = True
    grids = [PatchGrid((9, 7)), PatchGrid((1, 1)), PatchGrid((6, 8), inside), PatchGrid((12, 12))]
    features = rows(sum(grid.n_patches for grid in grids))
    expected = [
        banks.score_image(scores, grid.rings, own) for scores, own, grid in banks.score_maps([(features, grids)])
    ]
    assert top_patches.top_scores(banks, features, grids) == expected


def test_most_patches_need_no_exact_search(surfaces, unseen_surfaces, monkeypatch):
    X, y, _ = surfaces
    detector = ExDDDetector("gabor", random_state=0).fit(X[y == 0])
    monkeypatch.setattr(dual_bank, "MIN_ROWS", 64)
    searched, search = [], MemoryBank.kneighbors
    monkeypatch.setattr(
        MemoryBank,
        "kneighbors",
        lambda self, F, *args, **kw: (searched.append(len(F)), search(self, F, *args, **kw))[1],
    )
    scores = detector.score_samples(unseen_surfaces[0])
    n_searched = sum(searched)
    assert scores.tolist() == [one.score for one in detector.inspect(unseen_surfaces[0])]
    assert n_searched < 0.7 * (sum(searched) - n_searched)


@pytest.mark.parametrize("change", [{"image_score": "exdd"}, {"memory": "cache"}])
def test_other_scores_and_cached_searches_look_at_all_patches(change, surfaces, unseen_surfaces, monkeypatch, tmp_path):
    X, y, _ = surfaces
    monkeypatch.chdir(tmp_path)
    detector = ExDDDetector("gabor", random_state=0, **change).fit(X[y == 0])
    monkeypatch.setattr(dual_bank, "MIN_ROWS", 64)
    monkeypatch.setattr(dual_bank, "top_scores", None)
    assert detector.score_samples(unseen_surfaces[0][:3]).shape == (3,)


@pytest.mark.parametrize("value", [np.inf, np.nan])
def test_features_that_are_no_numbers_are_refused(value):
    banks = DualBank(MemoryBank(np.random.default_rng(0).random((64, 3))), border_profile=np.ones(5))
    features = np.zeros((20, 3))
    features[3] = value
    with pytest.raises(ValueError, match=r"contains (NaN|infinity)"):
        top_patches.top_scores(banks, features, [PatchGrid((4, 5))])
