"""Contract tests for parts that other packages add; plugin authors run them with pytest on their own parts.

Each module has a test class for one kind of part; its docstring says what a subclass must define. In a test file of
your package:

    import pytest
    from harness.testing.heads import HeadContract
    from my_package import Mine

    class TestMine(HeadContract):
        @pytest.fixture
        def head(self):
            return Mine(width=8)  # small options, so that the tests are fast

Register the part first (an entry point of the group `harness.plugins`, such as `head.mine = "my_package:Mine"`), and
install pytest, with this package's extra `test` or by itself. The docstrings of a part's base class say what it must
do; a failed assertion says which requirement is violated. This folder may import all others; none may import it.
"""

import pkgutil

import pytest

# Makes failed assertions in these modules show their values, as in test files.
pytest.register_assert_rewrite(*(f"{__name__}.{module.name}" for module in pkgutil.iter_modules(__path__)))
