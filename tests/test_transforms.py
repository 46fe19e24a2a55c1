"""Transforms against the published code's values, slow versions and scikit-learn."""

import itertools
import json
import pathlib

import numpy as np
import pytest

from retrieval.projecting import covariance, transforms
from retrieval.projecting.projections import Normalisation, Projection
from retrieval.projecting.transforms import Transform

GOLDEN = pathlib.Path(__file__).parent / "golden" / "whitening_small.npz"
# The published code divides by the norm plus 1e-6.
GOLDEN_TOLERANCE = 5e-6


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDEN, allow_pickle=False) as arrays:
        return dict(arrays)


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr(covariance, "_BLOCK_BYTES", 8 * 24 * 7)  # 7 rows of 24 numbers


def units(count, dimension, seed=0):
    """Unit vectors of unequal spread along skewed axes, away from 0."""
    rng = np.random.default_rng(seed)
    mix = rng.standard_normal((dimension, dimension)) * np.linspace(0.3, 1, dimension)[:, None]
    vectors = rng.standard_normal((count, dimension)) @ mix + 1
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors.astype(np.float32)


def normalized(vectors):
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def test_pca_whitening_gives_the_published_cosines(golden, small_blocks):
    fitted = transforms.fit_pca(golden["x"], int(golden["pca_dim"]), whiten=True)
    projected = fitted.apply(golden["x"][:60])
    assert projected.dtype == np.float32
    cosines = projected @ projected.T
    np.testing.assert_allclose(cosines, golden["pca_cosine"], rtol=0, atol=GOLDEN_TOLERANCE)


def test_learned_whitening_gives_the_published_cosines(golden, small_blocks):
    pairs = golden["qidxs"], golden["pidxs"]
    fitted = transforms.fit_learned_whitening(golden["x"], *pairs, int(golden["pca_dim"]))
    projected = fitted.apply(golden["x"][:60])
    cosines = projected @ projected.T
    np.testing.assert_allclose(cosines, golden["learned_cosine"], rtol=0, atol=GOLDEN_TOLERANCE)


@pytest.mark.parametrize("whiten", [False, True])
def test_pca_agrees_with_scikit_learn(whiten):
    from sklearn.decomposition import PCA

    vectors = units(300, 10)
    fitted = transforms.fit_pca(vectors, 6, whiten=whiten)
    expected = PCA(6, whiten=whiten, svd_solver="full").fit(vectors.astype(np.float64))
    received = fitted.steps[0](vectors)  # before L2
    scale = np.sqrt(299 / 300) if whiten else 1  # scikit-learn divides by N - 1
    signs = np.sign(np.sum(received * expected.transform(vectors), axis=0))
    np.testing.assert_allclose(received * signs * scale, expected.transform(vectors), atol=2e-5)
    kept = expected.explained_variance_ratio_.sum()
    assert fitted.fits[0]["variance_kept"] == pytest.approx(kept, abs=1e-9)


def test_partial_whitening_and_shrinkage():
    vectors = units(400, 8).astype(np.float64)
    spread = np.cov(vectors.T, bias=True)
    half = transforms.fit_pca(vectors, 8, whiten=0.5).steps[0](vectors)
    # Divided by the root of its standard deviation, an axis keeps the root of its variance.
    expected = np.diag(np.sqrt(np.linalg.eigvalsh(spread)[::-1]))
    np.testing.assert_allclose(np.cov(half.T, bias=True), expected, atol=1e-5)
    shrunk = transforms.fit_pca(vectors, 8, whiten=True, shrinkage=0.2).steps[0].matrix
    wanted = 0.8 * spread + 0.2 * np.trace(spread) / 8 * np.eye(8)
    np.testing.assert_allclose(shrunk.T @ wanted @ shrunk, np.eye(8), atol=1e-4)


def test_learned_whitening_makes_the_differences_of_pairs_white():
    vectors = units(500, 6)
    rng = np.random.default_rng(3)
    left, right = rng.permutation(500)[:400].reshape(2, 200)
    fitted = transforms.fit_learned_whitening(vectors, left, right, 6)
    projected = fitted.steps[0](vectors).astype(np.float64)
    differences = projected[left] - projected[right]
    np.testing.assert_allclose(differences.T @ differences / 200, np.eye(6), atol=1e-4)
    scatter = projected.T @ projected
    np.testing.assert_allclose(scatter, np.diag(np.diag(scatter)), atol=1e-4 * scatter.max())
    assert (np.diff(np.diag(scatter)) < 0).all()


def test_learned_whitening_with_shrinkage_takes_few_pairs():
    vectors = units(100, 12)
    pairs = np.arange(5), np.arange(5) + 50
    with pytest.raises(ValueError, match="5 pairs that differ along 5"):
        transforms.fit_learned_whitening(vectors, *pairs, 4)
    fitted = transforms.fit_learned_whitening(vectors, *pairs, 4, shrinkage=0.1)
    assert fitted.apply(vectors).shape == (100, 4)


