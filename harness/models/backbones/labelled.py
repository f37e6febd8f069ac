"""Base of the families whose condition is a class label. No torch at import."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from harness.core.errors import UserError
from harness.core.fingerprint import fingerprint
from harness.models.backbones.condition import Condition, ConditionPlan
from harness.models.backbones.family import Family
from harness.models.backbones.pipeline import Pipeline

if TYPE_CHECKING:
    import torch


class LabelledFamily(Family):
    """A family that is told a class; its condition is the tensor "label", int64 []."""

    conditions: ClassVar[Sequence[str]] = ("label",)

    def classes(self, config: Mapping[str, Any]) -> int | None:
        """Returns the number of classes without the null class; None for an unconditional network."""
        raise NotImplementedError

    def null(self, config: Mapping[str, Any]) -> int | None:
        """Returns the number of the null class that the network was trained with; None if it has none."""
        raise NotImplementedError

    def condition(
        self, source: Pipeline | None, config: Mapping[str, Any], given: Condition
    ) -> ConditionPlan | None:
        """Returns the label, by default the null class; raises `UserError` if it is needed and not given."""
        classes, null = self.classes(config), self.null(config)
        if classes is None:
            if given.given:
                ((name, value), *_) = given.given.items()
                raise UserError(
                    f"backbone.{name} = {value!r}: this {self.class_name} is unconditional; leave backbone.{name} out"
                )
            return None
        self.refuse_conditions(given)
        label = given.label
        if label in (None, "null"):
            if null is None:
                given_as = "is missing" if label is None else "= 'null'"
                raise UserError(
                    f"backbone.label {given_as}: this {self.class_name} is class-conditional and its configuration "
                    f"names no null class; set backbone.label to a class from 0 to {classes - 1}, or to the number "
                    "of the null class if it was trained with one"
                )
            label = null
        assert isinstance(label, int)
        if not 0 <= label < classes and label != null:
            raise UserError(
                f"backbone.label = {label}: this {self.class_name} has classes 0 to {classes - 1}"
            )
        settings = {"label": label}
        name = "null label" if label == null else f"label {label}"
        return ConditionPlan(name, settings, fingerprint([self.class_name, settings]))

    def condition_shapes(self, config: Mapping[str, Any]) -> Mapping[str, Sequence[int]]:
        """Returns the shape of the label, if the network takes one."""
        return {} if self.classes(config) is None else {"label": []}

    def make_condition(
        self, source: Pipeline | None, config: Mapping[str, Any], settings: Mapping[str, Any]
    ) -> "dict[str, torch.Tensor]":
        """Returns the label."""
        import torch

        return {"label": torch.tensor(settings["label"])}
