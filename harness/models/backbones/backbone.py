"""Diffusion backbones as data: their configuration, blocks and noise levels, and how settings name these.

No torch here, so plans know every block, channel count, map size, cost and noise level without loading a model. What
depends on the type of network is in its family (`harness.models.backbones.family`);
`harness.models.backbones.denoiser` runs it.
"""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from harness.core.config import Config
from harness.core.errors import UserError, did_you_mean
from harness.core.registry import Registry
from harness.models.backbones.blocks import OUTPUT, Block
from harness.models.backbones.blocks import multiplications as multiplications
from harness.models.backbones.condition import Condition, ConditionPlan
from harness.models.backbones.family import Family, dtype_of, family_of
from harness.models.backbones.pipeline import Latents, Pipeline
from harness.models.noise_processes.levels import NoiseLevel
from harness.models.noise_processes.process import NoiseProcess

BACKBONES = Registry(
    "backbone",
    {
        "unet": "harness.models.backbones.unet:UNet",
        "pretrained": "harness.models.backbones.pretrained:PretrainedBackbone",
        "adm": "harness.models.backbones.adm:ADM",
        "dit": "harness.models.backbones.dit_original:DiT",
    },
)


@dataclass(frozen=True)
class BackbonePlan:
    """All that is known about a backbone before it is built."""

    config: Mapping[str, Any]  # the config.json of a diffusers network, as its family read it
    process: NoiseProcess
    source: str | None  # local folder or file of the weights; None: trained by the sweep
    fingerprint: str
    size: int  # height and width of what noise is added to
    latents: Latents | None = None  # None: noise is added to the images themselves
    condition: ConditionPlan | None = None  # None: the network takes none
    root: str | None = None  # local folder of the pipeline that the condition is made from, if any
    random: bool = False  # random weights instead of those of `source`; all else is the same
    notes: tuple[str, ...] = ()  # what was guessed or chosen, in words
    parameters: int | None = None  # numbers in the network's weights, where its files tell
    # Of a folder: `Pipeline.reading`; of a file of the original code: what its `Family.original` needs besides
    reading: Mapping[str, Any] = field(default_factory=dict)

    @property
    def family(self) -> Family:
        """The family of the network."""
        return family_of(self.config)

    @cached_property
    def blocks(self) -> list[Block]:
        """The blocks where features can be read, in the order in which they run."""
        return self.family.blocks(self.config, self.size)

    def untrained(self) -> "BackbonePlan":
        """Returns the control: the same network with random weights (and the same autoencoder, if any)."""
        return replace(self, random=True) if self.latents else replace(self, source=None)

    def under(self, given: Condition) -> "BackbonePlan":
        """Returns the same backbone under another condition; raises `UserError` if it does not take it."""
        source = None if self.root is None else Pipeline(Path(self.root), **self.reading)
        return replace(self, condition=self.family.condition(source, self.config, given))

    @property
    def dtype(self) -> str:
        """The type in which the network's weights are held, by torch's name."""
        return dtype_of(self.config)

    @property
    def gigabytes(self) -> float | None:
        """The memory that the network's weights need, in 1e9 bytes; None if unknown."""
        size = 4 if self.dtype == "float32" else 2
        return None if self.parameters is None else self.parameters * size / 1e9

    @property
    def memory(self) -> str:
        """Says how much memory the network's weights need; empty if unknown."""
        if self.parameters is None:
            return ""
        return (
            f"weights of the {self.family.class_name}: {self.parameters:,} parameters, {self.gigabytes:.3g} GB of "
            f"memory in {self.dtype}"
        )

    @property
    def timesteps(self) -> int:
        """T, the number of noise levels: timesteps go from 0 (least noise) to T - 1."""
        return self.process.timesteps

    def sigma(self, step: int) -> float | None:
        """The noise-to-signal ratio at a timestep; None where no signal is left."""
        return self.process.sigma(step)

    def log_snr(self, step: int) -> float | None:
        """ln(signal² / noise²) at a timestep; None where no signal, or no noise, is left."""
        return self.process.log_snr(step)

    def step(self, value: int | NoiseLevel, where: str = "features.timesteps") -> int:
        """Returns a timestep as it is, or the one nearest to a noise level; raises `UserError` if out of range."""
        return self.process.step(value, where)

    def steps(self, values: Sequence[int | NoiseLevel], where: str = "features.timesteps") -> list[int]:
        """Returns the timesteps that a setting names, in order; raises `UserError` for duplicates."""
        return self.process.steps(values, where)

    def find(self, number: int) -> Block:
        """Returns block `number`; raises `UserError` with the allowed range."""
        if not 1 <= number <= len(self.blocks):
            raise UserError(f"block {number}: this backbone has blocks 1 to {len(self.blocks)}")
        return self.blocks[number - 1]

    def select(
        self,
        value: str | int | Sequence[str | int],
        where: str = "features.blocks",
        after: Sequence[str] = (OUTPUT,),
    ) -> list[Block]:
        """Returns the blocks that a setting names, in order, each as read `after` its output or one of its parts.

        A block is named by number or module path; "mid" is the middle block (of a transformer, the one at half
        depth), "up" all after it, "all" all. Blocks without a part are left out. Raises `UserError` for unknown
        blocks, duplicates, and parts that none of the blocks has.
        """
        blocks = self._selected(value, where)
        found = [read for block in blocks for part in after if (read := block.read_after(part)) is not None]
        for part in after:
            if all(block.after != part for block in found):
                parts = dict.fromkeys(point.after for block in blocks for point in block.points)
                raise UserError(
                    f"{where.replace('blocks', 'after')}: none of these blocks has a part {part!r}; "
                    f"they have {', '.join([OUTPUT, *parts])}"
                )
        return found

    def _selected(self, value: str | int | Sequence[str | int], where: str) -> list[Block]:
        found: list[Block] = []
        for name in [value] if isinstance(value, str | int) else value:
            for block in [self.find(name)] if isinstance(name, int) else self._named(name):
                if block in found:
                    twice = "" if name == block.number else f" (block {block.number}, {block.name})"
                    raise UserError(f"{where}: {name} is given twice{twice}")
                found.append(block)
        return found

    def _named(self, name: str) -> list[Block]:
        centre = self.family.middle(self.blocks)
        groups = {"all": self.blocks, "mid": [centre], "up": self.blocks[centre.number :]}
        named = groups | {block.name: [block] for block in self.blocks}
        if name not in named:
            known = f"a number from 1 to {len(self.blocks)}, mid, up, all, or a module such as {centre.name}"
            near = did_you_mean(name, named).partition("known:")[0]
            raise UserError(f"unknown block {name[:80]!r}; {near}a block is {known}")
        return named[name]

    def lines(self, timesteps: Sequence[int]) -> list[str]:
        """Returns the table of blocks, the noise levels of `timesteps`, and the notes, as lines of text."""
        width = max(len(block.name) for block in self.blocks)
        lines = [
            f"{'block':>5}  {'module':{width}}  {'channels':>8}  {'size':>5}  {'cost up to here':>15}",
        ]
        lines += [
            f"{block.number:>5}  {block.name:{width}}  {block.channels:>8}  {block.size:>5}  {block.share:>15.1%}"
            for block in self.blocks
        ]
        lines += [self.memory] if self.memory else []
        unit = f"latents of {self.latents.kind}" if self.latents else "pixels"
        given = f" under {self.condition.name}" if self.condition else ""
        total = self.blocks[-1].cost / self.blocks[-1].share / 1e9
        lines.append(f"a pass over {unit}{given}: {total:.3g} G multiply-accumulates per image")
        levels = ", ".join(
            f"{one}: {_text(self.sigma(one))} / {_text(self.log_snr(one))}" for one in timesteps
        )
        parts = dict.fromkeys(point.after for block in self.blocks for point in block.points)
        if parts:
            lines.append(f"blocks can also be read after (features.after): {', '.join(parts)}")
        return [*lines, f"timestep: sigma / log-SNR, of T = {self.timesteps}: {levels}", *self.notes]


def _text(value: float | None) -> str:
    return "none left" if value is None else f"{value:.3g}"


# Names of blocks: numbers from 1, module paths, "mid", "up" or "all"; a word, or a list.
BlockNames = str | Annotated[list[int | str], Field(min_length=1)]
Width = Annotated[int, Field(le=65_536)]


class Backbone(Config):
    """Base of all backbone configurations."""

    name: str

    @abstractmethod
    def plan(self, size: int, channels: int) -> BackbonePlan:
        """Returns the plan for square images; called once per sweep plan. Raises `UserError` if there is none."""
