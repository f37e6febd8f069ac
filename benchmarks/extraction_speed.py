"""How fast is feature extraction from an ADM-sized network, and how close to the device's limit?

    python benchmarks/extraction_speed.py                                   # ADM at 256 px on a GPU
    python benchmarks/extraction_speed.py --width 32 --size 64 --images 64 --batch 16 --blocks 6,24   # on a CPU

Extracts features of random images with random weights, in one run: in plain eager float32, contiguous, without the
harness (one block, the published method of one pass per setting), and with `harness.features.extract`, on a GPU in
bfloat16 and channels-last, all blocks from one pass. The device's limit is measured on large matrix products in the
same number format. A multiply-accumulate counts as one operation.
"""

import argparse
import time
from collections.abc import Callable

import numpy as np
import torch

from harness.features.extract import extract
from harness.models.backbones.adm import ADM
from harness.models.backbones.blocks import multiplications
from harness.models.backbones.denoiser import Denoiser
from harness.models.backbones.family import blocks, build_network
from harness.models.backbones.unet import FAMILY
from harness.models.noise_processes.process import process_of

MATRIX = {"cuda": 8192, "cpu": 1024}


def seconds(work: Callable[[], object], device: torch.device, repeats: int = 3) -> float:
    """Returns the seconds of the fastest of several repeats, after a warm-up."""
    best = float("inf")
    for repeat in range(repeats + 1):
        began = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize()
        if repeat:
            best = min(best, time.perf_counter() - began)
    return best


def matrix_rate(kind: torch.dtype, device: torch.device) -> float:
    """Returns the multiply-accumulates per second of a large matrix product."""
    side = MATRIX[device.type]
    a, b = (torch.randn(side, side, device=device, dtype=kind) for _ in range(2))
    return side**3 / seconds(lambda: a @ b, device, repeats=10)


def main() -> None:
    """Prints one line per method."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--blocks", default="6,9,15,19,24,30,33")
    chosen = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    adm = ADM(
        path="", image_size=chosen.size, num_channels=chosen.width, channel_mult=[1, 1, 2, 2, 4, 4],
        num_head_channels=min(64, chosen.width), attention_resolutions=[chosen.size // s for s in (8, 16, 32)],
        use_new_attention_order=False, noise_schedule="linear", diffusion_steps=1000,
    )  # fmt: skip
    config, process = adm.unet(), process_of(adm.scheduler())
    torch.manual_seed(0)
    network = build_network(config)
    table = blocks(config)
    wanted = [table[int(number) - 1] for number in chosen.blocks.split(",")]
    passed = multiplications(table[: wanted[-1].number])
    images = np.random.default_rng(0).integers(0, 256, (chosen.images, 3, chosen.size, chosen.size), np.uint8)
    index = np.arange(chosen.images)
    print(f"{torch.cuda.get_device_name() if device.type == 'cuda' else 'CPU'}, batches of {chosen.batch}")
    print(f"one pass up to block {wanted[-1].number}: {passed / 1e9:.1f} G multiply-accumulates")

    plain = Denoiser(FAMILY, network, process)
    plain.network.to(device)
    plain.device = device
    read = plain.reader([wanted[-1].name])

    def published() -> None:
        with torch.no_grad():
            for begin in range(0, chosen.images, chosen.batch):
                x = torch.from_numpy(images[begin : begin + chosen.batch]).to(device).float() / 127.5 - 1
                steps = torch.full((len(x),), 90, device=device)
                read(plain.noised(x, torch.randn_like(x), steps), 90)[wanted[-1].name].mean((2, 3)).cpu()

    rows = [("plain float32, one block", seconds(published, device), torch.float32)]
    read.remove()
    ours = Denoiser(FAMILY, network, process).to(device)
    taps = [(block.name, min(4, block.size)) for block in wanted]
    kinds = {"float32": torch.float32, "bfloat16": torch.bfloat16}
    if device.type == "cpu":
        del kinds["bfloat16"]  # few CPUs support it natively
    for precision, kind in kinds.items():

        def harness(precision: str = precision) -> None:
            extract(
                ours,
                images,
                index,
                timestep=90,
                taps=taps,
                draws=1,
                seed=0,
                batch=chosen.batch,
                precision=precision,
            )

        rows.append((f"harness {precision}, {len(wanted)} blocks", seconds(harness, device), kind))
    rates = {kind: matrix_rate(kind, device) for kind in kinds.values()}
    for name, took, kind in rows:
        rate = chosen.images / took
        share = rate * passed / rates[kind]
        print(
            f"{name:28s} {rate:9.1f} images/s  {rate * passed / 1e12:7.3f} T/s, {share:5.1%} of the matrix rate "
            f"({rates[kind] / 1e12:.2f} T/s)  {rows[0][1] / took:5.2f} x plain"
        )


if __name__ == "__main__":
    main()
