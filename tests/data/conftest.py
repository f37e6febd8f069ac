"""The Hub, with a module in place of its library."""

import sys
from types import SimpleNamespace

import pytest


class FakeSplit(list):
    """A split of the library `datasets`, as far as it is used."""

    def __init__(self, examples, features):
        super().__init__(examples)
        self.features = features

    def cast_column(self, name, feature):
        return self

    def __getitem__(self, place):
        return [example[place] for example in self] if isinstance(place, str) else super().__getitem__(place)


@pytest.fixture
def hub(monkeypatch):
    """A module in place of `datasets`, and a function that says what it will load."""

    class FakeImage:
        def __init__(self, decode=True):
            self.decode = decode

    asked = {}

    def publish(splits, names=("cat", "dog"), image="img"):
        label = SimpleNamespace(names=list(names)) if names else SimpleNamespace()
        features = {image: FakeImage(), "label": label}

        def load_dataset(path, revision=None):
            asked.update(path=path, revision=revision)
            if path != "someone/pets":
                raise FileNotFoundError(f"no such data set: {path}")
            if isinstance(splits, Exception):
                raise splits
            return {name: FakeSplit(rows, features) for name, rows in splits.items()}

        monkeypatch.setitem(
            sys.modules, "datasets", SimpleNamespace(Image=FakeImage, load_dataset=load_dataset)
        )
        return asked

    return publish
