"""DiT, SiT and REPA: original checkpoints give the numbers of a network written here with the original's names."""

import argparse
import json
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler, DiTPipeline, DiTTransformer2DModel
from safetensors.torch import save_file
from tiny_dits import (
    CLASSES,
    DEPTH,
    HEADS,
    LATENTS,
    SIDE,
    WIDTH,
    random_reference,
    save_original,
)
from tiny_models import PIXELS, save_dit, tiny_vae

from harness.core.config import parse
from harness.core.errors import UserError
from harness.models.backbones.denoiser import load_denoiser, save_frame
from harness.models.backbones.dit_original import DiT
from harness.models.backbones.dit_weights import convert
from harness.models.backbones.pretrained import PretrainedBackbone
from harness.models.noise_processes.schedule import Schedule
from harness.models.sampling import sample
from harness.testing.backbones import RELATIVE_ERROR, BackboneFamilyContract, open_copy

STEPS = (0, 99, 349, 599, 949)


class Original(BackboneFamilyContract):
    """The network of original weights in a folder."""

    objective = "ddpm"

    def save(self, folder, seed):
        save_original(folder, seed, self.objective)


@pytest.mark.slow
class TestOriginalDiT(Original):
    pass


@pytest.mark.slow
class TestSiT(Original):
    objective = "sit"


@pytest.mark.slow
class TestREPA(Original):
    objective = "repa"