def test_moments_far_from_zero_in_blocks():
    rng = np.random.default_rng(0)
    rows = 1e6 + rng.standard_normal((101, 4))
    found = covariance.moments(iter([rows[:1], rows[1:40], rows[40:]]))
    np.testing.assert_allclose(found.mean, rows.mean(axis=0), rtol=1e-14)
    # 1e6 has 16 digits, so that the rows themselves are known to 1e-10.
    np.testing.assert_allclose(found.scatter / 101, np.cov(rows.T, bias=True), atol=1e-8)
    centre = rows[0]
    expected = (rows - centre).T @ (rows - centre)
    np.testing.assert_allclose(found.about(centre), expected, atol=1e-6)


def test_blocks_memory_maps_and_whole_matrices_give_one_transform(tmp_path, monkeypatch):
    vectors = units(200, 24)
    np.save(tmp_path / "x.npy", vectors)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    whole = transforms.fit_pca(vectors, 9, whiten=True)
    again = transforms.fit_pca(mapped, 9, whiten=True)
    assert whole.digest == again.digest
    expected = whole.apply(vectors)
    monkeypatch.setattr(covariance, "_BLOCK_BYTES", 8 * 24 * 7)
    blocked = transforms.fit_pca(mapped, 9, whiten=True)
    assert blocked.fits[0]["fitted_on"] == whole.fits[0]["fitted_on"]  # the rows' digest
    # Sums in another order, then whitened: float32 of numbers about 1.
    np.testing.assert_allclose(blocked.apply(mapped), expected, atol=1e-5)


def test_signs_are_fixed():
    fitted = transforms.fit_pca(units(80, 7), 7)
    matrix = fitted.steps[0].matrix
    assert (matrix[np.abs(matrix).argmax(axis=0), np.arange(7)] > 0).all()


def test_power_normalisation():
    power = transforms.power(3, 0.5)
    expected = normalized(np.float32([[2, -3, 0], [1, 0, 0]]))
    received = power.apply(np.float32([[4, -9, 0], [0.25, 0, 0]]))
    np.testing.assert_allclose(received, expected, rtol=1e-6)


def test_a_chain_is_one_after_the_other(golden):
    vectors = golden["x"].astype(np.float32)
    power = transforms.power(24, 0.7)
    chain = transforms.fit_pca(vectors, 10, whiten=True, after=power)
    second = transforms.fit_pca(power.apply(vectors), 10, whiten=True)
    expected = second.apply(power.apply(vectors))
    np.testing.assert_allclose(chain.apply(vectors), expected, atol=1e-6)
    np.testing.assert_array_equal(power.then(second).apply(vectors), chain.apply(vectors))
    assert [fit["kind"] for fit in chain.fits] == ["power", "pca_whitening"]
    pairs = golden["qidxs"], golden["pidxs"]
    learned = transforms.fit_learned_whitening(vectors, *pairs, 4, after=chain)
    alone = transforms.fit_learned_whitening(chain.apply(vectors), *pairs, 4)
    np.testing.assert_allclose(learned.apply(vectors), alone.apply(expected), atol=1e-4)
    with pytest.raises(ValueError, match=r"transform of 10 dimensions\. Received: 24"):
        chain.then(power)


def test_truncated_is_the_fit_to_fewer(golden):
    pairs = golden["qidxs"], golden["pidxs"]
    for fit in (
        lambda d: transforms.fit_pca(golden["x"], d, whiten=True),
        lambda d: transforms.fit_learned_whitening(golden["x"], *pairs, d),
    ):
        cut, fewer = fit(20).truncated(5), fit(5)
        np.testing.assert_array_equal(cut.apply(golden["x"]), fewer.apply(golden["x"]))
        assert cut.digest == fewer.digest
    with pytest.raises(ValueError, match="at least 21"):
        fit(20).truncated(21)
    with pytest.raises(ValueError, match="ends in a projection"):
        transforms.power(3).truncated(2)


def test_saved_and_loaded(tmp_path, golden):
    fitted = transforms.fit_pca(
        golden["x"], 5, after=transforms.power(24), fitted_on={"name": "train ä"}
    )
    fitted.save(str(tmp_path / "t"))
    names = sorted(path.name for path in (tmp_path / "t").iterdir())
    assert names == ["arrays.npz", "manifest.json"]
    loaded = Transform.load(str(tmp_path / "t"))
    assert loaded.digest == fitted.digest
    assert loaded.fits == fitted.fits
    assert loaded.fits[1]["fitted_on"]["name"] == "train ä"
    assert loaded.fits[1]["fitted_on"]["count"] == 400
    np.testing.assert_array_equal(loaded.apply(golden["x"]), fitted.apply(golden["x"]))


