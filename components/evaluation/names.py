"""Names of methods, judges and dimensions as report and summary print them."""

METHOD_NAMES = {
    "base": "Base",
    "sft": "SFT",
    "rwr": "Flow-RWR",
    "dpo": "Flow-DPO",
    "nrg": "Flow-NRG",
    "best_of_n": "Best of N",
}
JUDGE_NAMES = {"gold": "gold judge", "reward": "VideoReward"}
BY_JUDGE = {"gold": "the gold judge", "reward": "VideoReward"}  # in a sentence
DIMENSION_NAMES = {"VQ": "visual quality", "MQ": "motion quality", "TA": "text alignment", "Overall": "all of them together"}
LEGEND = "VQ visual quality, MQ motion quality, TA text alignment, Overall all of them together"
