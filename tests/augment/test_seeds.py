"""Seeds of augmenters."""

import joblib
import numpy as np
import pytest
from assertions import assert_same_samples, beginning
from cheap_augmenters import each_augmenter
from sklearn.base import clone


@each_augmenter
def test_the_same_seed_gives_the_same_samples_and_another_seed_others(augmenter, surfaces):
    X, y, masks = surfaces
    first, again = (clone(augmenter).fit(X, y, masks=masks) for _ in range(2))
    assert_same_samples(first.sample(4), again.sample(4))
    assert_same_samples(first.sample(4), first.sample(4))
    assert_same_samples(first.sample(4, random_state=7), again.sample(4, random_state=7))
    others = [
        first.sample(4, random_state=7),
        first.sample(4, random_state=8),
        clone(augmenter).set_params(random_state=1).fit(X, y, masks=masks).sample(4),
    ]
    hashes = {joblib.hash(synthetic.images) for synthetic in [first.sample(4), *others]}
    assert len(hashes) == 4


@each_augmenter
@pytest.mark.parametrize("random_state", [None, 5])
def test_the_first_samples_do_not_depend_on_how_many_follow(augmenter, random_state, surfaces):
    X, y, masks = surfaces
    augmenter = clone(augmenter).fit(X, y, masks=masks)
    nine = augmenter.sample(9, random_state)
    assert_same_samples(augmenter.sample(5, random_state), beginning(nine, 5))
    assert len({joblib.hash(image) for image in nine.images}) == 9


@each_augmenter
def test_an_own_seed_given_once_more_changes_nothing(augmenter, surfaces):
    X, y, masks = surfaces
    seed = 123_456_789
    augmenter = clone(augmenter).set_params(random_state=seed).fit(X, y, masks=masks)
    assert_same_samples(augmenter.sample(3), augmenter.sample(3, random_state=int(str(seed))))


@each_augmenter
def test_without_a_seed_each_fit_draws_others_but_its_samples_stay(augmenter, surfaces):
    X, y, masks = surfaces
    first, second = (clone(augmenter).set_params(random_state=None).fit(X, y, masks=masks) for _ in range(2))
    assert_same_samples(first.sample(2), first.sample(2))
    assert not np.array_equal(first.sample(2).images, second.sample(2).images)


@each_augmenter
def test_a_generator_goes_on_from_fit_to_fit_and_from_call_to_call(augmenter, surfaces):
    X, y, masks = surfaces
    same = [clone(augmenter).set_params(random_state=np.random.RandomState(3)).fit(X, y, masks=masks) for _ in range(2)]
    assert_same_samples(same[0].sample(3), same[1].sample(3))
    assert_same_samples(same[0].sample(3), same[0].sample(3, random_state=same[0].random_state))
    generator = np.random.RandomState(4)
    once, twice = (same[0].sample(2, random_state=generator) for _ in range(2))
    assert not np.array_equal(once.images, twice.images)
    before = same[0].sample(2)
    assert not np.array_equal(same[0].fit(X, y, masks=masks).sample(2).images, before.images)


@pytest.mark.parametrize("n_samples", [0, -1, 2.0, "all", None])
@each_augmenter
def test_the_number_of_samples_is_checked(augmenter, n_samples, surfaces):
    X, y, masks = surfaces
    augmenter = clone(augmenter).fit(X, y, masks=masks)
    with pytest.raises(ValueError, match=f"^n_samples: expected an integer of at least 1, got {n_samples!r}"):
        augmenter.sample(n_samples)
