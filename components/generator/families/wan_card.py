"""Model card and pipeline that a pretrained generator of the demo carries in its folder, for sampling with diffusers."""

import shutil
from pathlib import Path

from components.config.params import SamplingParams
from components.generator.families import wan_pipeline

CARD = """---
library_name: diffusers
pipeline_tag: text-to-video
---

# A small Wan generator of {tokens} text tokens

It draws clips of {width} x {height} pixels and {frames} frames in the shapes world of Reelign. Transformer, VAE and text
encoder are diffusers' and transformers' own classes.

`WanPipeline` pads prompts with zeros to 512 tokens by default, and the transformer attends to them. This one was trained on
{tokens}. The folder has a pipeline that pads to {tokens} by default:

```python
from diffusers import DiffusionPipeline

folder = "models/base_generator"  # this folder
pipeline = DiffusionPipeline.from_pretrained(folder, custom_pipeline=folder, trust_remote_code=True)
size = {{"height": {height}, "width": {width}, "num_frames": {frames}}}
sampling = {{"num_inference_steps": {steps}, "guidance_scale": {guidance}}}
clip = pipeline("a red circle moving up", **size, **sampling).frames[0]
```

`WanPipeline` itself draws the same clips with `max_sequence_length={tokens}`:

```python
from diffusers import WanPipeline

pipeline = WanPipeline.from_pretrained("models/base_generator")
size = {{"height": {height}, "width": {width}, "num_frames": {frames}}}
sampling = {{"num_inference_steps": {steps}, "guidance_scale": {guidance}}}
clip = pipeline("a red circle moving up", **size, **sampling, max_sequence_length={tokens}).frames[0]
```

The scheduler of the folder (diffusers 0.42) takes Euler steps with shift {shift}, as Reelign does. A LoRA of
`models/aligned/` goes on top: `pipeline.load_lora_weights("models/aligned/dpo")`.
"""


def write_card(folder: Path, tokens: int, sampling: SamplingParams) -> None:
    """Write README.md and pipeline.py to the folder of a generator that was trained on `tokens` text tokens."""
    shutil.copyfile(wan_pipeline.__file__, folder / "pipeline.py")
    text = CARD.format(tokens=tokens, guidance=sampling.guidance_scale, **sampling.model_dump())
    (folder / "README.md").write_text(text)
