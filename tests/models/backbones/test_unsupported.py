"""Every denoising network of diffusers is read by a family, or refused saying what it is."""

import json
import re

import diffusers
import pytest

from harness.core.errors import UserError
from harness.models.backbones.family import FAMILIES, read_network
from harness.models.backbones.unsupported import NETWORKS

NETWORK = re.compile(
    r"UNet|UVit|\w*Transformer(1D|2D|3D)?(Model)?|\w*(UNet|DiT)\w*(Model)?|\w*TransformerTemporal\w*"
)
SORTED = {name for names in NETWORKS.values() for name in names}


def exported():
    """Returns the names of all classes of networks that diffusers exports."""
    found = [
        name
        for name in diffusers._import_structure["models"]
        if NETWORK.fullmatch(name) and not name.endswith("Vae")
    ]
    return sorted({*found, *SORTED, "AudioLDM2UNet2DConditionModel"})


def refusal(folder, name):
    """Returns the line with which a network of a class is refused."""
    (folder / "config.json").write_text(json.dumps({"_class_name": name}))
    with pytest.raises(UserError) as caught:
        read_network(folder)
    return str(caught.value)


@pytest.mark.parametrize("name", exported())
def test_a_network_of_diffusers_is_read_or_refused_saying_what_it_is(tmp_path, name):
    if name in FAMILIES.names():
        assert name not in SORTED, "a family reads it: take it out of the table of what is not read"
    else:
        line = refusal(tmp_path, name)
        assert line.startswith(f"{tmp_path}: holds a {name}, ")
        assert "\n" not in line
        assert "backbone 'pretrained' reads" not in line, "say what it is in unsupported.py"


def test_every_class_of_the_table_exists_and_is_there_once():
    names = [name for group in NETWORKS.values() for name in group]
    assert len(names) == len(set(names))
    assert [name for name in names if not hasattr(diffusers, name) and not elsewhere(name)] == []


def elsewhere(name):
    """Returns whether a class is of a module that diffusers does not export from its top."""
    from diffusers.models.unets import uvit_2d
    from diffusers.pipelines import audioldm2

    return hasattr(uvit_2d, name) or hasattr(audioldm2, name)


def test_what_is_of_no_kind_that_is_known_is_refused_with_the_families(tmp_path):
    assert "holds a Nothing2DModel; backbone 'pretrained' reads UNet2DModel" in refusal(
        tmp_path, "Nothing2DModel"
    )
