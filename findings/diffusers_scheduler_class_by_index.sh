#!/usr/bin/env bash
# diffusers 0.42.1: a pipeline's scheduler gets its class from model_index.json alone. `_class_name` in
# scheduler/scheduler_config.json is not read and not compared. So a scheduler that was saved into the folder of a pipeline
# (scheduler.save_pretrained("pipeline/scheduler")) does not come back: the old class is made from the new configuration,
# without an error. Between UniPC and Euler the shift is lost too, as one calls it flow_shift and the other shift.
#
# Seen: a Wan folder with Euler and shift 3; UniPC with flow_shift 5 saved over its scheduler; loaded again:
# FlowMatchEulerDiscreteScheduler with shift 1.0. Saved once more, the file names Euler.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    torch==2.13.0 diffusers==0.42.1 transformers==5.23.0 accelerate==1.15.0 numpy==2.4.6 ftfy==6.3.1
cd "$folder"
venv/bin/python - <<'PYTHON'
import json
from pathlib import Path

from diffusers import (
    AutoencoderKLWan,
    FlowMatchEulerDiscreteScheduler,
    UniPCMultistepScheduler,
    WanPipeline,
    WanTransformer3DModel,
)

NO_TEXT = {"text_encoder": None, "tokenizer": None}
transformer = WanTransformer3DModel(
    num_attention_heads=2, attention_head_dim=12, in_channels=4, out_channels=4, text_dim=16, freq_dim=16, ffn_dim=32, num_layers=1
)
vae = AutoencoderKLWan(
    base_dim=4, z_dim=4, dim_mult=[1, 2], num_res_blocks=1, temperal_downsample=[True], latents_mean=[0.0] * 4, latents_std=[1.0] * 4
)
euler = FlowMatchEulerDiscreteScheduler(shift=3.0)
WanPipeline(transformer=transformer, vae=vae, scheduler=euler, **NO_TEXT).save_pretrained("pipeline")
unipc = UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=5.0)
unipc.save_pretrained("pipeline/scheduler")
named = json.loads(Path("pipeline/scheduler/scheduler_config.json").read_text())["_class_name"]
loaded = WanPipeline.from_pretrained("pipeline", **NO_TEXT)
found = type(loaded.scheduler).__name__, loaded.scheduler.config.shift
loaded.save_pretrained("again")
then = json.loads(Path("again/scheduler/scheduler_config.json").read_text())["_class_name"]
print(f"the file names {named}; loaded: {found[0]} with shift {found[1]}; saved again: {then}")
assert named == "UniPCMultistepScheduler"
assert found == ("FlowMatchEulerDiscreteScheduler", 1.0) and then == "FlowMatchEulerDiscreteScheduler", "the class is read now"
PYTHON
