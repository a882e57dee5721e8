"""Statistics of many notes: accuracies and their classes, distances of clouds, and how sure each of them is."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.covariance import ledoit_wolf

from wavenet_ae.metrics import accuracy, bootstrap, frechet

RNG = np.random.default_rng(0)


def test_the_interval_of_a_mean_is_as_wide_as_theory_says_and_ignores_order():
    values = np.random.default_rng(1).normal(3, 2, size=400)
    found = bootstrap.mean(values)
    assert found.value == pytest.approx(values.mean())
    assert found.high - found.low == pytest.approx(2 * 1.96 * values.std() / 20, rel=0.1)
    assert found.low < found.value < found.high
    assert bootstrap.mean(values[::-1].copy()) == found
    assert bootstrap.median(values).value == np.median(values)


def test_one_note_has_no_interval_and_no_note_no_value():
    found = bootstrap.mean(np.array([2.0, np.nan]))
    assert (found.value, found.notes) == (2.0, 1)
    assert math.isnan(found.low)
    assert math.isnan(found.high)
    assert bootstrap.mean(np.array([np.nan])).notes == 0
    assert math.isnan(bootstrap.median(np.array([])).value)


# --- accuracy


def test_all_right_is_one_and_all_wrong_is_zero():
    truth = ["bass", "bass", "reed"]
    for answer in (1.0, 0.0):
        right = np.full(3, answer)
        for found in (accuracy.plain(right), accuracy.balanced(right, truth)):
            assert tuple(found) == (answer, answer, answer, 3)


def test_always_saying_the_largest_class_is_chance_when_classes_count_alike():
    truth = ["bass"] * 90 + ["reed"] * 10
    right = np.array([name == "bass" for name in truth], dtype=np.float64)
    assert accuracy.plain(right).value == 0.9
    assert accuracy.balanced(right, truth).value == 0.5
    with pytest.raises(ValueError, match="100 answers do not fit 2 notes"):
        accuracy.balanced(right, [1, 2])


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**31), count=st.integers(1, 12))
def test_the_order_of_notes_does_not_matter(seed, count):
    rng = np.random.default_rng(seed)
    right, truth = rng.random(count), rng.integers(3, size=count)
    order = rng.permutation(count)
    np.testing.assert_equal(
        accuracy.balanced(right, truth.tolist()), accuracy.balanced(right[order], truth[order].tolist())
    )
    recalls = [right[truth == name].mean() for name in set(truth.tolist())]
    assert accuracy.balanced(right, truth.tolist()).value == pytest.approx(np.mean(recalls))


# --- Frechet distance


def cloud(mean, covariance):
    return frechet.Cloud(np.array(mean, dtype=np.float64), np.array(covariance, dtype=np.float64), 0.0, 100)


def test_the_distance_of_two_gaussians_is_the_closed_form():
    one = cloud([0, 0], [[4, 0], [0, 9]])
    assert frechet.between(one, one) == pytest.approx(0, abs=1e-12)
    assert frechet.between(one, cloud([3, 4], [[4, 0], [0, 9]])) == pytest.approx(25)
    # axes shared: |m1 - m2|^2 + sum (s1 - s2)^2
    assert frechet.between(one, cloud([1, 0], [[1, 0], [0, 25]])) == pytest.approx(1 + (2 - 1) ** 2 + (3 - 5) ** 2)
    turned = cloud([0, 0], [[2, 1], [1, 2]])  # eigenvalues 3 and 1, against the identity
    assert frechet.between(turned, cloud([0, 0], np.eye(2))) == pytest.approx((3**0.5 - 1) ** 2)
    assert frechet.between(one, turned) == pytest.approx(frechet.between(turned, one))
    assert frechet.between(cloud([0, 0], np.zeros((2, 2))), one) == pytest.approx(13), "a point, no cloud at all"


def test_a_fitted_cloud_is_that_of_its_samples_and_says_how_much_was_shrunk():
    turn = np.array([[2.0, 0.0], [1.0, 0.5]])
    many = frechet.fit(RNG.normal(size=(50_000, 2)) @ turn.T + [1, -1])
    np.testing.assert_allclose(many.mean, [1, -1], atol=0.05)
    np.testing.assert_allclose(many.covariance, turn @ turn.T, rtol=0.05)
    assert many.shrinkage < 0.001
    few = frechet.fit(RNG.normal(size=(10, 30)))
    assert few.shrinkage > 0.2
    assert np.linalg.eigvalsh(few.covariance).min() > 0, "although ten samples span nine dimensions"
    for bad in (np.zeros((1, 3)), np.array([[1.0], [np.nan]])):
        with pytest.raises(ValueError, match="make no cloud: expected at least two, all finite"):
            frechet.fit(bad)


def test_copies_are_at_distance_zero_and_noise_is_farther_than_a_detuned_copy():
    notes = [RNG.normal(size=(4, 6)) for _ in range(20)]
    nearer, farther = ([each + shift for each in notes] for shift in (0.1, 0.5))
    assert frechet.distance(notes, notes).value == pytest.approx(0, abs=1e-9)
    near, far = frechet.distance(notes, nearer), frechet.distance(notes, farther)
    assert near.value == pytest.approx(6 * 0.1**2, rel=1e-6)
    assert far.value == pytest.approx(6 * 0.5**2, rel=1e-6)
    assert near.high < far.low
    assert far.notes == 20
    order = RNG.permutation(20)
    assert frechet.distance([notes[i] for i in order], [farther[i] for i in order]) == far
    single = frechet.distance(notes[:1], farther[:1])
    assert math.isfinite(single.value)
    assert math.isnan(single.low)
    with pytest.raises(ValueError, match="1 notes were made of 20: expected pairs"):
        frechet.distance(notes, notes[:1])


@pytest.mark.parametrize(("samples", "dims"), [(10, 30), (200, 5), (3, 100), (2, 2)])
def test_a_cloud_is_shrunk_as_scikit_learn_shrinks_it(samples, dims):
    features = np.random.default_rng(samples).normal(size=(samples, dims)) ** 2
    covariance, shrinkage = ledoit_wolf(features)
    found = frechet.fit(features)
    np.testing.assert_allclose(found.covariance, covariance, rtol=1e-9, atol=1e-12)
    assert found.shrinkage == pytest.approx(shrinkage, rel=1e-9)
    assert frechet.fit(np.ones((3, 4))).shrinkage == 0, "all alike"


def test_many_dimensions_and_few_notes_take_no_time_and_the_distance_is_the_same():
    rng = np.random.default_rng(3)
    notes = [rng.normal(size=(2, 300)) for _ in range(6)]
    others = [each + 0.2 + 0.1 * rng.normal(size=(2, 300)) for each in notes]
    whole = frechet.between(*(frechet.fit(np.concatenate(group)) for group in (notes, others)))
    found = frechet.distance(notes, others)
    assert found.value == pytest.approx(whole, rel=1e-9)
    turned, unseen = frechet._turned(notes, others)
    assert (turned[0][0].shape, unseen) == ((2, 24), 300 - 24)
    resampled = [0, 0, 3, 5, 5, 5]
    clouds = [frechet.fit(np.concatenate([group[i] for i in resampled])) for group in (notes, others)]
    lean = [frechet.fit(np.concatenate([group[i] for i in resampled]), unseen=unseen) for group in turned]
    assert frechet.between(*lean) == pytest.approx(frechet.between(*clouds), rel=1e-9)


def test_the_interval_covers_the_truth_although_few_notes_seem_far_apart():
    notes = [RNG.normal(size=(1, 8)) for _ in range(40)]
    others = [each + 0.5 + 0.3 * RNG.normal(size=(1, 8)) for each in notes]
    truth = 8 * 0.5**2 + 8 * (math.sqrt(1.09) - 1) ** 2
    found = frechet.distance(notes, others)
    assert found.low < truth < found.high
