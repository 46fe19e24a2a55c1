"""All metrics by name, pure NumPy: what to import from a notebook.

    >>> relevance = metrics.judge(predictions, solution)      # retrieval: rankings of image ids
    >>> metrics.mean_average_precision(relevance, 100, bootstrap=1000).interval
    >>> metrics.global_average_precision(answers, labels)     # recognition: one label per image
    >>> metrics.evaluate_revisited(rankings, truths, "hard")      # revisited Oxford and Paris

Every metric is a `Score`: a float that also carries a bootstrap confidence interval over the
queries if one was asked for. Formula, tie rule and the rule for missing labels are in its
docstring. Names are distinct: `recall_at_k` is any hit, `share_of_relevant_at_k` the share of the
relevant images; `mean_average_precision` divides by min(m, k), `map_at_r` by R.
"""

from eval.ranking_metrics import (
    average_precisions,
    average_precisions_at_r,
    cumulated_matches,
    digix_score,
    first_positions,
    map_at_r,
    mean_average_precision,
    mean_position,
    median_position,
    per_query,
    precision_at_k,
    r_precision,
    r_precisions,
    recall_at_k,
    share_of_relevant_at_k,
    summary,
)
from eval.recognition import (
    Prediction,
    Recognized,
    global_average_precision,
    judge_recognition,
    top_1_accuracy,
    top_1_error,
)
from eval.relevance import Relevance, judge
from eval.revisited_protocol import evaluate_revisited
from eval.scores import Score, complement

__all__ = [
    "Prediction",
    "Recognized",
    "Relevance",
    "Score",
    "average_precisions",
    "average_precisions_at_r",
    "complement",
    "cumulated_matches",
    "digix_score",
    "evaluate_revisited",
    "first_positions",
    "global_average_precision",
    "judge",
    "judge_recognition",
    "map_at_r",
    "mean_average_precision",
    "mean_position",
    "median_position",
    "per_query",
    "precision_at_k",
    "r_precision",
    "r_precisions",
    "recall_at_k",
    "share_of_relevant_at_k",
    "summary",
    "top_1_accuracy",
    "top_1_error",
]
