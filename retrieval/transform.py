"""Fits and applies transforms of embeddings: `python retrieval/transform.py fit|apply|curve ...`.

The result of `apply` is an embeddings directory whose model digest stands for the model and the
transform: what went through different ones is never compared.
"""

from __future__ import annotations

import argparse
import hashlib
import pathlib
import sys
from collections.abc import Sequence

if not __package__:
    sys.path[0] = str(pathlib.Path(__file__).resolve().parents[1])

import numpy as np

import columns
import files
from progress import Progress
from retrieval import embeddings
from retrieval.projecting import covariance, dimension_curve, transforms, validation
from retrieval.projecting.projections import Transform
from retrieval.stored.unique_ids import few

KINDS = ("pca", "pca_whitening", "learned_whitening", "power")


def fit(
    directory: str,
    *,
    kind: str,
    dimension: int | None = None,
    pairs: tuple[np.ndarray, np.ndarray] | None = None,
    shrinkage: float = 0.0,
    whitening_exponent: float = 1.0,
    exponent: float = 0.5,
    after: Transform | None = None,
) -> Transform:
    """Fits a transform on an embeddings directory; its manifest will say which.

    Args:
        directory: of the embeddings.
        kind: one of `KINDS`.
        dimension: of the results; all that the set spans if None.
        pairs: two (P,) arrays of rows for learned whitening; see `read_pairs` and
            `covariance.within_class_pairs`.
        shrinkage: see `transforms.fit_pca` and `transforms.fit_learned_whitening`.
        whitening_exponent: of PCA-whitening, see `transforms.fit_pca`.
        exponent: of signed power normalisation.
        after: a transform that comes first; the result holds both.

    Raises:
        FileNotFoundError: if the directory is missing or unfinished.
        ValueError: if files or arguments do not fit each other.
    """
    if kind not in KINDS:
        raise ValueError(f"expected a kind among {', '.join(KINDS)}. Received: {kind!r}")
    if (kind == "learned_whitening") != (pairs is not None):
        raise ValueError(f"expected pairs for learned whitening alone. Received: {kind!r}")
    source = embeddings.load(directory)
    if after is not None:
        _check_model(after, source, directory)
    if kind == "power":
        width = source.vectors.shape[1] if after is None else after.dimension
        alone = transforms.power(width, exponent)
        return alone if after is None else after.then(alone)
    about = {
        "name": directory,
        "ids_sha256": hashlib.sha256("\n".join(source.ids).encode()).hexdigest(),
        "model_digest": source.manifest["model_digest"],
    }
    shared = {"shrinkage": shrinkage, "after": after, "fitted_on": about}
    if pairs is not None:
        return transforms.fit_learned_whitening(source.vectors, *pairs, dimension, **shared)
    whiten = whitening_exponent if kind == "pca_whitening" else False
    return transforms.fit_pca(source.vectors, dimension, whiten=whiten, **shared)