@pytest.fixture(scope="module")
def vae(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vae")
    tiny_vae().save_pretrained(folder)
    return folder


@pytest.fixture
def saved(tmp_path):
    """Writes tensors as the file of a model; returns a function that does."""

    def save(tensors, name="model.pt"):
        torch.save(tensors, tmp_path / name)
        return tmp_path / name

    return save


def dit(path, vae, **settings):
    given = {"objective": "ddpm", "num_heads": HEADS}
    return parse(DiT, {"name": "dit", "path": str(path), "vae": str(vae), **given, **settings}, "backbone")


def opened(plan, folder):
    """Returns the denoiser that workers open."""
    folder.mkdir()
    convert(*file_of(plan), folder, plan.reading, None)
    save_frame(plan.family, plan.process, folder)
    tensors = plan.family.make_condition(None, plan.config, plan.condition.settings)
    save_file(tensors, folder / "condition.safetensors")
    return load_denoiser(folder)


def file_of(plan):
    """Returns the file of a plan, and the configuration of its network."""
    return Path(plan.source), plan.config


def error(mine, its):
    return ((mine - its).abs().max() / its.abs().max()).item()


def time_of(objective, step):
    """Returns what the original code tells its network where noise has the share of our step."""
    sigma = (step + 1) / 1000
    return {"ddpm": step, "sit": 1 - sigma, "repa": sigma}[objective]


@pytest.mark.parametrize("objective", ["ddpm", "sit", "repa"])
@pytest.mark.parametrize("label", ["null", 3])
def test_every_block_and_the_prediction_are_those_of_the_original(vae, saved, tmp_path, objective, label):
    original = random_reference()
    plan = dit(saved(original.state_dict()), vae, objective=objective, label=label).plan(PIXELS, 3)
    row = CLASSES if label == "null" else label
    assert plan.condition.name == ("null label" if label == "null" else "label 3")
    denoiser = opened(plan, tmp_path / "opened")
    draw = torch.Generator().manual_seed(1)
    x, epsilon = torch.randn(2, 1, LATENTS, SIDE, SIDE, generator=draw)
    for step in STEPS:
        steps_B = torch.tensor([step])
        z = denoiser.noised(x, epsilon, steps_B)
        times_B = torch.tensor([time_of(objective, step)])
        if objective != "ddpm":  # the lines of SiT and REPA, each with its own time
            data = times_B if objective == "sit" else 1 - times_B
            torch.testing.assert_close(z, data * x + (1 - data) * epsilon, rtol=1e-5, atol=1e-5)
        output, blocks = original(z, times_B, torch.tensor([row]))
        sign = -1 if objective == "sit" else 1  # SiT predicts x_0 - ε
        with torch.no_grad():
            assert error(denoiser.predict(z, steps_B), sign * output[:, :LATENTS]) < RELATIVE_ERROR
        read = denoiser.reader([block.name for block in plan.blocks])
        seen = read(z, step)
        read.remove()
        for mine, its in zip(seen.values(), blocks, strict=True):
            assert error(mine.flatten(2).transpose(1, 2), its) < RELATIVE_ERROR


def test_a_sit_samples_along_the_originals_ordinary_differential_equation(vae, saved, tmp_path):
    original = random_reference()
    denoiser = opened(
        dit(saved(original.state_dict()), vae, objective="sit").plan(PIXELS, 3), tmp_path / "opened"
    )
    z = torch.randn(1, LATENTS, SIDE, SIDE, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        found = sample(denoiser.process, denoiser.predict, z, steps=1000, clip=None)
    for place in range(1000):  # from noise at time 0 to data at time 1
        velocity = original(z, torch.tensor([place / 1000]), torch.tensor([CLASSES]))[0][:, :LATENTS]
        z = z + velocity / 1000
    assert error(found, z) < 1e-3


def test_latents_are_those_of_the_vae(vae, saved, tmp_path):
    denoiser = opened(dit(saved(random_reference().state_dict()), vae).plan(PIXELS, 3), tmp_path / "opened")
    images = torch.rand(1, 3, PIXELS, PIXELS) * 2 - 1
    with torch.no_grad():
        wanted = AutoencoderKL.from_pretrained(vae).encode(images).latent_dist.mode() * 0.18215
        torch.testing.assert_close(denoiser.encode(images), wanted)


@pytest.mark.parametrize(
    "settings",
    [{"width": 24, "heads": 3, "depth": 2}, {"patch": 4, "out": LATENTS}, {"side": 4}],
    ids=str,
)
def test_the_network_is_inferred_from_the_tensors(vae, saved, tmp_path, settings):
    original = random_reference(**settings)
    plan = dit(saved(original.state_dict()), vae, num_heads=settings.get("heads", HEADS)).plan(
        2 * settings.get("side", SIDE), 3
    )
    assert len(plan.blocks) == settings.get("depth", DEPTH)
    z = torch.randn(1, LATENTS, plan.size, plan.size)
    found = opened(plan, tmp_path / "opened").run(z, torch.tensor([500]))
    output, _ = original(z, torch.tensor([500]), torch.tensor([CLASSES]))
    assert error(found, output) < RELATIVE_ERROR


def test_the_heads_of_published_widths_are_known_and_others_must_be_given(vae, saved):
    published = random_reference(width=384, heads=6, depth=1)
    path = saved(published.state_dict())
    assert dit(path, vae, num_heads=None).plan(PIXELS, 3).config["num_attention_heads"] == 6
    with pytest.raises(UserError) as caught:
        dit(saved(random_reference().state_dict()), vae, num_heads=None).plan(PIXELS, 3)
    assert str(caught.value).endswith(
        f"its width {WIDTH} is none of the published models' (384, 768, 1024, 1152), and its tensors do not show the "
        "number of attention heads; set backbone.num_heads"
    )
    with pytest.raises(UserError, match="num_heads = 3 does not divide the network's width 16"):
        dit(path.with_name("model.pt"), vae, num_heads=3).plan(PIXELS, 3)


def test_of_a_trainings_checkpoint_the_averaged_weights_are_read_and_the_others_offered(vae, saved, tmp_path):
    averaged, last = random_reference(0), random_reference(1)
    path = saved(
        {
            "model": last.state_dict(),
            "ema": averaged.state_dict(),
            "opt": {"state": {}},
            "args": argparse.Namespace(model="DiT-XL/2"),
            "steps": 400_000,
        }
    )
    plans = [dit(path, vae, weights=weights).plan(PIXELS, 3) for weights in (None, "model")]
    assert plans[0].notes[1] == "model.pt: 'ema' is read, not 'model'; backbone.weights=model reads that"
    assert plans[0].fingerprint != plans[1].fingerprint
    for plan, network in zip(plans, (averaged, last), strict=True):
        found = opened(plan, tmp_path / str(network is last)).network.proj_out_2.weight
        assert torch.equal(found, network.final_layer.linear.weight)


def test_repas_projectors_are_not_read_and_its_first_names_are(vae, saved, tmp_path):
    original = random_reference()
    tensors = original.state_dict() | {"projectors.0.0.weight": torch.zeros(2, WIDTH)}
    early = {name.replace("blocks.2.", "decoder_blocks.0."): one for name, one in tensors.items()}
    plans = [
        dit(saved(one, name), vae, objective="repa").plan(PIXELS, 3)
        for name, one in (("a.pt", tensors), ("b.pt", early))
    ]
    assert plans[0].notes[1] == "a.pt: 1 tensors of REPA's projectors are not read"
    first, second = (opened(plan, tmp_path / str(number)) for number, plan in enumerate(plans))
    for name, one in first.network.state_dict().items():
        assert torch.equal(one, second.network.state_dict()[name])
    with pytest.raises(UserError) as caught:
        dit(saved(tensors), vae, objective="sit").plan(PIXELS, 3)
    assert str(caught.value).endswith("whose time runs from data to noise; set backbone.objective: repa")


def test_the_untrained_control_has_the_same_latents_and_other_weights(vae, saved, tmp_path):
    plan = dit(saved(random_reference().state_dict()), vae).plan(PIXELS, 3)
    assert plan.untrained().random
    networks = []
    for seed in (None, 1, 1):
        folder = tmp_path / str(len(networks))
        folder.mkdir()
        convert(*file_of(plan), folder, plan.reading, seed)
        save_frame(plan.family, plan.process, folder)
        networks.append(load_denoiser(folder))
    images = torch.rand(1, 3, PIXELS, PIXELS)
    assert torch.equal(networks[0].encode(images), networks[1].encode(images))
    weights = [one.network.transformer_blocks[0].attn1.to_q.weight for one in networks]
    assert not torch.equal(weights[0], weights[1])
    assert torch.equal(weights[1], weights[2])


def changed(change):
    tensors = dict(random_reference().state_dict())
    change(tensors)
    return tensors


REFUSED = {
    "no objective": ({"objective": None}, {}, "a checkpoint does not show what it predicts; set it as"),
    "a missing tensor": (
        {},
        lambda at: at.pop("blocks.1.mlp.fc2.bias"),
        "'blocks.1.mlp.fc2.bias' is missing",
    ),
    "another tensor": (
        {},
        lambda at: at.update({"blocks.0.attn.q_norm.weight": torch.ones(8)}),
        "'blocks.0.attn.q_norm.weight' is not expected",
    ),
    "another network": ({}, lambda at: at.pop("x_embedder.proj.weight"), "not a checkpoint of DiT or SiT"),
    "learnt positions": (
        {},
        lambda at: at.update(pos_embed=at["pos_embed"] + 0.01),
        "models with learnt positions are not supported",
    ),
    "positions of no square": (
        {},
        lambda at: at.update(pos_embed=at["pos_embed"][:, :15]),
        "is not the fixed sine-cosine embedding of a square map",
    ),
    "other outputs": (
        {},
        lambda at: at.update(
            {
                "final_layer.linear.weight": torch.zeros(12, WIDTH),
                "final_layer.linear.bias": torch.zeros(12),
            }
        ),
        "reads 4 channels and puts out 3",
    ),
    "weights of a training": ({"weights": "ema"}, {}, "this one has one set of weights, so leave it out"),
    "a label": ({"label": CLASSES + 1}, {}, f"has classes 0 to {CLASSES - 1}"),
    "no file": ({"path": "/no/such.pt"}, {}, "no such file"),
    "no VAE": ({"vae": "/no/such"}, {}, "backbone.vae '/no/such': no such folder"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_original_checkpoint_is_refused_in_one_line(vae, saved, name):
    settings, change, words = REFUSED[name]
    path = saved(changed(change or (lambda at: None)))
    with pytest.raises(UserError) as caught:
        dit(**{"path": path, "vae": vae, **settings}).plan(PIXELS, 3)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_released_name_gives_the_objective_and_contradicts_another(vae, saved):
    path = saved(random_reference().state_dict(), "SiT-XL-2-256x256.pt")
    assert dit(path, vae, objective=None).plan(PIXELS, 3).config["objective"] == "sit"
    with pytest.raises(UserError, match=r"SiT-XL-2-256x256\.pt is a released model, trained for sit"):
        dit(path, vae, objective="ddpm").plan(PIXELS, 3)


def test_a_file_with_code_runs_nothing_and_other_sizes_and_vaes_are_refused(vae, saved, tmp_path, capsys):
    class Code:
        def __reduce__(self):
            return print, ("ran",)

    for path in (saved(Code(), "code.pt"), tmp_path / "junk.pt"):
        (tmp_path / "junk.pt").write_bytes(b"junk")
        with pytest.raises(UserError, match="cannot be read without running code in it"):
            dit(path, vae).plan(PIXELS, 3)
    path = saved(random_reference().state_dict())
    with pytest.raises(UserError, match=f"set data.size={PIXELS} data.channels=3"):
        dit(path, vae).plan(2 * PIXELS, 3)
    tiny_vae(latent_channels=8).save_pretrained(tmp_path / "other")
    with pytest.raises(UserError, match="latents have 8 channels"):
        dit(path, tmp_path / "other").plan(PIXELS, 3)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"has no config\.json; give the folder of an AutoencoderKL"):
        dit(path, tmp_path / "empty").plan(PIXELS, 3)
    assert "ran" not in capsys.readouterr().out


# Folders of diffusers


def edit(path, **values):
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


@pytest.fixture
def folder(tmp_path):
    """A DiT of diffusers."""
    return save_dit(tmp_path / "dit")


OFFICIAL = {  # what the official repository's config.json has besides
    "_class_name": "Transformer2DModel",
    "cross_attention_dim": None,
    "double_self_attention": False,
    "dropout": 0.0,
    "norm_num_groups": 32,
    "norm_type": "ada_norm_zero",
    "num_vector_embeds": None,
    "only_cross_attention": False,
    "use_linear_projection": False,
}


def shift(denoiser):
    found = {block.norm1.emb.time_proj.downscale_freq_shift for block in denoiser.network.transformer_blocks}
    (one,) = found
    return one


def test_the_official_repositorys_configuration_is_read_as_the_originals_and_another_can_be_set(
    folder, tmp_path
):
    path = folder / "transformer" / "config.json"
    plain = PretrainedBackbone(path=str(folder)).plan(PIXELS, 3)
    assert shift(open_copy(plain, tmp_path / "plain")) == 1
    assert plain.notes[-1].endswith(
        "with the frequencies of diffusers' DiTTransformer2DModel; if the weights were trained with those of the "
        "original code, set backbone.trained_by=original"
    )
    edit(path, **OFFICIAL)
    official = PretrainedBackbone(path=str(folder)).plan(PIXELS, 3)
    assert shift(open_copy(official, tmp_path / "official")) == 0
    assert official.notes[-1].endswith("set backbone.trained_by=diffusers")
    assert official.fingerprint != plain.fingerprint
    other = PretrainedBackbone(path=str(folder), trained_by="diffusers").plan(PIXELS, 3)
    denoiser = open_copy(other, tmp_path / "other")
    assert shift(denoiser) == 1
    z, steps = torch.randn(1, LATENTS, SIDE, SIDE), torch.tensor([70])
    its = DiTTransformer2DModel.from_pretrained(folder / "transformer").eval()
    with torch.no_grad():
        wanted = its(z, steps, torch.tensor([5])).sample
        assert error(denoiser.run(z, steps), wanted) < RELATIVE_ERROR
        assert error(load_denoiser(tmp_path / "official").run(z, steps), wanted) > 1e-4


def test_another_setting_than_a_configurations_holds_for_a_dit_of_diffusers_too(folder, tmp_path):
    original = PretrainedBackbone(path=str(folder), trained_by="original").plan(PIXELS, 3)
    denoiser = open_copy(original, tmp_path / "opened")
    assert shift(denoiser) == 0
    denoiser.network.save_pretrained(tmp_path / "again" / "transformer")
    for part in ("vae", "scheduler"):
        shutil.copytree(tmp_path / "opened" / part, tmp_path / "again" / part)
    again = PretrainedBackbone(path=str(tmp_path / "again")).plan(PIXELS, 3)
    assert shift(open_copy(again, tmp_path / "last")) == 0


def test_other_transformers_and_settings_are_refused(folder, tmp_path):
    edit(folder / "transformer" / "config.json", **{**OFFICIAL, "norm_type": "layer_norm"})
    with pytest.raises(UserError) as caught:
        PretrainedBackbone(path=str(folder)).plan(PIXELS, 3)
    assert "norm_type = 'layer_norm' is a layer of other networks" in str(caught.value)


def test_noise_of_another_objective_is_refused(tmp_path):
    folder = save_original(tmp_path / "sit", objective="sit")
    for schedule in (Schedule(name="linear"), Schedule(name="flow", timesteps=100)):
        with pytest.raises(UserError, match="for which the noise must be a flow of 1000 steps"):
            PretrainedBackbone(path=str(folder), schedule=schedule).plan(PIXELS, 3)
    edit(folder / "transformer" / "config.json", objective="ddpm")
    with pytest.raises(UserError, match="for which the noise must be betas"):
        PretrainedBackbone(path=str(folder)).plan(PIXELS, 3)
    edit(folder / "transformer" / "config.json", objective="x")
    with pytest.raises(UserError, match="objective = 'x': expected one of ddpm, sit, repa"):
        PretrainedBackbone(path=str(folder)).plan(PIXELS, 3)


@pytest.mark.slow
class TestDiT(BackboneFamilyContract):
    """Under the label of the pipeline, which knows no null class without guidance."""

    save = staticmethod(lambda folder, seed: save_dit(folder, seed=seed))

    def planned(self, folder):
        return PretrainedBackbone(path=str(folder), label=2).plan(self.size, self.channels)

    def pipeline_pass(self, folder, z_BCHW, plan, step):
        transformer = DiTPipeline.from_pretrained(folder).transformer.eval()
        return transformer, lambda: transformer(z_BCHW, torch.tensor([step]), torch.tensor([2]))

    def pipeline_samples(self, folder, start_BCHW, plan):
        pipeline = DiTPipeline.from_pretrained(folder)
        pipeline.set_progress_bar_config(disable=True)
        pipeline.transformer.eval()
        exact = {"set_alpha_to_one": True, "clip_sample": False, "steps_offset": 0}
        pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config, **exact)
        draw = torch.Generator().manual_seed(6)  # of the contract's start
        made = pipeline(
            [2], guidance_scale=1, generator=draw, num_inference_steps=plan.timesteps, output_type="pt"
        )
        return 2 * made.images - 1

    def test_images_of_another_size_are_refused_with_the_settings_that_fit(self, published):
        with pytest.raises(UserError, match=f"set data.size={self.size} data.channels={self.channels}"):
            PretrainedBackbone(path=str(published), label=2).plan(2 * self.size, self.channels)
