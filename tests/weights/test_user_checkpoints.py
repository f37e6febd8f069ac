"""Users' own checkpoints: read however they were saved, refused in one line where they do not fit."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_weights import WEIGHTS, trials_of

from harness.core.config import parse
from harness.core.errors import UserError
from harness.models.classifiers.build import build, tensors
from harness.models.classifiers.networks import ConvNeXt, ResNet, ViT, canonical_names
from harness.weights.checkpoint_files import read
from harness.weights.checkpoints import chosen, open_checkpoints, open_trajectory
from harness.weights.config import CheckpointsConfig, WeightsConfig
from harness.weights.layout import Layout, layout_of
from harness.weights.user_checkpoints import read_user_checkpoints, steps_of, user_stages
from harness.weights.vectors import flatten

RESNET = ResNet(widths=[4, 8], depths=[1, 1])
VIT = ViT(width=8, depth=2, heads=2)
CONVNEXT = ConvNeXt(widths=[4, 8], depths=[1, 1])
LAST = "resnet.encoder.stages.1.layers.0.layer.1.normalization."


class Given:
    """Checkpoints of a network: the same but for its varied parameters, and for running statistics."""

    def __init__(self, network=RESNET, patterns=("layer2.0.bn2",), buffers="base", count=3):
        self.settings, self.outline = network.settings(3, 16, 5), network.outline(3, 16, 5)
        self.layout = layout_of(self.outline, patterns, network.locations(), buffers)
        torch.manual_seed(0)
        self.base = build(self.settings).state_dict()
        self.states = [
            {
                name: value + torch.randn(value.shape) if self._varies(name) else value
                for name, value in self.base.items()
            }
            for _ in range(count)
        ]

    def _varies(self, name):
        return name in self.layout.names or "running" in name

    def stages(self, folder, base=None, least=1):
        config = CheckpointsConfig(path=str(folder), base=None if base is None else str(base))
        found = read_user_checkpoints(config, self.outline, self.layout, least)
        return user_stages(found, self.settings, self.layout)

    def vectors(self):
        return torch.stack([flatten(state, self.layout) for state in self.states]).numpy()

    def written(self, folder, save=save_file, ending=".safetensors", change=lambda state: state):
        for number, state in enumerate(self.states):
            save(change(state), folder / f"step{7 * number + 2}{ending}")
        return self


def contiguous(state):
    return {name: value.clone() for name, value in state.items()}


def theirs(state):
    """Returns a state dict by the names of torchvision or timm, `attn.qkv` in one."""
    named = {canonical_names(state)[name]: value for name, value in state.items()}
    for name in [name for name in named if ".attn.q." in name]:
        parts = [named.pop(name.replace(".q.", f".{one}.")) for one in "qkv"]
        named[name.replace(".q.", ".qkv.")] = torch.cat(parts)
    return named


def earlier(state):
    """Returns the state dict of a ViT as transformers 4 names it."""
    forms = {
        "vit.layers.": "vit.encoder.layer.",
        "attention.q_proj": "attention.attention.query",
        "attention.k_proj": "attention.attention.key",
        "attention.v_proj": "attention.attention.value",
        "attention.o_proj": "attention.output.dense",
        "mlp.fc1": "intermediate.dense",
        "mlp.fc2": "output.dense",
    }
    named = {}
    for name, value in state.items():
        for now, then in forms.items():
            name = name.replace(now, then)
        named[name] = value
    return named


def cifar(state):
    """Returns the state dict of a ResNet as kuangliu's pytorch-cifar names it."""
    return {
        name.replace("downsample", "shortcut").replace("fc.", "linear."): value
        for name, value in theirs(state).items()
    }


def prefixed(state):
    return {f"module.{name}": value for name, value in state.items()}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("network", "ending", "change"),
    [
        (RESNET, ".safetensors", contiguous),
        (RESNET, ".safetensors", theirs),
        (RESNET, ".pt", lambda state: state),
        (RESNET, ".pt", lambda state: {"net": cifar(state), "acc": 0.9}),
        (RESNET, ".pth", lambda state: {"epoch": 3, "state_dict": prefixed(theirs(state)), "loss": 0.5}),
        (RESNET, ".bin", lambda state: {"model": {f"model._orig_mod.{key}": x for key, x in state.items()}}),
        (VIT, ".safetensors", theirs),
        (VIT, ".pt", earlier),
        (CONVNEXT, ".safetensors", theirs),
    ],
)
@pytest.mark.parametrize("buffers", ["base", "collected"])
def test_checkpoints_are_read_however_they_were_saved(network, ending, change, buffers, tmp_path, context):
    given = Given(network, ["norm"], buffers)
    save = save_file if ending == ".safetensors" else torch.save
    given.written(tmp_path, save, ending, change)
    base, trajectory = given.stages(tmp_path)
    assert base.local
    assert trajectory.local
    vectors_NP, steps_N = open_trajectory(trajectory, context)
    np.testing.assert_array_equal(vectors_NP, given.vectors())
    assert vectors_NP.dtype == np.float32
    assert steps_N.tolist() == [2, 9, 16]
    assert steps_N.dtype == np.int64
    assert Layout.load(context.file(trajectory, "layout.json")) == given.layout
    found = load_file(context.file(base, "network.safetensors"))
    module = build(base.config["network"])
    module.load_state_dict(found)
    for name, value in given.states[-1].items():
        assert torch.equal(module.state_dict()[name], value), name


