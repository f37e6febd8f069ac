"""How much faster is the evaluation of generated networks than one full forward pass each, the published method?

    python benchmarks/generated_networks.py                                 # 100 networks x 192 images, about 6 min
    python benchmarks/generated_networks.py --images 10000 --networks 200   # with a GPU
    python benchmarks/generated_networks.py --network resnet50 --size 224 --parameters norm-last --images 64

One run, one device, the same batch of images for both: a ResNet-18 for 32 px whose `layer4.1` norms vary (p-diff's
"BN 16-18"). The published method loads the parameters of each network and runs all of it. Prints seconds, the ratio
and the share of equal predictions.
"""

import argparse
import time

import numpy as np
import torch
from torch import nn

from harness.data.transforms import as_input
from harness.models.classifiers.build import build
from harness.models.classifiers.networks import NETWORKS
from harness.weights.evaluate import IMAGES_AT_ONCE, Evaluator, share_before
from harness.weights.layout import Layout, layout_of
from harness.weights.vectors import flatten, unflatten


@torch.no_grad()
def one_by_one(
    network: nn.Module,
    layout: Layout,
    vectors_NP: torch.Tensor,
    images_MCHW: torch.Tensor,
    device: torch.device,
) -> np.ndarray:
    """Returns the predictions [N, M] of networks loaded and run one at a time."""
    rows = []
    for vector_P in vectors_NP.to(device):
        varied = unflatten(vector_P[None], layout)
        network.load_state_dict({name: value[0] for name, value in varied.items()}, strict=False)
        parts = [network(as_input(x.to(device))).argmax(1) for x in images_MCHW.split(IMAGES_AT_ONCE)]
        rows.append(torch.cat(parts).cpu().numpy())
    return np.stack(rows)


def main() -> None:
    """Prints one line per method, then the ratio."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--network", default="resnet18")
    parser.add_argument("--parameters", default="bn-16-18")
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--networks", type=int, default=100)
    parser.add_argument("--images", type=int, default=192)
    parser.add_argument("--memory-gb", type=float, default=1.0)
    chosen = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(0)
    network = NETWORKS.load(chosen.network)(name=chosen.network)
    layout = layout_of(network.outline(3, chosen.size, 10), chosen.parameters.split(), network.locations())
    settings = network.settings(3, chosen.size, 10)
    model = build(settings).to(device).eval()
    start_P = flatten(model.state_dict(), layout)
    vectors_NP = start_P + 0.05 * torch.randn(chosen.networks, layout.length)
    images = torch.randint(0, 256, (chosen.images, 3, chosen.size, chosen.size), dtype=torch.uint8)
    share, total = share_before(settings, layout.names)
    print(
        f"{chosen.network} at {chosen.size} px, {chosen.parameters} ({layout.length:,} numbers): "
        f"{total / 1e6:.1f} million multiply-accumulates, {share:.1%} before the first varied parameter; "
        f"{chosen.networks} networks, {chosen.images} images, {device}, {torch.get_num_threads()} threads"
    )
    as_input(images[:1]).to(device)
    one_by_one(model, layout, vectors_NP[:1], images, device)  # warms up
    took, found = {}, {}
    for name, way in (
        ("published", lambda: one_by_one(model, layout, vectors_NP, images, device)),
        (
            "harness",
            lambda: Evaluator(model, layout, images[0], device, memory_gb=chosen.memory_gb)(
                vectors_NP, images
            ),
        ),
    ):
        began = time.perf_counter()
        found[name] = way()
        took[name] = time.perf_counter() - began
        print(f"{name:10} {took[name]:8.1f} s")
    equal = float((found["published"] == found["harness"]).mean())
    print(f"{took['published'] / took['harness']:.1f} times faster, {equal:.4%} of predictions equal")


if __name__ == "__main__":
    main()