def test_damage_is_found(tmp_path, golden):
    path = str(tmp_path / "t")
    with pytest.raises(FileNotFoundError, match="finished transform"):
        Transform.load(path)
    transforms.fit_pca(golden["x"], 5).save(path)
    other = transforms.fit_pca(golden["x"][:200], 5)
    manifest = json.loads((tmp_path / "t" / "manifest.json").read_text())
    other.save(path)
    arrays = (tmp_path / "t" / "arrays.npz").read_bytes()
    (tmp_path / "t" / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match="numbers of the digest"):
        Transform.load(path)
    (tmp_path / "t" / "arrays.npz").write_bytes(arrays[:100])
    with pytest.raises(ValueError, match="arrays of the steps"):
        Transform.load(path)
    (tmp_path / "t" / "manifest.json").write_text(json.dumps({**manifest, "version": 2}))
    with pytest.raises(ValueError, match="waymark-transform, 1"):
        Transform.load(path)


def test_all_pairs_of_a_class():
    classes = np.array([0, 1, 0, 2, 0, 1])
    left, right = covariance.within_class_pairs(classes)
    received = sorted(zip(left.tolist(), right.tolist(), strict=True))
    expected = [p for p in itertools.combinations(range(6), 2) if classes[p[0]] == classes[p[1]]]
    assert received == expected


@pytest.mark.parametrize("most", [3, 10, 60, 5000])
def test_sampled_pairs_are_fair_and_repeatable(most):
    classes = np.random.default_rng(0).permutation(
        np.repeat(np.arange(8), [1, 2, 3, 4, 9, 9, 9, 40])
    )
    left, right = covariance.within_class_pairs(classes, most=most, seed=4)
    np.testing.assert_array_equal(classes[left], classes[right])
    assert (left != right).all()
    assert len({frozenset(pair) for pair in zip(left, right, strict=True)}) == len(left) <= most
    per_class = np.bincount(classes[left], minlength=8)
    every = np.array([0, 1, 3, 6, 36, 36, 36, 780])
    if most == 3:
        assert sorted(per_class) == [0, 0, 0, 0, 0, 1, 1, 1]
    else:
        np.testing.assert_array_equal(per_class, np.minimum(every, per_class.max()))
    again = covariance.within_class_pairs(classes, most=most, seed=4)
    np.testing.assert_array_equal(again, (left, right))
    with pytest.raises(ValueError, match="two images or more"):
        covariance.within_class_pairs(np.arange(4))


def test_numbers_of_pairs_are_exact_for_huge_classes():
    first = np.array([2_999_999 * 1_500_000 - 1, 2_999_999 * 1_500_000])
    i, j = covariance._triangle(first)
    np.testing.assert_array_equal(j * (j - 1) // 2 + i, first)
    assert i.tolist() == [2_999_998, 0]
    assert j.tolist() == [2_999_999, 3_000_000]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dimension": 13}, r"between 1 and 12.*Received: 13"),
        ({"dimension": 0}, "Received: 0"),
        ({"whiten": 1.5}, "whiten 1.5"),
        ({"shrinkage": 0.1}, "whiten False, shrinkage 0.1"),
        ({"shrinkage": 2, "whiten": True}, "Received: 2"),
        ({"vectors": np.ones((1, 4), np.float32)}, r"shape \(1, 4\)"),
        ({"vectors": np.float32([[1, 0], [np.inf, 0]])}, "infinity in row 1"),
    ],
)
def test_refuses_what_cannot_be_fitted(arguments, message):
    # 12 of 24 dimensions are used.
    vectors = np.concatenate([units(50, 12), np.zeros((50, 12), np.float32)], axis=1)
    with pytest.raises(ValueError, match=message):
        transforms.fit_pca(**{"vectors": vectors, "dimension": 3, **arguments})


@pytest.mark.parametrize(
    ("left", "right", "message"),
    [
        ([0, 1], [2, 1], r"Received: \[1, 1\]"),
        ([0, 9], [2, 1], r"rows below 4. Received: \[9, 1\]"),
        ([0, -1], [2, 1], r"Received: \[-1, 1\]"),
        ([], [], r"shape \(0,\)"),
        ([0.5], [1], "float64"),
    ],
)
def test_refuses_pairs(left, right, message):
    with pytest.raises(ValueError, match=message):
        transforms.fit_learned_whitening(np.eye(4, dtype=np.float32), left, right, 2)


def test_refuses_what_cannot_be_applied(small_blocks):
    fitted = transforms.fit_pca(units(100, 24), 3)
    with pytest.raises(ValueError, match=r"24 dimensions\. Received: \(2, 3\)"):
        fitted.apply(np.ones((2, 3), np.float32))
    vectors = units(20, 24)
    vectors[17] = fitted.steps[0].mean
    with pytest.raises(ValueError, match=r"direction.* row 17"):
        fitted.apply(vectors)
    with pytest.raises(ValueError, match="last step"):
        Transform(24, fitted.steps[:1])
    with pytest.raises(ValueError, match="projection of 5"):
        Transform(5, (Projection(np.zeros(4), np.eye(4)), Normalisation()))