def read_pairs(path: str, ids: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Reads matching images from a table with the columns query and positive.

    Args:
        path: of the table: CSV, Parquet or JSON-lines.
        ids: N ids of the embeddings.

    Returns:
        two (P,) int64 arrays of rows.

    Raises:
        ValueError: if an id of the table is not among `ids`.
    """
    row_of = {image: row for row, image in enumerate(ids)}
    found = list(columns.read_columns(path, ["query", "positive"]))
    unknown = [image for pair in found for image in pair if image not in row_of]
    if unknown:
        raise ValueError(
            f"{path}: expected ids of the embeddings. Received: {len(unknown):,} others "
            f"({few(unknown)})"
        )
    rows = np.array([[row_of[image] for image in pair] for pair in found], np.int64)
    left, right = rows.reshape(-1, 2).T
    return left, right


def apply(transform: str, directory: str, output: str, *, stream=None) -> Transform:
    """Applies a saved transform to an embeddings directory, in blocks.

    Args:
        transform: folder of the transform.
        directory: of the embeddings.
        output: embeddings directory of the results; an earlier one is replaced.
        stream: where the progress is shown; nowhere if None.

    Raises:
        FileNotFoundError: if something that is read is missing.
        ValueError: if the transform was fitted on embeddings of another model or dimension.
    """
    if files.absolute(output) == files.absolute(directory):
        raise ValueError(f"expected another output than what is read. Received: {output}")
    loaded = Transform.load(transform)
    source = embeddings.load(directory)
    _check_model(loaded, source, directory)
    writer = embeddings.EmbeddingsWriter(
        output,
        loaded.dimension,
        model_digest=loaded.combined_digest(source.manifest["model_digest"]),
        source=f"{directory} through {transform}",
        count=len(source.ids),
    )
    progress = Progress("transform", len(source.ids), stream, unit="vectors")
    with writer:
        first = 0
        for block in loaded.blocks(source.vectors):
            writer.append(source.ids[first : first + len(block)], block)
            first += len(block)
            progress.advance(len(block))
        writer.reject(source.manifest.get("rejected", 0))
    progress.close()
    return loaded


def _check_model(transform: Transform, source: embeddings.Embeddings, directory: str) -> None:
    """Raises ValueError if the transform was fitted on embeddings of another model."""
    received = source.manifest["model_digest"]
    for fitted in transform.fits:
        expected = fitted.get("fitted_on", {}).get("model_digest", received)
        if expected != received:
            raise ValueError(
                f"expected embeddings of the model {expected!r}, on which the transform was "
                f"fitted. Received: {received!r} in {directory}"
            )


def _fit(options: argparse.Namespace) -> str:
    after = None if options.after is None else Transform.load(options.after)
    pairs = None
    if options.kind == "learned_whitening":
        ids = embeddings.load(options.embeddings).ids
        if options.pairs:
            pairs = read_pairs(options.pairs, ids)
        else:
            classes = _classes(options, ids)
            pairs = covariance.within_class_pairs(
                classes, most=options.most_pairs, seed=options.seed
            )
    fitted = fit(
        options.embeddings,
        kind=options.kind,
        dimension=options.dimension,
        pairs=pairs,
        shrinkage=options.shrinkage,
        whitening_exponent=options.whitening_exponent,
        exponent=options.exponent,
        after=after,
    )
    fitted.save(options.output)
    kept = fitted.fits[-1].get("variance_kept")
    share = "" if kept is None else f", {kept:.1%} of the variance"
    steps = " + ".join(fit["kind"] for fit in fitted.fits)
    return f"{steps}: {fitted.input_dimension} to {fitted.dimension} dimensions{share}"


def _apply(options: argparse.Namespace) -> str:
    fitted = apply(options.transform, options.embeddings, options.output, stream=sys.stderr)
    return f"{fitted.input_dimension} to {fitted.dimension} dimensions: {options.output}"


def _curve(options: argparse.Namespace) -> str:
    if options.picture:
        dimension_curve.picture_format(options.picture)  # known to be right before the search
    source = embeddings.load(options.embeddings)
    transform = None
    if options.transform:
        transform = Transform.load(options.transform)
        _check_model(transform, source, options.embeddings)
    curve = dimension_curve.dimension_curve(
        source.vectors,
        _classes(options, source.ids),
        transform,
        dimensions=options.dimensions,
        k=options.k,
        queries=options.queries,
        seed=options.seed,
    )
    if options.output:
        files.write_text(options.output, curve.as_json())
    if options.picture:
        dimension_curve.draw(curve, options.picture)
    return curve.table()


def _classes(options: argparse.Namespace, ids: Sequence[str]) -> np.ndarray:
    return validation.read_labels(
        options.labels, ids, id_column=options.id_column, label_column=options.label_column
    )


def _add_labels(parser: argparse.ArgumentParser, *, required: bool) -> None:
    parser.add_argument("--labels", metavar="TABLE", required=required, help="class of every image")
    parser.add_argument("--id-column", default="id", metavar="NAME", help="(default: id)")
    parser.add_argument("--label-column", default="label", metavar="NAME", help="(default: label)")
    parser.add_argument("--seed", type=int, default=0, help="of what is drawn (default: 0)")


def _add_fit(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--embeddings", metavar="DIR", required=True, help="fitted on these")
    parser.add_argument("--kind", choices=KINDS, required=True)
    parser.add_argument("--dimension", type=int, metavar="D", help="default: all that is spanned")
    parser.add_argument("--output", metavar="TRANSFORM", required=True, help="folder")
    parser.add_argument("--after", metavar="TRANSFORM", help="comes first; both are saved as one")
    _add_labels(parser, required=False)
    parser.add_argument("--pairs", metavar="TABLE", help="in place of labels: query,positive")
    parser.add_argument("--most-pairs", type=int, default=1_000_000, metavar="N")
    parser.add_argument("--shrinkage", type=float, default=0.0, metavar="S", help="0 to 1")
    parser.add_argument(
        "--whitening-exponent", type=float, default=1.0, metavar="E", help="0 (PCA) to 1"
    )
    parser.add_argument(
        "--exponent", type=float, default=0.5, metavar="E", help="of the kind power (default: 0.5)"
    )
    parser.set_defaults(run=_fit)


def _add_apply(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--transform", metavar="TRANSFORM", required=True)
    parser.add_argument("--embeddings", metavar="DIR", required=True)
    parser.add_argument("--output", metavar="DIR", required=True, help="embeddings directory")
    parser.set_defaults(run=_apply)


def _add_curve(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--embeddings", metavar="DIR", required=True, help="validation set")
    _add_labels(parser, required=True)
    parser.add_argument(
        "--transform", metavar="TRANSFORM", help="default: a PCA fitted on the embeddings"
    )
    parser.add_argument("--dimensions", type=int, nargs="+", metavar="D")
    parser.add_argument("--k", type=int, default=100, help="ranks that count (default: 100)")
    parser.add_argument("--queries", type=int, metavar="N", help="drawn at random; default: all")
    parser.add_argument("--output", metavar="JSON", help="write the numbers here as well")
    parser.add_argument("--picture", metavar="FILE", help="draw them: .svg, .png or .pdf")
    parser.set_defaults(run=_curve)


def main(argv: list[str] | None = None) -> int:
    """Runs the command line."""
    parser = argparse.ArgumentParser(
        prog="python retrieval/transform.py",
        description="PCA, whitening, learned whitening and power normalisation of embeddings.",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_fit(commands.add_parser("fit", help="fit a transform on an embeddings directory"))
    _add_apply(commands.add_parser("apply", help="transform an embeddings directory"))
    _add_curve(commands.add_parser("curve", help="the score at several dimensions"))
    options = parser.parse_args(argv)
    if getattr(options, "kind", None) == "learned_whitening" and not (
        bool(options.labels) ^ bool(options.pairs)
    ):
        parser.error("expected either --labels or --pairs for learned_whitening")
    try:
        print(options.run(options))
    except (ImportError, OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
