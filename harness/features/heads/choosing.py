"""How a strength is chosen on multi-label validation samples: by mean average precision."""

import numpy as np

from harness.metrics.ranking import average_precisions


def ranked(scores_NC: np.ndarray, labels_NC: np.ndarray) -> float:
    """Returns the mean average precision over classes with a positive sample (label 1); 0 if there is none."""
    found = average_precisions(scores_NC, labels_NC)
    return float(np.nanmean(found)) if not np.isnan(found).all() else 0.0


def log_likelihood(scores_NC: np.ndarray, labels_NC: np.ndarray) -> float:
    """Returns the log-likelihood of labels, 0 and 1, with scores as logits, summed over samples and classes."""
    scores_NC = scores_NC.astype(np.float64)
    return float((labels_NC * scores_NC - np.logaddexp(0.0, scores_NC)).sum())
