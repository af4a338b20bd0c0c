"""What is measured on: random models, since what they say does not matter for how long it takes."""

import random
from dataclasses import dataclass, replace
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from langchain_saffron.runtime.threads import on_own_thread


@dataclass(frozen=True)
class Shape:
    """A Llama's shape."""

    layers: int
    width: int
    heads: int
    kv_heads: int
    inner: int


@dataclass(frozen=True)
class Scenario:
    """What is measured.

    Attributes:
        policy: The policy's shape.
        reward: The reward model's.
        vocabulary: Tokens of both.
        sharp_vocabulary: Tokens of both where the policy is `sharp`.
        prompt: Prompt tokens.
        new: Tokens of an answer.
        width: Beams of the wide search.
        chats: Requests at once, where there are many.
        repeats: Rounds of the shorter measurements; the median counts.
        conversation: Tokens of a conversation that is annotated; four fifths of them are the answer.
        conversations: How many are annotated together.
        sharpness: What the policy's logits are multiplied with. Random weights find thousands of tokens nearly alike;
            a trained model's nucleus holds few.
    """

    policy: Shape = Shape(30, 576, 9, 3, 1536)
    reward: Shape = Shape(16, 512, 8, 2, 1408)
    vocabulary: int = 16_384
    sharp_vocabulary: int = 49_152
    prompt: int = 1024
    new: int = 64
    width: int = 16
    chats: int = 16
    repeats: int = 3
    conversation: int = 128
    conversations: int = 8
    sharpness: float = 1.0

    @property
    def sharp(self) -> "Scenario":
        """The same with a policy that is as sure of itself as a trained one, over as many tokens as SmolLM2 knows.

        SmolLM2's nucleus holds 7 tokens on the average of its own answers, and 2 at the median (`top_p` 0.8); this
        one's 6.5 and 6.
        """
        return replace(self, sharpness=SHARP, vocabulary=self.sharp_vocabulary)

    @property
    def guard(self) -> str:
        """What the guard of the reward model's shape is called."""
        return f"guard of width {self.reward.width}"


# logits of a standard deviation of about 7
SHARP = 15.0
FULL = Scenario()
_SMALL = Shape(2, 64, 4, 2, 128)
QUICK = Scenario(_SMALL, _SMALL, vocabulary=512, sharp_vocabulary=1536, prompt=64, new=16, repeats=1, conversation=24)


@on_own_thread
def random_model(
    shape: Shape, vocabulary: int, seed: int, device: str, dtype: torch.dtype, sharpness: float = 1.0
) -> Any:
    """A Llama of this shape with random weights, and its logits multiplied with `sharpness`.

    Sharp ones have an unembedding of their own: with that of the input, the last token would be the likeliest again.
    """
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=shape.width,
        intermediate_size=shape.inner,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        max_position_embeddings=4096,
        tie_word_embeddings=sharpness == 1,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=0,
    )
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        model.model.norm.weight.mul_(sharpness)
    return model.to(device=device, dtype=dtype).eval()


def random_tokenizer(size: int) -> Any:
    """A tokenizer of single bytes and random words, some of which begin as strings in JSON do.

    Only a grammar asks what its tokens write. It splits text into bytes, as it knows no merges.
    """
    vocabulary = {char: i for i, char in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    choice = random.Random(0)
    while len(vocabulary) < size:
        word = "".join(choice.choices("etaoinshrdlucmfwypvbgkjqxz", range(26, 0, -1), k=choice.randint(2, 9)))
        # the first is how a byte-level vocabulary writes a blank
        vocabulary.setdefault(choice.choice(["Ġ", "Ġ", "", "", "", '"']) + word, len(vocabulary))
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=backend)


def random_prompt(length: int, vocabulary: int, seed: int = 0) -> list[int]:
    """Token ids."""
    generator = torch.Generator().manual_seed(seed)
    tokens: list[int] = torch.randint(0, vocabulary, (length,), generator=generator).tolist()
    return tokens
