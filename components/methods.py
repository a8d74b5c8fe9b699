"""Alignment methods as data: titles, colours, training programs, and what each method samples with.

A method is one line of METHODS and, where it trains, one program in components/alignment/methods. Report, summary, budget,
sampling and evaluation read the table; tests/test_graph.py holds dvc.yaml to it. The module imports nothing heavy. It is no
code dep of the stages that train and sample: all they take from it is in their entries of dvc.yaml, too.
"""

from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

BASE = "base"  # the generator before alignment, with which the others are compared
HEADLINER = "dpo"  # of the report's headline: fixed in advance (the paper's method), not selected by its result


@dataclass(frozen=True)
class Training:
    """Stage `align@<method>`. program: its module. params: a section of `align`. clips: of one example, 2 for a pair.
    reference: whether the loss compares with the errors of the generator that training starts from."""

    program: str
    params: str
    clips: int = 1
    reference: bool = False


@dataclass(frozen=True)
class Method:
    """title: as printed. colour: of the report, on light and on dark ground. training: None where nothing trains.

    The method samples with `lora` (a folder), and is guided by the params section `guidance` and the model in the folder
    `reward`, which may name a key of that section in braces. program: the module of stage `sample@<method>`.
    """

    title: str
    colour: tuple[str, str]
    training: Training | None = None
    lora: str | None = None
    guidance: str | None = None
    reward: str | None = None
    program: str = "components.evaluation.sample"

    def guide(self, params: BaseModel) -> tuple[Any, str]:
        """The section of `params` and the reward model's folder that guide; ValueError for a method without guidance."""
        if self.guidance is None or self.reward is None:
            raise ValueError(f"{self.title} samples without guidance")
        section = getattr(params, self.guidance)
        return section, self.reward.format_map(section.model_dump())

    def reward_folder(self, params: BaseModel) -> str | None:
        """The folder of the reward model that guides; None without guidance."""
        return None if self.reward is None else self.guide(params)[1]


METHODS: dict[str, Method] = {
    "base": Method("Base", ("#6f6c64", "#a19d92")),
    "sft": Method(
        "SFT",
        ("#8a6a10", "#d8b24a"),
        Training("components.alignment.methods.sft", params="sft"),
        lora="models/aligned/sft",
    ),
    "rwr": Method(
        "Flow-RWR",
        ("#0f7b6c", "#57c2b0"),
        Training("components.alignment.methods.flow_rwr", params="rwr"),
        lora="models/aligned/rwr",
    ),
    "dpo": Method(
        "Flow-DPO",
        ("#a8321e", "#f08a74"),
        Training("components.alignment.methods.flow_dpo", params="dpo", clips=2, reference=True),
        lora="models/aligned/dpo",
    ),
    "nrg": Method(
        "Flow-NRG",
        ("#3c57b0", "#98acf0"),
        guidance="nrg",
        reward="models/latent_reward",
        program="components.evaluation.sample_nrg",
    ),
    "best_of_n": Method(
        "Best of N",
        ("#7b3f8c", "#d09ae0"),
        guidance="best_of_n",
        reward="models/{judge}",
        program="components.evaluation.sample_best_of_n",
    ),
}

# Methods in rounds on clips of the current policy: stages `online@<method>`, of those that `online.rounds` in params.yaml
# names. Each compares its own clips with base's, beside the stages above.
ONLINE: dict[str, Method] = {
    "nft": Method("DiffusionNFT", ("#a8321e", "#f08a74"), lora="models/online/nft"),
    "grpo": Method("Flow-GRPO", ("#3c57b0", "#98acf0"), lora="models/online/grpo"),
    "prfl": Method("PRFL", ("#7b3f8c", "#d09ae0"), lora="models/online/prfl"),
    "dpo": Method("Flow-DPO in rounds", ("#0f7b6c", "#57c2b0"), lora="models/online/dpo"),
}


def trained() -> dict[str, Training]:
    """The methods that train, by name."""
    return {name: method.training for name, method in METHODS.items() if method.training}
