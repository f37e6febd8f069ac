"""The contract of a backbone family: `harness.models.backbones.family.Family`.

Subclass `BackboneFamilyContract` and define the method `save`, which writes a tiny model of a registered family:

    class TestMine(BackboneFamilyContract):
        def save(self, folder, seed):
            torch.manual_seed(seed)
            MyNetwork(...).save_pretrained(folder / "unet")
            DDPMScheduler().save_pretrained(folder / "scheduler")
"""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from huggingface_hub.utils import filter_repo_objects
from safetensors.torch import load_file, save_file
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from harness.core.errors import UserError
from harness.models.backbones.backbone import BackbonePlan
from harness.models.backbones.blocks import AFTER
from harness.models.backbones.checkpoint import copy_pipeline
from harness.models.backbones.condition import FILE as CONDITION
from harness.models.backbones.denoiser import Denoiser, load_denoiser
from harness.models.backbones.family import FAMILIES, Family, hub_patterns, network_folders
from harness.models.backbones.pipeline import CONFIG, WEIGHTS, Pipeline
from harness.models.backbones.pretrained import PretrainedBackbone
from harness.models.sampling import sample

LEVELS = (0.0, 0.1, 0.35, 0.6, 0.95)  # of noise at which blocks are compared, of T - 1
RELATIVE_ERROR = 1e-5  # of activations
GREY_LEVEL = 2 / 255
TOLERANCE = 1e-3  # relative, of costs: normalisations and activations are not counted


def open_copy(plan: BackbonePlan, folder: Path, seed: int | None = None) -> Denoiser:
    """Returns the denoiser of a pretrained backbone from the copy that workers read, made in the new `folder`.

    With random weights if a seed is given.
    """
    folder.mkdir()
    copy_pipeline(Path(str(plan.source)), plan.config, plan.process, folder, seed, plan.reading)
    if plan.condition is not None:
        source = None if plan.root is None else Pipeline(Path(plan.root), **plan.reading)
        tensors = plan.family.make_condition(source, plan.config, plan.condition.settings)
        save_file(tensors, folder / CONDITION)
    return load_denoiser(folder)