def test_checkpoints_may_hold_the_varied_parameters_alone(tmp_path, context):
    given = Given()
    (tmp_path / "all").mkdir()
    given.written(tmp_path / "all", change=lambda state: {name: state[name] for name in given.layout.names})
    with pytest.raises(
        UserError, match=r"step16\.safetensors: holds only the varied .*give weights\.checkpoints\.base"
    ):
        given.stages(tmp_path / "all")
    for place in (
        tmp_path / "base.pt",
        tmp_path / "all" / "base.pt",
    ):  # in the folder it is no checkpoint either
        torch.save(given.base, place)
        base, trajectory = given.stages(tmp_path / "all", place)
        np.testing.assert_array_equal(open_trajectory(trajectory, context)[0], given.vectors())
        found = load_file(context.file(base, "network.safetensors"))
        assert all(torch.equal(found[name], value) for name, value in given.base.items())


def test_2_comes_before_10(tmp_path, context):
    given = Given(count=12)
    given.written(tmp_path)
    (tmp_path / "notes.txt").write_text("not a checkpoint")
    vectors_NP, steps_N = open_trajectory(given.stages(tmp_path)[1], context)
    assert steps_N.tolist() == [7 * number + 2 for number in range(12)]
    np.testing.assert_array_equal(vectors_NP, given.vectors())


@pytest.mark.parametrize(
    ("names", "steps"),
    [
        (["a", "b", "c"], [0, 1, 2]),
        (["epoch2", "epoch10"], [2, 10]),
        (["resnet18-0005", "resnet18-0010"], [5, 10]),
        (["1", "b"], [0, 1]),
        (["seed1-3", "seed1-3b"], [0, 1]),
        (["step-5-of-9", "step-7-of-9"], [5, 7]),
        (["only"], [0]),
        (["only7"], [7]),
        (["9" * 30], [0]),
    ],
)
def test_steps_are_the_numbers_that_grow(names, steps):
    assert steps_of(names) == steps


def test_stages_are_named_by_the_content_of_the_files(tmp_path):
    given = Given()
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        given.written(tmp_path / name)
    one, two = given.stages(tmp_path / "one"), given.stages(tmp_path / "two")
    assert [stage.key for stage in one] == [stage.key for stage in two]
    changed = given.states[0] | {f"{LAST}bias": torch.ones(8)}
    save_file(changed, tmp_path / "two" / "step2.safetensors")
    network, trajectory = given.stages(tmp_path / "two")
    assert network.key == one[0].key
    assert trajectory.key != one[1].key
    assert one[1].key != Given(patterns=["layer2.0.bn2", "fc"]).stages(tmp_path / "one")[1].key


def test_files_are_read_again_only_when_they_change(tmp_path, monkeypatch):
    given = Given().written(tmp_path)
    first = given.stages(tmp_path)
    monkeypatch.setattr("harness.weights.checkpoint_files.read", lambda *_: pytest.fail("read again"))
    assert given.stages(tmp_path) == first
    save_file(contiguous(given.states[0]), tmp_path / "step23.safetensors")
    with pytest.raises(pytest.fail.Exception, match="read again"):
        given.stages(tmp_path)


def test_running_statistics_may_differ_where_the_bases_are_used(tmp_path):
    given = Given().written(tmp_path)
    assert not torch.equal(given.states[0][f"{LAST}running_mean"], given.states[1][f"{LAST}running_mean"])
    given.stages(tmp_path)


def refusal(given, tmp_path, **more):
    with pytest.raises(UserError) as caught:
        given.stages(tmp_path, **more)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 600
    return message


