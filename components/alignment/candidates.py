"""Stage `candidates`: K clips of the base generator for each of a number of training prompts.

The stage keeps all that alignment needs: latents, the conditioning on text and the clips. Neither the VAE nor the text
encoder runs again after this. Each is a separate output, as training reads no video. Prompts are encoded first.
"""

from collections.abc import Callable
from pathlib import Path

from components.contracts import BASE_GENERATOR, CANDIDATES
from components.files.tables import write_table
from components.generator.folder import family_of
from components.generator.prompts import TEXT, encode_ahead
from components.generator.sampler import Job, Loader, draw, prompts_of, with_settings
from components.generator.shards import save_conditioning, save_shards
from components.generator.spec import SamplerSpec
from components.pipeline.stage import Stage, folder_digest, stage_main
from components.preferences.prompts import sampled_prompts
from components.schemas import CANDIDATES_SCHEMA

TEXT_BATCH = 64  # prompts


def candidates(stage: Stage) -> None:
    """Reads models/base_generator and data/source/prompts.csv. Writes data/candidates: clips, latents, text, their table.

    Fails with BadInput where no prompt is in the training split, and with NonFinite for a clip or an embedding that is not
    finite. Resumes from finished batches of clips.
    """
    load = SamplerSpec(BASE_GENERATOR, dtype=stage.params.base_generator.dtype)
    draw_candidates(stage, load, lambda name: stage.output(CANDIDATES / name))


def draw_candidates(stage: Stage, load: Loader, place: Callable[[str], Path]) -> None:
    """Sample the clips and write videos, latents, text and candidates.parquet to the paths that `place` gives."""
    params, sampling, what = stage.params.candidates, stage.params.sampling, "candidates"
    prompts = sampled_prompts(stage, "train", params.prompts)
    rows = []
    for text_row, (prompt_id, prompt) in enumerate(prompts):
        for k in range(params.per_prompt):
            candidate_id = f"{prompt_id}-{k}"
            row = {"candidate_id": candidate_id, "prompt_id": prompt_id, "prompt": prompt, "seed": stage.seed(prompt_id, k)}
            rows.append(row | {"path": f"videos/{candidate_id}.mp4", "row": len(rows), "text_row": text_row})
    stage.say(f"{len(rows)} clips of {len(prompts)} training prompts")

    jobs = [Job(row["candidate_id"], row["prompt"], row["seed"]) for row in rows]
    # The empty prompt comes last: SFT and RWR drop prompts, so that the model stays usable for classifier-free guidance.
    texts = [*(prompt for _, prompt in prompts), ""]
    encoded = encode_ahead(stage.state() / what / TEXT, load, [*texts, *prompts_of(jobs, sampling)])
    latents = draw(stage, load, jobs, sampling, place("videos"), what)
    made_from = {"base generator": folder_digest(BASE_GENERATOR)}
    save_shards(latents, place("latents"), made_from)
    batches = (texts[start : start + TEXT_BATCH] for start in range(0, len(texts), TEXT_BATCH))
    family = family_of(BASE_GENERATOR)
    save_conditioning((with_settings(family, encoded(batch), sampling) for batch in batches), place("text"), made_from)
    write_table(place("candidates.parquet"), rows, CANDIDATES_SCHEMA)


if __name__ == "__main__":
    stage_main("candidates", candidates)
