"""Results for the report's tests: small ones, and what goes wrong with them."""

import pytest
import synthetic_results as synthetic

from harness.core.storage import Storage
from harness.report.tables import Tables, from_arrow


@pytest.fixture
def storage(tmp_path) -> Storage:
    """An empty results folder."""
    return Storage(str(tmp_path))


@pytest.fixture(scope="session")
def small_features() -> dict:
    """Study 1 on a small grid with controls."""
    return synthetic.feature_rows(
        blocks=(3, 6, 9), timesteps=(0, 50), pools=(1, 2), heads=("linear", "mlp"), n=300
    )


@pytest.fixture(scope="session")
def small_weights() -> dict:
    """Study 2 with three K and two subsets."""
    return synthetic.weight_rows(ks=(1, 5, 20), generated=15, n=300)


@pytest.fixture(scope="session")
def study_one() -> dict:
    """All kinds of rows that study 1 leaves, on two data sets."""
    return synthetic.study_one()


@pytest.fixture
def tables(small_features, small_weights) -> Tables:
    """Both studies."""
    return from_arrow(synthetic.arrow(small_features, small_weights))