class BackboneFamilyContract:
    """What planning, extraction, fine-tuning and sampling rely on. A subclass defines how a model is saved."""

    size = 16  # height and width of the images that the saved model reads
    channels = 3
    sampling_steps: int | None = None  # of `pipeline_samples`; None: as many as T

    def save(self, folder: Path, seed: int) -> None:
        """Writes a tiny pipeline into an empty folder, its weights drawn from `seed`.

        With at least two blocks, all files that the family reads, and no files that it should ignore. Weights must
        not be zero: the tests distinguish images, timesteps and seeds by the output of the network.
        """
        raise NotImplementedError

    # Shared by the tests.

    @pytest.fixture(scope="class")
    @classmethod
    def published(cls, tmp_path_factory: pytest.TempPathFactory) -> Path:
        """The folder of the model, which tests must not change."""
        folder = tmp_path_factory.mktemp("published")
        cls().save(folder, 0)
        return folder

    @pytest.fixture
    def spoilt(self, published: Path, tmp_path: Path) -> Path:
        """A copy of the folder, which tests may change."""
        shutil.copytree(published, tmp_path / "spoilt")
        return tmp_path / "spoilt"

    @pytest.fixture(scope="class")
    @classmethod
    def plan(cls, published: Path) -> BackbonePlan:
        """The plan of the model."""
        return cls().planned(published)

    @pytest.fixture(scope="class")
    @classmethod
    def artifact(cls, plan: BackbonePlan, tmp_path_factory: pytest.TempPathFactory) -> Path:
        """The folder of the model as workers read it."""
        folder = tmp_path_factory.mktemp("artifact") / "opened"
        cls().opened(plan, folder)
        return folder

    @pytest.fixture
    def denoiser(self, artifact: Path) -> Denoiser:
        """The model as a worker opens it."""
        return load_denoiser(artifact)

    @pytest.fixture
    def images(self) -> torch.Tensor:
        """Images in [-1, 1]."""
        draw = torch.Generator().manual_seed(3)
        return torch.rand(3, self.channels, self.size, self.size, generator=draw) * 2 - 1

    def planned(self, folder: Path) -> BackbonePlan:
        """Returns the plan of a folder."""
        return PretrainedBackbone(path=str(folder)).plan(self.size, self.channels)

    def opened(self, plan: BackbonePlan, folder: Path, seed: int | None = None) -> Denoiser:
        """Returns the denoiser from the copy that workers read; with random weights if a seed is given."""
        return open_copy(plan, folder, seed)

    def noised(
        self, denoiser: Denoiser, images: torch.Tensor, step: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns noised images or latents, deterministically, and their steps."""
        z = denoiser.encode(images)
        epsilon = torch.randn(z.shape, generator=torch.Generator().manual_seed(4))
        steps = torch.full((len(z),), step)
        return denoiser.noised(z, epsilon, steps), steps

    def refused(self, folder: Path) -> str:
        """Returns the one-line message with which a folder is refused."""
        with pytest.raises(UserError) as caught:
            self.planned(folder)
        message = str(caught.value)
        assert "\n" not in message
        return message

    # Planning.

    def test_the_configuration_leads_to_the_family(self, plan: BackbonePlan) -> None:
        assert isinstance(plan.family, Family)
        assert plan.config["_class_name"] in FAMILIES.names()
        assert plan.family.class_name == plan.config["_class_name"]

    def test_planning_imports_no_torch(self, plan: BackbonePlan) -> None:
        program = f"import sys, {type(plan.family).__module__}; print('torch' in sys.modules)"
        paths = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
        command = [sys.executable, "-c", program]
        done = subprocess.run(command, env=paths, capture_output=True, text=True, check=True)
        assert done.stdout.strip() == "False", "import torch within methods"

    def test_the_configuration_is_plain_and_read_again_the_same(self, plan: BackbonePlan) -> None:
        config = dict(plan.config)
        assert json.loads(json.dumps(config)) == config
        assert plan.family.read(config, Path(CONFIG)) == config

    def test_a_plan_is_named_by_its_weights(
        self, plan: BackbonePlan, published: Path, tmp_path: Path
    ) -> None:
        assert self.planned(published).fingerprint == plan.fingerprint
        (tmp_path / "other").mkdir()
        self.save(tmp_path / "other", 1)
        assert self.planned(tmp_path / "other").fingerprint != plan.fingerprint

    def test_what_is_fetched_from_the_hub_is_all_that_is_read(
        self, plan: BackbonePlan, published: Path, tmp_path: Path
    ) -> None:
        there = [path.relative_to(published).as_posix() for path in published.rglob("*") if path.is_file()]
        for name in filter_repo_objects(there, allow_patterns=hub_patterns()):
            (tmp_path / "fetched" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(published / name, tmp_path / "fetched" / name)
        assert self.planned(tmp_path / "fetched").fingerprint == plan.fingerprint
        code = ["run.py", f"{plan.family.folder}/model.pt", f"{plan.family.folder}/model.bin"]
        assert not list(filter_repo_objects(code, allow_patterns=hub_patterns()))

    # Blocks.

    def test_the_table_of_blocks_is_what_a_pass_outputs(
        self, plan: BackbonePlan, denoiser: Denoiser, images: torch.Tensor
    ) -> None:
        table = plan.blocks
        assert len(table) >= 2
        assert [block.number for block in table] == list(range(1, len(table) + 1))
        assert plan.select("mid")[0] in table
        z, _ = self.noised(denoiser, images, 3)
        read = denoiser.reader([block.name for block in table])
        seen = {name: tuple(one.shape) for name, one in read(z, 3).items()}
        read.remove()
        shape = {block.name: (len(z), block.channels, block.size, block.size) for block in table}
        assert list(seen.items()) == list(shape.items()), "names must be in the order in which modules run"

    def test_costs_are_what_pytorch_counts(
        self, plan: BackbonePlan, denoiser: Denoiser, images: torch.Tensor
    ) -> None:
        z, steps = self.noised(denoiser, images[:1], 3)
        total = counted(lambda: denoiser.run(z, steps))
        for block in plan.blocks:
            read = denoiser.reader([block.name])
            assert block.cost == pytest.approx(counted(partial(read, z, 3)), rel=TOLERANCE)
            assert block.share == pytest.approx(block.cost / total, rel=TOLERANCE)
            read.remove()

    def test_parts_of_blocks_have_the_shapes_of_the_table(
        self, plan: BackbonePlan, denoiser: Denoiser, images: torch.Tensor
    ) -> None:
        z, _ = self.noised(denoiser, images, 3)
        points = [point for block in plan.blocks for point in block.points]
        for point in points:
            assert point.after in AFTER
            read = denoiser.reader([point.name])
            (found,) = read(z, 3).values()
            read.remove()
            assert found.shape == (len(z), point.channels, point.size, point.size), point
            assert not torch.allclose(found[0], found[1]), f"{point.name} must depend on the image"

    def test_nothing_runs_after_the_deepest_block(
        self, plan: BackbonePlan, denoiser: Denoiser, images: torch.Tensor
    ) -> None:
        ran: list[str] = []
        for block in plan.blocks:
            denoiser.network.get_submodule(block.name).register_forward_hook(
                lambda *_, name=block.name: ran.append(name)
            )
        z, _ = self.noised(denoiser, images, 3)
        read = denoiser.reader([plan.blocks[0].name, plan.blocks[1].name])
        read(z, 3)
        assert ran == [plan.blocks[0].name, plan.blocks[1].name]

    def test_a_pass_that_ends_early_reads_what_a_whole_one_does(
        self, plan: BackbonePlan, denoiser: Denoiser, images: torch.Tensor
    ) -> None:
        z, _ = self.noised(denoiser, images, 3)
        names = [block.name for block in plan.blocks]
        found = []
        for wanted in (names, names[:1]):
            read = denoiser.reader(wanted)
            found.append(read(z, 3)[names[0]])
            read.remove()
        assert torch.equal(*found)

    # Running.

    def test_it_is_frozen_in_float32_and_in_evaluation_mode(self, denoiser: Denoiser) -> None:
        for module in (denoiser.network, denoiser.autoencoder):
            if module is not None:
                assert not module.training
                assert {one.dtype for one in module.parameters()} == {torch.float32}
                assert not any(one.requires_grad for one in module.parameters())

    def test_images_become_what_is_noised_and_come_back_as_images(
        self, denoiser: Denoiser, images: torch.Tensor
    ) -> None:
        with torch.no_grad():
            z = denoiser.encode(images)
            assert z.dtype == torch.float32
            assert torch.equal(z, denoiser.encode(images)), "must be deterministic"
            assert not torch.allclose(z[0], z[1])
            assert denoiser.decode(z).shape == images.shape
            if denoiser.bound is not None:
                assert z.abs().max() <= denoiser.bound

    def test_a_prediction_belongs_to_image_and_step_alone(
        self, denoiser: Denoiser, images: torch.Tensor
    ) -> None:
        z, steps = self.noised(denoiser, images, 3)
        found = denoiser.predict(z, steps)
        assert found.shape == z.shape
        assert found.isfinite().all()
        assert torch.equal(found, denoiser.predict(z, steps)), "must be deterministic"
        alone = denoiser.predict(z[1:2], steps[1:2])
        torch.testing.assert_close(alone, found[1:2], rtol=1e-4, atol=1e-5)
        assert not torch.allclose(found[0], found[1])
        later = torch.full_like(steps, denoiser.process.timesteps - 1)
        assert not torch.allclose(found, denoiser.predict(z, later)), "the network must depend on the step"

    def test_opening_again_gives_the_same_network(
        self, plan: BackbonePlan, denoiser: Denoiser, images: torch.Tensor, tmp_path: Path
    ) -> None:
        again = self.opened(plan, tmp_path / "again")
        given = self.noised(denoiser, images, 3)
        assert torch.equal(denoiser.predict(*given), again.predict(*given))
        assert again.process.config == denoiser.process.config

    def test_the_untrained_control_has_the_same_latents_and_weights_of_its_seed(
        self, plan: BackbonePlan, denoiser: Denoiser, images: torch.Tensor, tmp_path: Path
    ) -> None:
        control, same, other = (
            self.opened(plan, tmp_path / name, seed)
            for name, seed in (("control", 1), ("same", 1), ("other", 2))
        )
        assert torch.equal(denoiser.encode(images), control.encode(images))
        weights, again, others, trained = (
            torch.cat([one.flatten() for one in each.network.parameters()])
            for each in (control, same, other, denoiser)
        )
        assert torch.equal(weights, again)
        assert not torch.equal(weights, others)
        assert weights.shape == trained.shape
        assert not torch.equal(weights, trained)

    def test_an_artifact_holds_configurations_and_safetensors_alone(self, artifact: Path) -> None:
        kinds = {path.suffix for path in artifact.rglob("*") if path.is_file()}
        assert kinds <= {".json", ".safetensors"}

    # Against the pipeline's own modules.

    def pipeline_pass(
        self, folder: Path, z_BCHW: torch.Tensor, plan: BackbonePlan, step: int
    ) -> tuple[Any, Callable[[], Any]] | None:
        """Returns the denoising network of the pipeline in `folder`, opened by its own library, and a function.

        The function makes the pipeline run that network once, on `z_BCHW` noised to `step`, under the condition that
        the family uses by default. None if there is no such pipeline.
        """
        return None

    def pipeline_samples(
        self, folder: Path, start_BCHW: torch.Tensor, plan: BackbonePlan
    ) -> torch.Tensor | None:
        """Returns the images in [-1, 1] that the pipeline makes of the noise `start_BCHW`, in `sampling_steps`.

        With a deterministic sampler, under the condition that the family uses by default. None if it has none.
        """
        return None

    def block_errors(
        self, folder: Path, plan: BackbonePlan, denoiser: Denoiser, image: torch.Tensor, step: int
    ) -> dict[str, float] | None:
        """Returns how far each block's output is from that of the network that `pipeline_pass` runs.

        Largest absolute differences relative to the largest absolute output, by module in the order in which they
        run, for one image [1, C, H, W] noised to `step`. None if there is nothing to compare with.
        """
        z, _ = self.noised(denoiser, image, step)
        found = self.pipeline_pass(folder, z, plan, step)
        if found is None:
            return None
        network, run = found
        names = [block.name for block in plan.blocks]
        own: dict[str, torch.Tensor] = {}

        def keep(module: Any, inputs: Any, output: Any, name: str) -> None:
            own.setdefault(name, plan.family.as_map(network, name, output, z))

        hooks = [
            network.get_submodule(name).register_forward_hook(partial(keep, name=name)) for name in names
        ]
        with torch.no_grad():
            run()
        for hook in hooks:
            hook.remove()
        read = denoiser.reader(names)
        with torch.no_grad():
            ours = read(z, step)
        read.remove()
        return {
            name: float((ours[name] - value[:1]).abs().max() / value.abs().max())
            for name, value in own.items()
        }

    def sample_error(
        self, folder: Path, plan: BackbonePlan, denoiser: Denoiser, image: torch.Tensor
    ) -> float | None:
        """Returns the largest absolute difference of an image in [-1, 1] from what `pipeline_samples` returns.

        `image` [1, C, H, W] gives the shape. None if there is nothing to compare with.
        """
        draw = torch.Generator().manual_seed(6)
        start = torch.randn(denoiser.encode(image).shape, generator=draw)
        expected = self.pipeline_samples(folder, start, plan)
        if expected is None:
            return None
        with torch.no_grad():
            steps = self.sampling_steps or plan.timesteps
            z = sample(denoiser.process, denoiser.predict, start, steps=steps, clip=denoiser.bound)
            return float((denoiser.decode(z).clamp(-1, 1) - expected).abs().max())

    @pytest.mark.parametrize("fraction", LEVELS)
    def test_every_block_is_what_the_pipelines_own_network_puts_out(
        self, plan: BackbonePlan, published: Path, denoiser: Denoiser, images: torch.Tensor, fraction: float
    ) -> None:
        step = round(fraction * (plan.timesteps - 1))
        errors = self.block_errors(published, plan, denoiser, images[:1], step)
        if errors is None:
            pytest.skip("no pipeline to compare with")
        assert list(errors) == [block.name for block in plan.blocks]
        for name, error in errors.items():
            assert error <= RELATIVE_ERROR, f"{name} at step {step}: {error:.2g}"

    def test_samples_are_those_of_the_pipeline(
        self, plan: BackbonePlan, published: Path, denoiser: Denoiser, images: torch.Tensor
    ) -> None:
        error = self.sample_error(published, plan, denoiser, images[:1])
        if error is None:
            pytest.skip("no pipeline with a deterministic sampler")
        assert error <= GREY_LEVEL

    # What is refused with one line.

    def test_images_of_another_size_are_refused_with_the_settings_that_fit(
        self, plan: BackbonePlan, published: Path
    ) -> None:
        fits, size = re.escape(f"data.size={self.size}"), self.size
        channels = re.escape(f" data.channels={self.channels}")
        any_size = plan.family.map_size(plan.config) is None  # that patches divide
        others = (
            [(size + 1, self.channels, fits)] if any_size else [(2 * size, self.channels, fits + channels)]
        )
        for other, count, settings in (*others, (size, self.channels + 1, fits + channels)):
            with pytest.raises(UserError, match=f"set {settings}"):
                PretrainedBackbone(path=str(published)).plan(other, count)

    def test_a_configuration_without_what_it_needs_is_refused(self, plan: BackbonePlan, spoilt: Path) -> None:
        path = _network(spoilt) / CONFIG
        whole = path.read_text()
        for name in plan.family.needed:
            values = json.loads(whole)
            values.pop(name)
            path.write_text(json.dumps(values))
            if name not in plan.family.defaults:
                assert f"has no '{name}'" in self.refused(spoilt)
            path.write_text(json.dumps({**json.loads(whole), name: "nonsense"}))
            assert name in self.refused(spoilt)

    def test_weights_that_are_not_the_networks_are_refused(self, spoilt: Path) -> None:
        path = _network(spoilt) / WEIGHTS
        tensors = load_file(path)
        first = min(tensors)
        contents = {
            f"'{first}' is missing": {name: one for name, one in tensors.items() if name != first},
            "'one.too.many' is not expected": {**tensors, "one.too.many": torch.zeros(1)},
            f"'{first}' has shape": {**tensors, first: torch.zeros(1, 2, 3, 4, 5)},
        }
        for words, content in contents.items():
            save_file(content, path, {"format": "pt"})
            assert words in self.refused(spoilt)
        path.write_bytes(b"junk")
        assert "not the weights" in self.refused(spoilt)
        path.unlink()
        assert "no such file" in self.refused(spoilt)

    def test_every_file_that_it_names_must_be_there(self, plan: BackbonePlan, spoilt: Path) -> None:
        for file in plan.family.parts(Pipeline(spoilt), plan.config, self.size).files:
            content = file.read_bytes()
            file.unlink()
            if file.suffix == ".safetensors":
                self.refused(spoilt)
            file.write_bytes(content)

    def test_a_network_of_no_family_is_refused(self, spoilt: Path) -> None:
        path = _network(spoilt) / CONFIG
        path.write_text(json.dumps({**json.loads(path.read_text()), "_class_name": "NoNetworkOfDiffusers"}))
        assert "holds a NoNetworkOfDiffusers" in self.refused(spoilt)


def _network(published: Path) -> Path:
    return Pipeline(published).network(network_folders())


def counted(run: Callable[[], Any]) -> float:
    """Returns the multiply-accumulate operations of `run`, with attention counted as matrix products."""
    with sdpa_kernel(SDPBackend.MATH), torch.no_grad(), FlopCounterMode(display=False) as counter:
        run()
    return cast(int, counter.get_total_flops()) / 2
