"""A small model that says given tokens, for tests of what becomes of an answer."""

from collections.abc import Sequence
from typing import Any

import torch
from langchain_core.messages import BaseMessage, HumanMessage
from transformers import AutoModelForCausalLM, GPT2Config

from langchain_saffron import ChatSaffron, MultifurcationRewardModel, SaffronEngine

WIDTH = 64


def scripted_model(vocabulary: int, places: int, said: Sequence[int], begin: int, end: int) -> Any:
    """A causal LM that says `said`, whatever it reads, from the place `begin` on.

    Args:
        vocabulary: Rows of its embedding.
        places: The longest text.
        said: Token ids.
        begin: Length of the prompt.
        end: Its end token.
    """
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=vocabulary,
        n_embd=WIDTH,
        n_layer=1,
        n_head=1,
        n_positions=places,
        eos_token_id=end,
        bos_token_id=None,
        tie_word_embeddings=False,
    )
    model = AutoModelForCausalLM.from_config(config).eval()
    body = model.transformer
    with torch.no_grad():
        body.wte.weight.zero_()
        body.wpe.weight.copy_(torch.nn.functional.normalize(torch.randn(places, WIDTH)))
        for block in body.h:
            for layer in (block.attn.c_proj, block.mlp.c_proj):
                layer.weight.zero_()
                layer.bias.zero_()
        places_seen = body.ln_f(body.wpe.weight)
        model.lm_head.weight.zero_()
        for step, token in enumerate(said):
            model.lm_head.weight[token] += places_seen[begin - 1 + step]
    model.generation_config.eos_token_id = end
    return model


def scripted_chat(
    tokenizer: Any,
    answer: str | Sequence[int],
    *,
    end: str = "<|im_end|>",
    prompt: Sequence[BaseMessage] = (HumanMessage("Hi"),),
    tools: Sequence[dict[str, Any]] = (),
    seen: Sequence[int] | None = None,
    judging: bool = False,
    **options: Any,
) -> ChatSaffron:
    """A chat model that answers `prompt` with a text whose control strings are control tokens, then ends its turn.

    Args:
        tokenizer: With a chat template.
        answer: The text, or its tokens.
        end: Its end token.
        prompt: The conversation.
        tools: That come with it.
        seen: What a reward model that finds everything safe was shown; `None` for no reward model.
        judging: Whether its rewards are random, but depend on what it reads.
        **options: Fields of `ChatSaffron`.
    """
    said = tokenizer(answer, add_special_tokens=False).input_ids if isinstance(answer, str) else list(answer)
    last = tokenizer.convert_tokens_to_ids(end)
    mrm = None
    if seen is not None:
        shown = torch.zeros(len(tokenizer), dtype=torch.bool)
        shown[[i for i in seen if i < len(shown)]] = True
        judge = _judge(len(tokenizer)) if judging else scripted_model(len(tokenizer), 1024, [], 1, last)
        mrm = MultifurcationRewardModel(judge, tokenizer, torch.zeros(len(tokenizer)), shown)
    engine = SaffronEngine(scripted_model(len(tokenizer), 1024, [], 1, last), tokenizer, mrm)
    options = {"effort": "off", "max_tokens": len(said) + 4, **options}
    probe = ChatSaffron(engine=engine, **options)
    begin = len(probe.renderer().render(list(prompt), list(tools)).policy_ids)
    policy = scripted_model(len(tokenizer), 1024, [*said, last], begin, last)
    return ChatSaffron(engine=SaffronEngine(policy, tokenizer, mrm), **options)


def _judge(vocabulary: int) -> Any:
    torch.manual_seed(1)
    config = GPT2Config(vocab_size=vocabulary, n_embd=WIDTH, n_layer=2, n_head=2, n_positions=1024, bos_token_id=None)
    return AutoModelForCausalLM.from_config(config).eval()
