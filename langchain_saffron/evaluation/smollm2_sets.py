"""SmolLM2 for `saffron evaluate`: importing this registers its set, which holds no harmful prompt."""

from langchain_saffron.embedded import SMOLLM2_NAME
from langchain_saffron.evaluation.datasets import SampleSet, register_dataset
from langchain_saffron.evaluation.sample import Sample
from langchain_saffron.smollm2.recipe.harmless import everyday_prompts, sensitive_prompts
from langchain_saffron.smollm2.recipe.sources import is_held_out


def smollm2_questions(count: int) -> list[Sample]:
    """Harmless questions that no model was trained on: half of them sound otherwise, the others are everyday ones."""
    borderline, everyday = (
        [prompt for prompt in prompts if is_held_out(prompt)] for prompts in (sensitive_prompts(), everyday_prompts())
    )
    return [
        *(
            Sample(f"sensitive-{i}", "smollm2-sensitive", "borderline", ({"role": "user", "content": prompt},))
            for i, prompt in enumerate(borderline[: (count + 1) // 2])
        ),
        *(
            Sample(f"everyday-{i}", "smollm2-everyday", "benign", ({"role": "user", "content": prompt},))
            for i, prompt in enumerate(everyday[: count // 2])
        ),
    ]


register_dataset(SMOLLM2_NAME, SampleSet(smollm2_questions, judge="refusal", max_tokens=96, model=SMOLLM2_NAME))
