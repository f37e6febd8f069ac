"""How much each axis of a sweep matters, by Optuna's importance evaluators."""

import numpy as np
import pandas as pd

TREES = 32
SEED = 0
MOST = (
    2000  # rows: a random sample of more rows is seconds faster and gives the same shares within about 0.03
)
FEWEST = 256  # trials: fewer are repeated, for each tree draws its own from them and must not miss a cell


def importances(levels: pd.DataFrame, values: pd.Series) -> dict[str, float]:
    """Returns each column's share, from 0 to 1 with sum 1, of the variance of `values` explained by all.

    The mean decrease in impurity of a random forest: how much of the variance its splits on that column remove. On a
    complete grid these are the shares of the analysis of variance, interactions being split among the columns that
    take part; on an incomplete one a column is credited less with what another one explains. Optuna's fANOVA takes
    several times as long, and is farther from these shares where columns have many levels.

    A missing level counts as a level; of more than `MOST` rows a random sample is used. Empty if there is nothing to
    rank: fewer than two columns that vary, or constant values. The same rows in the same order give the same numbers.
    """
    if len(values) > MOST:
        some = np.random.default_rng(SEED).permutation(len(values))[:MOST]
        levels, values = levels.iloc[some], values.iloc[some]
    codes = {
        name: pd.factorize(levels[name], sort=True, use_na_sentinel=False)[0].tolist() for name in levels
    }
    codes = {name: column for name, column in codes.items() if max(column, default=0) > 0}
    if len(codes) < 2 or values.nunique() < 2:
        return {}
    import optuna  # and scikit-learn with it

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    # places of levels as integers: one-hot categories give the same shares, in five times the time
    distributions = {
        name: optuna.distributions.IntDistribution(0, max(column)) for name, column in codes.items()
    }
    trials = [
        optuna.trial.create_trial(
            params=dict(zip(codes, row, strict=True)), distributions=distributions, value=value
        )
        for row, value in zip(zip(*codes.values(), strict=True), values.astype(float), strict=True)
    ]
    study = optuna.create_study(direction="maximize")
    study.add_trials(trials * -(-FEWEST // len(trials)))
    evaluator = optuna.importance.MeanDecreaseImpurityImportanceEvaluator(n_trees=TREES, seed=SEED)
    return {name: float(share) for name, share in evaluator.evaluate(study).items()}
