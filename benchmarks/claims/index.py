"""The thirteen claims, by number; their order of cost is that of ORDER."""

from benchmarks.claims import (
    c01_ties,
    c02_leakage,
    c03_fractions,
    c04_methods,
    c05_schedule,
    c06_full,
    c07_weights,
    c08_noise,
    c09_overstated,
    c10_accuracy,
    c11_sampling,
    c12_motion,
    c13_judges,
)
from benchmarks.claims.design import Claim

FILES = (
    *(c01_ties, c02_leakage, c03_fractions, c04_methods, c05_schedule, c06_full, c07_weights),
    *(c08_noise, c09_overstated, c10_accuracy, c11_sampling, c12_motion, c13_judges),
)
CLAIMS: dict[int, Claim] = {file.CLAIM.number: file.CLAIM for file in FILES}
ORDER = (7, 8, 9, 11, 13, 1, 2, 3, 12, 4, 5, 6, 10)
