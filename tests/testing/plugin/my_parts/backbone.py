"""A backbone family of plain convolutions on pixels. Planning reads this file, so the network stands in another."""

from harness.models.backbones.blocks import Step
from harness.models.backbones.family import Family, check_numbers


class ConvolutionsFamily(Family):
    """`Convolutions`: layers one after the other, without down-sampling."""

    network = "my_parts.backbone_network:Convolutions"
    folder = "denoiser"
    needed = ("sample_size", "in_channels", "width", "layers")

    def check(self, config, path):
        """Takes any positive sizes."""
        check_numbers({name: config[name] for name in self.needed}, path)

    def steps(self, config):
        """Makes every layer but the last a block; the timestep is added after the first."""
        width, pixels = config["width"], config["sample_size"] ** 2
        ends = 9 * config["in_channels"] * width * pixels
        layer = 9 * width**2 * pixels
        names = [f"body.{number}" for number in range(config["layers"])]
        steps = [
            Step(name, width, config["sample_size"], layer + (name == "body.0") * width) for name in names
        ]
        return [Step("first", width, config["sample_size"], ends), *steps], ends

    def run(self, network, z_BCHW, time_B, condition):
        """Runs the network on image and timestep."""
        return network(z_BCHW, time_B)


FAMILY = ConvolutionsFamily()
