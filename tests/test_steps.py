"""Post-processing in steps: each against the functions it is made of, and by hand."""

import io

import numpy as np
import pytest

from eval import gap, mean_ap
from retrieval import embeddings, search
from retrieval.nearest.exact import ExactSearcher
from retrieval.projecting import transforms
from retrieval.projecting.projections import Transform
from retrieval.reranking import expansion, k_reciprocal, steps
from retrieval.reranking.label_aware import NO_CLASS
from retrieval.reranking.label_aware import rerank as label_rerank
from retrieval.reranking.post_processing import Reference, State

# The order and the numbers of the Huawei DIGIX 2020 solution, behind the concatenation of members.
DIGIX = (
    "pca:dimension=8,fit_on=queries",
    "k_reciprocal:k1=20,k2=6,lambda_value=0.3",
    "expand_queries:rule=average,top=1",
    "expand_queries:rule=logarithmic,top=10",
    "expand_index:rule=average,top=1",
    "k_reciprocal:k1=20,k2=6,lambda_value=0.3",
)


def unit(rng, count, dimension=16, classes=6):
    centres = np.random.default_rng(1).normal(size=(classes, dimension))
    labels = rng.integers(classes, size=count)
    vectors = centres[labels] + 0.8 * rng.normal(size=(count, dimension))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32), labels


@pytest.fixture
def sets():
    rng = np.random.default_rng(0)
    return [unit(rng, count) for count in (40, 150, 90)]


def state_of(sets, **more):
    (queries, _), (vectors, _), (train, classes) = sets
    return State(
        queries, vectors, depth=100, search="exact", reference=Reference(train, classes), **more
    )


def l2(vectors):
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def test_digix_pipeline_is_its_six_steps(sets):
    """The same with the plain functions and loops, step by step."""
    found = steps.run(state_of(sets), DIGIX)
    (queries, _), (vectors, _), _ = sets
    pca = transforms.fit_pca(queries, 8)
    queries, vectors = pca.apply(queries), pca.apply(vectors)
    positions, _ = k_reciprocal.rerank(queries, vectors, k1=20, k2=6, lambda_value=0.3, k=100)
    queries = l2(queries + vectors[positions[:, 0]])
    nearest = np.argsort(-(queries @ vectors.T), axis=1, kind="stable")[:, :10]
    weights = np.logspace(0, -2, 11)
    queries = l2(queries + sum(w * vectors[nearest[:, r]] for r, w in enumerate(weights[1:])))
    products = vectors @ vectors.T
    np.fill_diagonal(products, -np.inf)
    vectors = l2(vectors + vectors[products.argmax(axis=1)])
    queries, vectors = (array.astype(np.float32) for array in (queries, vectors))
    positions, distances = k_reciprocal.rerank(
        queries, vectors, k1=20, k2=6, lambda_value=0.3, k=100
    )
    np.testing.assert_allclose(found.queries, queries, atol=1e-6)
    np.testing.assert_allclose(found.vectors, vectors, atol=1e-6)
    np.testing.assert_allclose(-found.scores, distances, atol=1e-5)
    assert (found.positions[:, :10] == positions[:, :10]).mean() > 0.99  # ties aside


def test_learned_whitening_step_is_fitted_on_the_labelled_set(sets):
    """As with the function itself and pairs made by a comparison of all classes."""
    state = state_of(sets)
    found = steps.run(state, ["learned_whitening:dimension=5,shrinkage=0.1"])
    reference = state.reference
    left, right = np.nonzero(np.triu(reference.classes[:, None] == reference.classes, 1))
    fitted = transforms.fit_learned_whitening(reference.vectors, left, right, 5, shrinkage=0.1)
    for changed, given in (
        (found.queries, state.queries),
        (found.vectors, state.vectors),
        (found.reference.vectors, reference.vectors),
    ):
        np.testing.assert_allclose(changed, fitted.apply(given), atol=1e-5)  # pairs' order
    with pytest.raises(ValueError, match="labelled set"):
        steps.run(
            State(state.queries, state.vectors, search="exact"), ["learned_whitening:dimension=5"]
        )


def test_order_of_steps_matters(sets):
    """Expansion takes the present answers: re-ranked ones behind re-ranking."""
    one = steps.run(state_of(sets), ["k_reciprocal", "expand_queries:top=3"])
    other = steps.run(state_of(sets), ["expand_queries:top=3", "k_reciprocal"])
    assert not np.array_equal(one.queries, other.queries)