def test_folders_without_enough_checkpoints_are_refused(tmp_path):
    given = Given()
    assert "no such folder" in refusal(given, tmp_path / "nowhere")
    assert "no such folder" in refusal(given, "x" * 5000)
    assert "has no checkpoints, *.safetensors, *.pt" in refusal(given, tmp_path)
    given.written(tmp_path)
    assert "has 3 checkpoints, but weights.k and weights.checkpoints.held_out ask for 4" in refusal(
        given, tmp_path, least=4
    )
    assert "weights.checkpoints.base" in refusal(given, tmp_path, base=tmp_path / "nothing.pt")
    assert len(given.stages(tmp_path, least=3)) == 2


def without(state, name):
    return {key: value for key, value in state.items() if key != name}


FC = "classifier.1.weight"
STEM = "resnet.embedder.embedder.convolution.weight"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda state: without(state, f"{LAST}bias"), f"lacks '{LAST}bias' (missing tensors: 1)"),
        (lambda state: without(state, STEM), f"lacks '{STEM}'"),
        (
            lambda state: {**state, FC: torch.zeros(7, 8)},
            f"'{FC}' is of shape [7, 8], in weights.network it is [5, 8]",
        ),
        (lambda state: {**state, FC: torch.zeros(7, 8)}, "weights.network it is [5, 8]; give checkpoints"),
        (
            lambda state: {**state, "extra": torch.zeros(1)},
            "has a tensor 'extra' that the network does not have",
        ),
        (lambda state: {"features.0.weight": torch.zeros(1)}, f"but lacks '{STEM}'; give checkpoints of it"),
        (lambda state: {"features.0.weight": torch.zeros(1)}, "or 'conv1.weight'"),
        (
            lambda state: {**state, FC: torch.full((5, 8), torch.nan)},
            f"'{FC}' has numbers that are not finite",
        ),
        (
            lambda state: {**state, f"{LAST}bias": torch.full((8,), torch.inf)},
            "are not finite; leave this",
        ),
        (
            lambda state: {**state, FC: torch.zeros(5, 8, dtype=torch.int8)},
            "holds torch.int8, not plain floating-point",
        ),
        (
            lambda state: {**state, FC: torch.full((5, 8), 1e300, dtype=torch.float64)},
            f"'{FC}' has numbers that are not finite",
        ),
        (lambda state: {**state, FC: state[FC] + 1e-6}, f"'{FC}' differs from the base network's"),
        (lambda state: {**state, FC: state[FC] + 1e-6}, "`parameters: [all]`"),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_named(change, words, tmp_path):
    given = Given().written(tmp_path)
    save_file(change(contiguous(given.states[1])), tmp_path / "step9.safetensors")
    message = refusal(given, tmp_path)
    assert message.startswith(f"{tmp_path / 'step9.safetensors'}: ")
    assert words in message


def test_a_base_that_is_not_whole_is_refused(tmp_path):
    given = Given().written(tmp_path)
    statistics = f"{LAST}running_var"
    torch.save(without(given.base, statistics), tmp_path / "base.pt")
    assert f"base.pt: lacks '{statistics}' (missing tensors: 1)" in refusal(
        given, tmp_path, base=tmp_path / "base.pt"
    )


class Sprung:
    """A pickle that writes a file when it is opened."""

    def __init__(self, place):
        self.place = place

    def __reduce__(self):
        return Path.touch, (self.place,)


@pytest.mark.parametrize(
    "trap",
    [
        lambda place, file: torch.save({"state_dict": Sprung(place)}, file),
        lambda place, file: file.write_bytes(pickle.dumps({"x": Sprung(place)})),
        lambda place, file: torch.save(torch.nn.Linear(2, 2), file),
    ],
)
def test_a_pickle_of_more_than_plain_tensors_is_never_opened(trap, tmp_path):
    given = Given().written(tmp_path, torch.save, ".pt")
    trap(tmp_path / "sprung", tmp_path / "step9.pt")
    message = refusal(given, tmp_path)
    assert message.startswith(f"{tmp_path / 'step9.pt'}: is a pickle of more than plain tensors")
    assert "save model.state_dict()" in message
    assert not (tmp_path / "sprung").exists()


def in_itself():
    found = {}
    found["model"] = found
    return found


