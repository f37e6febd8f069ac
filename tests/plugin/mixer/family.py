"""A backbone family of another package, with a configuration, blocks and tokens of its own."""

from harness.core.errors import UserError
from harness.models.backbones.family import check_numbers
from harness.models.backbones.labelled import LabelledFamily


class MixerFamily(LabelledFamily):
    """`MixerModel`: an MLP-Mixer over patches of images, which is told a class; the last class is null."""

    network = "mixer.network:MixerModel"
    folder = "mixer"
    needed = ("image_size", "colours", "patch", "width", "depth", "classes")

    def check(self, config, path):
        """Refuses what the network cannot be built from."""
        check_numbers({name: config[name] for name in self.needed}, path)
        if config["image_size"] % config["patch"]:
            raise UserError(
                f"{path}: patch = {config['patch']} does not divide image_size = {config['image_size']}"
            )

    def map_size(self, config):
        """Returns the only size that the network reads: it mixes a fixed number of tokens."""
        return config["image_size"]

    def channels(self, config):
        """Returns the channels of images."""
        return config["colours"]

    def patch(self, config):
        """Returns the size of patches."""
        return config["patch"]

    def classes(self, config):
        """Returns the number of classes without the null class."""
        return config["classes"]

    def null(self, config):
        """Returns the number of the null class, the last of the table."""
        return config["classes"]

    def block_names(self, config):
        """Numbers every layer."""
        return [f"layers.{number}" for number in range(config["depth"])]

    def points(self, block, modules):
        """Returns the MLP over channels."""
        return {"mlp": f"{block}.within"}

    def as_map(self, network, module, output, z_BCHW):
        """Leaves out the first token, which is none of the image's."""
        return super().as_map(network, module, output[:, 1:], z_BCHW)

    def run(self, network, z_BCHW, time_B, condition):
        """Runs the network with the label."""
        return network(z_BCHW, time_B, condition["label"])


FAMILY = MixerFamily()
