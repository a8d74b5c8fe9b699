"""What further looks of the designs show about claims that do not hold or stay undecided; written after the run."""

REASONS: dict[int, list[str]] = {
    1: [
        "Thresholds are not the reason. With those that fit the test pairs best, both losses stay equal:"
        " +0.000 [-0.009, +0.010]. Thresholds of validation pairs cost both the same.",
        "BTT learns hardly more about ties. A decided pair has the larger difference of scores than a tie in 71% with BTT."
        " That is 0.7 points [-0.3, +1.7] more than with BT, which drops ties in training.",
    ],
    5: [
        "The size of beta is the reason, not its course over t. A constant beta of 500 / 3 is the schedule's mean over t."
        " It is level with the schedule: +0.003 [-0.031, +0.036] in TA, -0.038 [-0.087, +0.011] Overall.",
        "Over-training is the other one. After 20 steps the constant beta wins, Overall: +0.073 [+0.023, +0.124]. After"
        " 80 steps it loses. Both were examined after the run.",
    ],
    7: [
        "Two seeds of three are measured. Guided by MQ, they win +0.100 and -0.050 in MQ against plain sampling."
        " Latent reward models of 150 steps differ more between seeds than is assumed, so this interval is too narrow.",
        "A reason that the further looks examine: dimensions do not oppose each other here. Weights 0:0:1 win no more"
        " TA than 0.5:0.5:0 do, on the same prompts and noise. In the paper they win 44 points more.",
    ],
}
