"""A backbone family of plain convolutions on pixels. Planning reads this file, so the network stands in another."""

from harness.models.backbones.family import Family, check_numbers


class ConvolutionsFamily(Family):
    """`Convolutions`: layers one after the other, without down-sampling."""

    network = "my_parts.backbone_network:Convolutions"
    folder = "denoiser"
    needed = ("sample_size", "in_channels", "width", "layers")

    def check(self, config, path):
        """Takes any positive sizes."""
        check_numbers({name: config[name] for name in self.needed}, path)

    def block_names(self, config):
        """Makes every layer but the last a block."""
        return ["first", *(f"body.{number}" for number in range(config["layers"]))]

    def run(self, network, z_BCHW, time_B, condition):
        """Runs the network on image and timestep."""
        return network(z_BCHW, time_B)


FAMILY = ConvolutionsFamily()
