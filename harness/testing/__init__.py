"""Contract tests of the parts people add; a plugin's author runs them with pytest on a part of their own.

Each module has a class of tests for one kind of part, and its docstring lists the fixtures that a subclass must
define. In a test file of your package:

    import pytest
    from harness.testing.heads import HeadContract
    from my_package import Mine

    class TestMine(HeadContract):
        @pytest.fixture
        def head(self):
            return Mine(width=8)  # small options, so that the tests are quick

Register the part first (an entry point of the group `harness.plugins`, such as `head.mine = "my_package:Mine"`), and
install pytest, with this package's extra `test` or by itself. What a part must do is said in the docstrings of its
base class; a failed assertion says which duty is broken. This folder may import all others, and none imports it.
"""

import pkgutil

import pytest

# Failed assertions in these modules show their values, as those of a test file do.
pytest.register_assert_rewrite(*(f"{__name__}.{module.name}" for module in pkgutil.iter_modules(__path__)))