def test_without_steps_it_is_the_search(sets):
    found = steps.run(state_of(sets), [])
    expected = ExactSearcher(sets[1][0]).search(sets[0][0], 100)
    np.testing.assert_array_equal(found.positions, expected[0])
    np.testing.assert_array_equal(found.scores, expected[1])


def test_vectors_of_the_reference_move_along(sets, tmp_path):
    path = str(tmp_path / "pca")
    transforms.fit_pca(sets[1][0], 4).save(path)
    found = steps.run(state_of(sets), [f"transform:path={path}", "power:exponent=0.5"])
    change = Transform.load(path).then(transforms.power(4, 0.5))
    np.testing.assert_allclose(found.reference.vectors, change.apply(sets[2][0]), atol=1e-6)
    np.testing.assert_allclose(found.queries, change.apply(sets[0][0]), atol=1e-6)


@pytest.mark.parametrize("fit_on", ["index", "queries", "reference"])
def test_pca_is_fitted_on_what_is_asked(sets, fit_on):
    found = steps.run(state_of(sets), [f"pca:dimension=4,fit_on={fit_on}"])
    fitted = dict(zip(("queries", "index", "reference"), (part[0] for part in sets), strict=True))
    expected = transforms.fit_pca(fitted[fit_on], 4).apply(sets[0][0])
    np.testing.assert_allclose(found.queries, expected, atol=1e-6)


@pytest.mark.parametrize(
    ("rule", "weights"),
    [
        ("alpha", expansion.Weights.alpha_weighted(5, 3.0)),
        ("decaying", expansion.Weights.decaying(5)),
    ],
)
def test_index_expansion_by_rule(sets, rule, weights):
    found = steps.run(state_of(sets), [f"expand_index:rule={rule},top=5"])
    vectors = sets[1][0]
    lists = ExactSearcher(vectors).search(vectors, 6)
    expected = expansion.augment_database(vectors, *lists, weights=weights)
    np.testing.assert_allclose(found.vectors, expected, atol=1e-6)


def test_diffusion_and_labels_run_and_rank_better(sets):
    (_, query_classes), (_, classes), _ = sets

    def share(found):
        return (classes[found.positions[:, :10]] == query_classes[:, None]).mean()

    plain = share(steps.run(state_of(sets), []))
    for text in ("diffusion:neighbours=10,query_neighbours=5", "label_aware:neighbours=5"):
        assert share(steps.run(state_of(sets), [text])) > plain, text


def test_sort_and_insert_by_hand():
    """Class 1 is asked; the answers 0 1 2 3 have classes 2 1 2 1; 4 and 5 are of class 1 too."""
    vectors = np.float32([[1, 0], [0.9, 0], [0.8, 0], [0.7, 0], [0.5, 0], [0.6, 0], [0.4, 0]])
    index_classes = np.array([2, 1, 2, 1, 1, 1, NO_CLASS])
    query, answers = np.float32([[1, 0]]), np.array([[0, 1, 2, 3]])

    def rerank(query_class, **options):
        classes = np.array([query_class])
        return label_rerank(classes, index_classes, answers, query, vectors, **options).tolist()

    assert rerank(1) == [[1, 3, 5, 4]]
    assert rerank(1, insert=False) == [[1, 3, 0, 2]]
    assert rerank(2) == [[0, 2, 1, 3]]
    assert rerank(3) == [[0, 1, 2, 3]]
    assert rerank(NO_CLASS) == [[0, 1, 2, 3]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("qe", "expected a step among transform, pca.*Received: 'qe'"),
        ("pca", "expected dimension for pca. Received: 'pca'"),
        ("pca:size=3", "each of dimension, whiten, fit_on at most once.*'size=3'"),
        ("power:exponent=1,exponent=2", "at most once"),
        ("power:0.5", "Received: '0.5'"),
        ("k_reciprocal:k1=2.5", "k_reciprocal:k1: expected int. Received: '2.5'"),
        ("k_reciprocal:k1=True", "expected int. Received: 'True'"),
        ("label_aware:insert=1", "expected bool. Received: '1'"),
    ],
)
def test_what_is_no_step(text, message):
    with pytest.raises(ValueError, match=message):
        steps.parse(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("label_aware", "expected a labelled set"),
        ("geometric", "expected the photographs"),
        ("expand_queries:rule=mean", "expected rule among average, decaying, alpha, logarithmic"),
        ("pca:dimension=2,fit_on=train", "expected fit_on among index, queries, reference"),
    ],
)
def test_what_a_step_lacks(sets, text, message):
    state = State(sets[0][0], sets[1][0])
    with pytest.raises(ValueError, match=message):
        steps.run(state, [text])


