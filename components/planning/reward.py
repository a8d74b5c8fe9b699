"""What VideoReward costs: its training and a clip scored, from shapes alone.

Operations are two a weight and token or patch, and four a pair of tokens and channel in attention. Text is taken as four
characters a token, and clips as the generator's.
"""

from dataclasses import dataclass
from pathlib import Path

from components.config.params import Params
from components.files.text import read_json
from components.planning.costs import ADAM, BYTES, known
from components.reward.backbones.protocol import Sizes
from components.reward.backbones.registry import backbone_class
from components.reward.inputs import PatchShape
from components.video.frames import FramePlan

CHARACTERS = 4  # a token


@dataclass(frozen=True)
class RewardCosts:
    """Parameters; operations of scoring a clip, and of a clip's part of a training step; bytes by part while training and
    of the weights while scoring; clips that are scored together at most, and bytes alive a clip."""

    parameters: int
    forward: float
    step: float
    training: dict[str, float]
    scoring: dict[str, float]
    at_once: int
    alive: float

    def scored(self, clips: int) -> float:
        """Bytes of activations while these are scored."""
        return min(clips, self.at_once) * self.alive


def reward_costs(params: Params, sizes: Sizes) -> RewardCosts:
    """Costs of the profile's model; sizes: those of reward_sizes."""
    own = params.reward
    language, vision, shape = sizes.language, sizes.vision, sizes.patch_shape
    patches, in_a_frame = patches_of(params, shape)
    tokens = patches // shape.merge**2 + len(Path(own.template).read_text()) // CHARACTERS
    reads = 2 * language.weights * tokens + 4 * tokens**2 * language.width * language.layers
    sees = 2 * vision.weights * patches + 4 * patches * in_a_frame * vision.width * vision.layers
    sees += 2 * sizes.merger * patches // shape.merge**2
    lora = sum(own.lora.rank * (read + made) for name, read, made in sizes.linear if name in own.lora.targets)
    again = own.gradient_checkpointing
    # The tower trains whole; in the language model only gradients of activations and of the LoRA are computed.
    step = (3 + again) * sees + (2 + again) * reads + (3 + again) * 2 * lora * tokens
    tower = vision.weights + sizes.merger
    width = 2 if own.training.precision == "bf16" else 4
    kept = [
        (language.layers, tokens * language.width, tokens * (6 * language.width + 4 * language.inner)),
        (vision.layers, patches * vision.width, patches * (8 * vision.width + 2 * vision.inner)),
    ]
    # Residuals are in float32; a layer's own tensors in what passes are in.
    inputs = 2 if own.offload else None  # the others wait in the host's memory
    activations = sum(4 * (inputs or n) * entry + width * layer * (1 if again else n) for n, entry, layer in kept)
    held = BYTES[own.dtype]
    alive = held * max(
        tokens * (4 * language.width + 3 * language.inner), patches * (6 * vision.width + 2 * vision.inner)
    )  # of one layer
    return RewardCosts(
        parameters=sizes.parameters,
        forward=reads + sees,
        step=step,
        training={
            "frozen weights": (sizes.parameters - tower) * float(BYTES[own.dtype]),
            "weights of the tower": tower * 4.0,
            "gradients and Adam of the tower": tower * (ADAM - 4.0),
            "LoRA and Adam": lora * float(ADAM),
            "activations": 2.0 * own.training.batch_size * activations,
        },
        scoring={"VideoReward": sizes.parameters * float(held)},
        at_once=max(1, own.token_budget // tokens),
        alive=float(alive),
    )


def reward_sizes(params: Params) -> Sizes:
    """Of the folder's model, or of that in infra/architectures where it is not here."""
    folder = Path(params.reward.base)
    file = folder / "config.json"
    config = read_json(file) if file.exists() else known(params, folder, "reward.base")["reward"]
    return backbone_class(file, config).sizes(config)


def patches_of(params: Params, shape: PatchShape) -> tuple[int, int]:
    """Patches of a clip of the generator's size, and of each temporal patch of it."""
    sampling = params.sampling
    plan = FramePlan(**params.reward.frames.model_dump(), factor=shape.factor)
    height, width = plan.resize(sampling.height, sampling.width)
    in_a_frame = (height // shape.size) * (width // shape.size)
    frames = plan.count(sampling.frames, float(sampling.fps))
    return -(-frames // shape.temporal) * in_a_frame, in_a_frame
