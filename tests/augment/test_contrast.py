"""Synthetic defects that cannot be seen."""

import numpy as np
import pytest
from cheap_augmenters import assert_outside_the_masks_all_is_as_it_was

from sklearn_exdd.augment import BoxRegions, OffsetDefectAugmenter


class Nothing(OffsetDefectAugmenter):
    """Augmenter that does not change the image."""

    def _paint(self, image, region, random_state):
        return image.copy(), {}


class Unfinished(OffsetDefectAugmenter):
    """Augmenter that replaces half of the pixels by NaN or infinity."""

    def _paint(self, image, region, random_state):
        painted = np.where(image > 0.5, image - 0.5, image + 0.5)
        painted[:, ::2] = [[np.nan]]
        painted[::5, 1::4] = [[np.inf]]
        return painted, {}


class Faint(OffsetDefectAugmenter):
    """Augmenter that changes pixels by half a standard deviation of the texture. It counts its tries."""

    n_tries = 0

    def _paint(self, image, region, random_state):
        type(self).n_tries += 1
        return image + np.where(image > 0.5, -0.5, 0.5) * image.std(), {}


class PlainAtThird(Faint):
    """Augmenter whose defects are clearly visible at every third try, and faint at the other tries."""

    def _paint(self, image, region, random_state):
        painted, more = super()._paint(image, region, random_state)
        return np.where(self.n_tries % 3 == 0, np.where(image > 0.5, 0, 1), painted), more


@pytest.mark.parametrize("min_contrast", [0, 1.0])
def test_a_defect_that_changes_nothing_is_reported_with_its_image(min_contrast, surfaces):
    X, y, _ = surfaces
    only = np.flatnonzero(y == 0)[3]
    y = np.where(np.arange(len(y)) == only, 0, 1)
    augmenter = Nothing(max_redraws=4, min_contrast=min_contrast, random_state=0).fit(X, y)
    message = rf"^Nothing: expected a visible change on X\[{only}\], got none in 5 tries\. Use larger"
    with pytest.raises(ValueError, match=message):
        augmenter.sample(2)


@pytest.mark.parametrize("max_redraws", [0, 1, 4])
def test_a_faint_defect_is_drawn_again_so_many_times_and_then_reported(max_redraws, surfaces, monkeypatch):
    monkeypatch.setattr(Faint, "n_tries", 0)
    augmenter = Faint(max_redraws=max_redraws, min_contrast=2, random_state=0).fit(surfaces[0])
    message = (
        rf"^3 of 3 synthetic defects \(the first is number 0\) stayed below min_contrast=2 after {max_redraws} redraws"
    )
    with pytest.warns(RuntimeWarning, match=message):
        synthetic = augmenter.sample(3)
    assert Faint.n_tries == 3 * (max_redraws + 1)
    assert [one["n_redraws"] for one in synthetic.provenance] == [max_redraws] * 3
    assert not any(one["visible"] for one in synthetic.provenance)
    assert_outside_the_masks_all_is_as_it_was(synthetic, surfaces[0])


def test_of_faint_defects_the_plainest_is_kept(surfaces, monkeypatch):
    X, _, _ = surfaces
    tries = []

    class Growing(OffsetDefectAugmenter):
        def _paint(self, image, region, random_state):
            strength = [0.1, 0.3, 0.2][len(tries) % 3]
            tries.append(strength)
            return image + np.where(image > 0.5, -strength, strength), {"strength": strength}

    augmenter = Growing(max_redraws=2, min_contrast=1000, random_state=0).fit(X)
    with pytest.warns(RuntimeWarning, match="^1 of 1 synthetic defects"):
        (provenance,) = augmenter.sample(1).provenance
    assert tries == [0.1, 0.3, 0.2]
    assert provenance["strength"] == 0.3
    assert provenance["n_redraws"] == 2


def test_redraws_stop_at_the_first_plain_defect(surfaces, monkeypatch):
    monkeypatch.setattr(PlainAtThird, "n_tries", 0)
    synthetic = PlainAtThird(min_contrast=1.5, random_state=0).fit(surfaces[0]).sample(4)
    assert PlainAtThird.n_tries == 12
    assert [one["n_redraws"] for one in synthetic.provenance] == [2] * 4
    assert all(one["visible"] for one in synthetic.provenance)


def test_a_redraw_takes_another_region_and_another_source(surfaces, monkeypatch):
    X, _, _ = surfaces
    drawn = []
    draw = Faint._draw

    def recording(self, random_state):
        drawn.append(draw(self, random_state))
        return drawn[-1]

    monkeypatch.setattr(Faint, "_draw", recording)
    with pytest.warns(RuntimeWarning, match="stayed below min_contrast"):
        Faint(max_redraws=5, min_contrast=1000, random_state=0).fit(X).sample(1)
    assert len({one.index for one in drawn}) > 1
    assert len({one.region.tobytes() for one in drawn}) == 6


def test_what_is_no_number_counts_as_unchanged(surfaces):
    X, _, _ = surfaces
    regions = BoxRegions([(10, 10, 50, 50)])
    synthetic = Unfinished(regions=regions, random_state=0).fit(X).sample(2)
    for image, _, provenance in zip(*synthetic, synthetic.provenance):
        source = X[provenance["source"]]
        np.testing.assert_array_equal(image[:, ::2], source[:, ::2])
        np.testing.assert_array_equal(image[::5, 1::4], source[::5, 1::4])
        assert (image[11:14, 11:49:2] != source[11:14, 11:49:2]).any()
    nothing = Unfinished(max_redraws=1).fit(X)
    nothing._paint = lambda image, region, random_state: (np.full_like(image, np.nan), {})
    with pytest.raises(ValueError, match="expected a visible change"):
        nothing.sample(1)


def test_on_a_surface_without_texture_any_change_is_visible():
    X = np.full((3, 40, 50), 128, dtype=np.uint8)
    synthetic = OffsetDefectAugmenter(offset=(0.01, 0.01), mottling=0, softness=(0, 0), random_state=0).fit(X).sample(3)
    assert all(one["n_redraws"] == 0 and one["visible"] for one in synthetic.provenance)
    for image, mask in zip(*synthetic):
        assert set(np.unique(image[mask])) <= {127, 129}
