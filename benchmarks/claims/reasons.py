"""What was found about claims that do not hold here, by further looks of the designs; written after the run."""

REASONS: dict[int, list[str]] = {}