def test_a_later_mistake_is_found_before_the_first_step(sets):
    told = io.StringIO()
    with pytest.raises(ValueError, match="Received: 'qe'"):
        steps.run(state_of(sets), ["k_reciprocal", "qe"], stream=told)
    assert told.getvalue() == ""


def test_a_step_reads_as_it_is_written():
    text = "k_reciprocal:k1=5,k2=5,lambda_value=0.3"
    assert str(steps.parse(text)) == text
    assert str(steps.parse("diffusion")) == "diffusion"


def write(folder, name, vectors, digest="model"):
    path = str(folder / name)
    with embeddings.EmbeddingsWriter(
        path, vectors.shape[1], model_digest=digest, source=name
    ) as writer:
        writer.append([f"{name}{row}" for row in range(len(vectors))], vectors)
    return path


def test_commands_take_steps(sets, tmp_path, capsys):
    names = ("query", "index", "train")
    query, index, train = (
        write(tmp_path, name, vectors) for name, (vectors, _) in zip(names, sets, strict=True)
    )
    labels = tmp_path / "train.csv"
    labels.write_text("id,label\n" + "".join(f"train{i},{c}\n" for i, c in enumerate(sets[2][1])))
    solution = tmp_path / "solution.csv"
    rows = [
        f"query{i}," + " ".join(f"index{j}" for j in np.flatnonzero(sets[1][1] == c))
        for i, c in enumerate(sets[0][1])
    ]
    solution.write_text("id,images\n" + "\n".join(rows) + "\n")
    plain = ["--index", index, "--query", query]
    known = [*plain, "--reference", train, "--reference-labels", str(labels)]
    output = str(tmp_path / "out.csv")
    assert search.main([*known, "--output", output, "--steps", "label_aware", "--k", "10"]) == 0
    assert "step 1 of 1: label_aware" in capsys.readouterr().err
    scores = [
        mean_ap.main([*known, "--solution", str(solution), "--steps", *texts])
        or float(capsys.readouterr().out.split()[1])
        for texts in (["power:exponent=1.0"], ["expand_queries:top=5", "k_reciprocal"])
    ]
    assert scores[1] > scores[0]
    assert search.main([*plain, "--output", output, "--steps", "label_aware"]) == 1
    assert "expected a labelled set" in capsys.readouterr().err
    assert search.main([*plain, "--output", output, "--reference", train]) == 1
    assert "together with --reference-labels" in capsys.readouterr().err
    other = write(tmp_path, "other", sets[2][0], digest="another")
    wrong = [*plain, "--reference", other, "--reference-labels", str(labels)]
    assert search.main([*wrong, "--output", output, "--steps", "label_aware"]) == 1
    assert "embedded by the same model" in capsys.readouterr().err


def test_gap_with_non_landmarks(sets, tmp_path):
    """A query that looks like the non-landmarks gets a lower score, and the GAP rises."""
    rng = np.random.default_rng(5)
    (queries, classes), (vectors, labels), _ = sets
    junk = l2(rng.normal(size=16) * 3 + rng.normal(size=(60, 16))).astype(np.float32)
    paths = [
        write(tmp_path, name, part)
        for name, part in (
            ("query", np.vstack([queries, junk[:30]])),
            ("index", np.vstack([vectors, junk[30:32]])),  # two of them were labelled by mistake
            ("non", junk[32:]),
        )
    ]
    table = tmp_path / "labels.csv"
    names = [*labels, 0, 1]
    table.write_text("id,label\n" + "".join(f"index{i},{c}\n" for i, c in enumerate(names)))
    solution = tmp_path / "solution.csv"
    names = [*classes, *[""] * 30]
    solution.write_text("id,landmarks\n" + "".join(f"query{i},{c}\n" for i, c in enumerate(names)))
    known = {"index": paths[1:2], "query": paths[:1], "labels": str(table)}
    plain = gap.evaluate(solution=str(solution), **known)
    better = gap.evaluate(solution=str(solution), non_landmarks=paths[2:], **known)
    assert better["gap"] > plain["gap"] + 0.1
