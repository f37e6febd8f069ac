"""What the package's author runs: the contract suite, with the network driven by hand to compare with."""

import torch
from diffusers import DDIMScheduler, DDPMScheduler

from harness.testing.backbones import BackboneFamilyContract
from mixer.network import MixerModel

NULL = torch.tensor([10])


class TestMixer(BackboneFamilyContract):
    size = 8
    channels = 1

    def save(self, folder, seed):
        torch.manual_seed(seed)
        MixerModel().save_pretrained(folder / "mixer")
        process = DDPMScheduler(num_train_timesteps=100, prediction_type="v_prediction")
        process.save_pretrained(folder / "scheduler")

    def pipeline_pass(self, folder, z_BCHW, plan, step):
        network = MixerModel.from_pretrained(folder / "mixer")
        return network, lambda: network(z_BCHW, torch.tensor([step]), NULL)

    def pipeline_samples(self, folder, start_BCHW, plan):
        network = MixerModel.from_pretrained(folder / "mixer")
        sampler = DDIMScheduler.from_pretrained(folder / "scheduler")
        sampler.set_timesteps(plan.timesteps)
        z_BCHW = start_BCHW
        with torch.no_grad():
            for step in sampler.timesteps:
                v_BCHW = network(z_BCHW, step[None], NULL)
                z_BCHW = sampler.step(v_BCHW, step, z_BCHW, use_clipped_model_output=True).prev_sample
        return z_BCHW.clamp(-1, 1)