@pytest.mark.parametrize(
    ("write", "words"),
    [
        (lambda file: file.write_bytes(b""), "cannot be read"),
        (lambda file: file.write_bytes(b"nothing that was ever saved"), "step9.pt: "),
        (lambda file: file.write_bytes(file.read_bytes()[:2000]), "cannot be read"),
        (lambda file: torch.save([torch.zeros(2)], file), "holds no named tensors"),
        (lambda file: torch.save({}, file), "holds no named tensors"),
        (
            lambda file: torch.save({"a": torch.zeros(1), "epoch": 3}, file),
            "'epoch' is of type int, not a tensor",
        ),
        (lambda file: torch.save({0: torch.zeros(1)}, file), "0 is not a name"),
        (lambda file: torch.save(in_itself(), file), "'model' is of type dict, not a tensor"),
        (
            lambda file: torch.save({FC: torch.zeros(5, 8).to_sparse()}, file),
            "holds torch.sparse_coo, not plain",
        ),
        (lambda file: torch.save({FC: torch.zeros(5, 8, device="meta")}, file), "holds no data"),
    ],
)
def test_a_file_that_is_no_state_dict_is_named(write, words, tmp_path):
    given = Given().written(tmp_path, torch.save, ".pt")
    write(tmp_path / "step9.pt")
    message = refusal(given, tmp_path)
    assert message.startswith(f"{tmp_path / 'step9.pt'}: ")
    assert words in message


def test_numbers_of_8_bits_are_read(tmp_path):
    given = Given().written(tmp_path)
    small = {FC: contiguous(given.states[1])[FC].to(torch.float8_e4m3fn)}
    save_file({**contiguous(given.base), **small}, tmp_path / "step9.safetensors")
    state = read(tmp_path / "step9.safetensors", tensors(build(given.settings)))
    assert torch.equal(state[FC], small[FC].float())


def test_hidden_files_are_no_checkpoints_and_endings_may_be_large(tmp_path):
    given = Given().written(tmp_path)
    (tmp_path / "._step9.safetensors").write_bytes(b"what a Mac leaves behind")
    _, trajectory = given.stages(tmp_path)
    count = len(trajectory.config["checksums"])
    torch.save(given.states[1], tmp_path / "step99.PT")
    assert len(given.stages(tmp_path)[1].config["checksums"]) == count + 1


def test_a_folder_that_may_not_be_read_is_named(tmp_path, monkeypatch):
    given = Given().written(tmp_path)

    def refuse(self):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "iterdir", refuse)
    assert "cannot be read: Permission denied" in refusal(given, tmp_path)


def test_a_damaged_safetensors_file_is_named(tmp_path):
    given = Given().written(tmp_path)
    file = tmp_path / "step2.safetensors"
    file.write_bytes(file.read_bytes()[:-10])
    assert refusal(given, tmp_path).startswith(f"{file}: cannot be read")


def test_files_that_change_after_the_plan_are_noticed(tmp_path, context):
    given = Given().written(tmp_path)
    network, trajectory = given.stages(tmp_path)
    save_file(contiguous(given.states[0]), tmp_path / "step16.safetensors")
    for stage in (network, trajectory):
        with pytest.raises(UserError, match=r"step16\.safetensors: has changed since the sweep was planned"):
            context.ensure(stage)


@pytest.mark.parametrize(("parameters", "same"), [(["norm2"], True), (["all"], False)])
def test_another_seed_goes_on_from_the_users_network_unless_all_of_it_varies(parameters, same, tmp_path):
    network = parse(WeightsConfig, WEIGHTS, "weights").network
    state = build(network.settings(1, 8, 10)).state_dict()
    for number in range(6):
        save_file(
            {**state, "norm2.weight": state["norm2.weight"] + number}, tmp_path / f"{number}.safetensors"
        )
    checkpoints = {"path": str(tmp_path), "held_out": 0, "workers": 0}
    (trial,) = trials_of(parameters=parameters, checkpoints=checkpoints, k=[6])[1]
    needs = trial.needs["contenders"].needs
    assert (needs["other_seed"].needs["network"].key == trial.needs["network"].key) is same
    assert needs["fine_tuned"].needs["network"].key == trial.needs["network"].key


def test_all_checkpoints_of_a_folder_may_be_chosen_unless_a_size_is_given(tmp_path, context):
    network = parse(WeightsConfig, WEIGHTS, "weights").network
    state = build(network.settings(1, 8, 10)).state_dict()
    for number in range(9):
        save_file(
            {**state, "norm2.weight": state["norm2.weight"] + number}, tmp_path / f"{number}.safetensors"
        )
    for size, last in ((None, 8), (3, 3)):
        checkpoints = {"path": str(tmp_path), "held_out": 1, "size": size, "workers": 0}
        (trial,) = trials_of(parameters=["norm2"], checkpoints=checkpoints, k=[2])[1]
        found = open_checkpoints(trial.needs["checkpoints"], context)
        places = chosen(found, {"k": 2, "subset": "strided", "seed": 0})
        assert list(found.steps_N[places]) == [0, last]
