"""What the rows of the post-processing benchmark are called."""

import pytest

from benchmarks import post_processing, step_grids


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("expand_queries:top=3,alpha=0.0", "query expansion (alpha 0, top 3)"),
        ("pca:dimension=128,whiten=0.0,fit_on=index", "PCA 128 (fitted on the index)"),
        (
            "pca:dimension=64,whiten=0.25,fit_on=reference",
            "PCA 64, whitening to the power 0.25 (fitted on the training set)",
        ),
        ("learned_whitening:dimension=64,shrinkage=0.1", "learned whitening 64 (shrinkage 0.1)"),
        ("expand_index:rule=decaying,top=5", "index expansion (decaying, top 5)"),
        ("k_reciprocal:k1=20,k2=6,lambda_value=0.3", "k-reciprocal (k1 20, k2 6, lambda 0.3)"),
        (
            "diffusion:neighbours=10,query_neighbours=3,gamma=1.0,alpha=0.9",
            "diffusion (alpha 0.9, gamma 1, neighbours 10, query neighbours 3)",
        ),
    ],
)
def test_a_row_says_what_was_done(text, label):
    assert step_grids.label_of(text) == label


def test_every_candidate_has_a_name_of_its_own():
    texts = [text for kind in step_grids.GRIDS for text in step_grids.candidates(kind)]
    assert len({step_grids.label_of(text) for text in texts}) == len(set(texts)) == len(texts)


def test_rows_of_several_steps():
    texts = ["pca:dimension=32", "k_reciprocal"]
    assert post_processing.joined("both", None, texts) == ("both: PCA, k-reciprocal", None, texts)
    assert post_processing.joined("best", None, [])[0] == "best: none"
    assert () in step_grids.subsets()
    assert len(step_grids.subsets()) == 3 * 2 * 2 * 3


def test_long_names_are_drawn(tmp_path):
    rows = [
        {"name": name, "map_at_100": 0.5, "difference": 0.1, "difference_interval": (0.0, 0.2)}
        for name in ("ensemble", "best together: " + ", ".join(step_grids.ALL))
    ]
    post_processing.draw(rows, "tiny", str(tmp_path / "rows.png"))
    assert (tmp_path / "rows.png").read_bytes()[:4] == b"\x89PNG"
