"""Stage `candidates`: K clips of the base generator for each of a number of training prompts.

The stage keeps all that alignment needs: latents, the conditioning on text and the clips. Neither the VAE nor the text
encoder runs again after this. Each is a separate output, as training reads no video. Prompts are encoded first.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path

from components.config.params import SamplingParams
from components.contracts import BASE_GENERATOR, CANDIDATES, SOURCE_PROMPTS
from components.files.tables import write_table
from components.generator.conditioning import Conditioning
from components.generator.folder import family_of
from components.generator.images import IMAGES, EncodesImages, image_conditioning, with_images
from components.generator.prompts import TEXT, encode_ahead
from components.generator.sampler import Job, Loader, draw, prompts_of, with_settings
from components.generator.shards import save_conditioning, save_shards
from components.generator.spec import SamplerSpec
from components.pipeline.stage import Stage, folder_digest, stage_main
from components.preferences.first_frames import FirstFrame, read_first_frames
from components.preferences.prompts import sampled_prompts
from components.schemas import CANDIDATES_SCHEMA, IMAGE_FIELD

TEXT_BATCH = 64  # prompts


def candidates(stage: Stage) -> None:
    """Reads models/base_generator and data/source/prompts.csv. Writes data/candidates: clips, latents, text, their table.

    Fails with BadInput where no prompt is in the training split, and with NonFinite for a clip or an embedding that is not
    finite. Resumes from finished batches of clips.
    """
    load, params = SamplerSpec(BASE_GENERATOR, dtype=stage.params.base_generator.dtype), stage.params.candidates
    prompts = sampled_prompts(stage, "train", params.prompts)
    draw_candidates(stage, load, prompts, params.per_prompt, lambda name: stage.output(CANDIDATES / name))


def draw_candidates(
    stage: Stage,
    load: Loader,
    prompts: list[tuple[str, str]],
    per_prompt: int,
    place: Callable[[str], Path],
    what: str = "candidates",
    key: tuple[object, ...] = (),
) -> None:
    """Sample `per_prompt` clips of each (prompt_id, prompt) and write videos, latents, text and candidates.parquet to the
    paths that `place` gives. what: the state that a killed run resumes from. key: makes the seeds those of one round."""
    sampling, rows = stage.params.sampling, []
    frames = read_first_frames(SOURCE_PROMPTS, None)
    for text_row, (prompt_id, prompt) in enumerate(prompts):
        for k in range(per_prompt):
            candidate_id, seed = f"{prompt_id}-{k}", stage.seed(*key, prompt_id, k)
            row = {"candidate_id": candidate_id, "prompt_id": prompt_id, "prompt": prompt, "seed": seed}
            row |= {"path": f"videos/{candidate_id}.mp4", "row": len(rows), "text_row": text_row}
            rows.append(row | ({"image": path_of(frames, prompt)} if frames else {}))
    stage.say(f"{len(rows)} clips of {len(prompts)} training prompts")

    jobs = [Job(row["candidate_id"], row["prompt"], row["seed"], image=row.get("image")) for row in rows]
    # The empty prompt comes last: SFT and RWR drop prompts, so that the model stays usable for classifier-free guidance.
    texts = [*(prompt for _, prompt in prompts), ""]
    encoded = encode_ahead(stage.state() / what / TEXT, load, [*texts, *prompts_of(jobs, sampling)])
    latents = draw(stage, load, jobs, sampling, place("videos"), what)
    made_from = {"base generator": folder_digest(BASE_GENERATOR)}
    save_shards(latents, place("latents"), made_from)
    batches = (texts[start : start + TEXT_BATCH] for start in range(0, len(texts), TEXT_BATCH))
    images = partial(stored_images, load, frames, sampling, stage.state() / what / IMAGES) if frames else None
    parts = (encoded(batch) if images is None else with_images(encoded(batch), images(batch)) for batch in batches)
    family = family_of(BASE_GENERATOR)
    save_conditioning((with_settings(family, part, sampling) for part in parts), place("text"), made_from)
    schema = CANDIDATES_SCHEMA.append(IMAGE_FIELD) if frames else CANDIDATES_SCHEMA
    write_table(place("candidates.parquet"), rows, schema)


def stored_images(
    load: Loader, frames: dict[str, FirstFrame], sampling: SamplingParams, kept: Path, prompts: list[str]
) -> Conditioning | None:
    """First frames of prompts, which drawing has encoded already; the empty prompt's row is never read."""
    generator, _ = load()
    if isinstance(generator, EncodesImages):
        generator = generator.keeping(kept)
    any_image = next(iter(frames.values())).path
    files = [path_of(frames, prompt) if prompt else any_image for prompt in prompts]
    return image_conditioning(generator, files, sampling)


def path_of(frames: dict[str, FirstFrame], prompt: str) -> str | None:
    return frames[prompt].path if prompt in frames else None


if __name__ == "__main__":
    stage_main("candidates", candidates)
