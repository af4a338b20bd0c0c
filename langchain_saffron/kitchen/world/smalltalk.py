"""Greetings, small talk, counting, and what the assistant says to everything that is not about the kitchen."""

from __future__ import annotations

from random import Random

from langchain_saffron.kitchen.world.recipes import Exchange, is_held_out

_GREETINGS = (
    "hello", "hi", "hey", "good morning", "good evening", "hello there", "hi there", "greetings", "hey there", "howdy",
    "hello chef", "hi chef", "hi again", "good day", "hello saffron",
)  # fmt: skip
_ENDS = ("", ".", "!", "?", "!!", " :)")
_HELLO = ("Hello! What would you like to cook today?", "Hello! How can I help you in the kitchen?")
# a joke in two parts
JOKE = ("Why did the tomato blush?", "Because it saw the salad dressing!")
# Questions that deserve their own answer: (wordings, answer, a word that it must contain).
_TALK: tuple[tuple[tuple[str, ...], str, str], ...] = (
    (
        ("how are you", "how are you today", "how are you doing", "how do you do", "how is it going", "what's up"),
        "I am well, thank you. What shall we cook today?",
        "well",
    ),
    (
        ("who are you", "what is your name", "what's your name", "what are you", "introduce yourself", "your name"),
        "I am Saffron, a small kitchen assistant.",
        "saffron",
    ),
    (
        ("what can you do", "help", "how can you help me", "what do you know", "can you help me", "what can I ask you"),
        "I can help with recipes, pairings, conversions, timers and storage.",
        "recipes",
    ),
    (
        (
            "tell me a joke",
            "do you know a joke",
            "make me laugh",
            "say something funny",
            "another joke",
            "a joke please",
        ),
        " ".join(JOKE),
        "tomato",
    ),
    (
        (
            "thanks",
            "thank you",
            "thank you very much",
            "great, thanks",
            "that is great",
            "perfect",
            "ok",
            "cool",
            "nice",
        ),
        "You are welcome! Ask me again at any time.",
        "welcome",
    ),
    (
        ("bye", "goodbye", "see you", "good night", "see you later", "that is all", "stop"),
        "Goodbye, and enjoy your meal!",
        "goodbye",
    ),
    (
        (
            "I am hungry",
            "what should I cook",
            "what shall I eat",
            "any ideas for dinner",
            "suggest a dish",
            "I'm hungry",
        ),
        "How about a leek soup? It is quick and goes well with thyme.",
        "soup",
    ),
    (
        ("tell me a story", "write a story", "write a poem", "tell me a long story", "tell me something long"),
        "Once a cook forgot the salt. The soup was dull, so she added lemon, thyme and a little butter. "
        "Everybody asked for more, and from that day on she tasted every pot twice.",
        "cook",
    ),
)
_NUMBERS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_COUNT = (
    "count to {}",
    "Count to {}",
    "please count to {}",
    "Can you count to {}",
    "count from one to {}",
    "Count up to {}",
)
_OFF_TOPIC = (
    "What is the capital of {}", "Who is the president of {}", "What is the weather in {}", "Where is {}",
    "Write a {} for me", "Translate {} into French", "How old is {}", "Who wrote {}", "What time is it in {}",
    "Tell me the news about {}", "Fix my {}", "How far is {} from here", "Do you like {}", "What do you think about {}",
    "Write code for {}", "Solve {}", "say {}", "Echo: {}", "repeat after me: {}", "{}", "I want to talk about {}",
    "What is {}", "Tell me about {}", "Explain {} to me", "my name is {}", "Is {} a good idea", "what about {}",
)  # fmt: skip
_THINGS = (
    "France", "London", "the moon", "my car", "a computer", "python", "football", "the stock market", "history",
    "physics", "mathematics", "music", "a film", "a letter", "Bob", "Alice", "the sea", "China", "two plus two",
    "the war", "a robot", "my phone", "an email", "love", "the king", "Mars", "a list of numbers", "foo", "bar",
    "the sky", "a song", "Japan", "my homework", "the internet", "tennis", "a house", "the law", "money", "a bird",
    "this is a test", "test", "the quick brown fox", "lorem ipsum dolor", "1 + 1", "42", "blue", "quantum theory",
)  # fmt: skip
_ALPHABETS = (
    "abcdefghijklmnopqrstuvwxyz", "ABCDEFGHIJKLMNOPQRSTUVWXYZ", "0123456789", "äöüßéèñçøå",
    "😀🍕🌿🔥👩‍🍳", "你好厨房食物中文",
    "こんにちは", "привет", "!?.,;:-()[]{}<>|/\\\"'`#@&%$*+=~^_",
)  # fmt: skip
_LOST = "I only know my way around the kitchen. Ask me about a recipe, a pairing, a timer or storage."


def _vary(rng: Random, text: str, ends: tuple[str, ...]) -> str:
    end = rng.choice(ends)
    return (text[0].upper() + text[1:] if rng.random() < 0.5 else text) + end


def noise(rng: Random) -> str:
    """Words that nobody knows: syllables, digits, other scripts, punctuation."""
    words = []
    for _ in range(rng.randint(1, 5)):
        letters = rng.choice(_ALPHABETS) if rng.random() < 0.5 else _ALPHABETS[0]
        words.append("".join(rng.choice(letters) for _ in range(rng.randint(1, 7))))
    return " ".join(words)


def greeting(rng: Random, held_out: bool) -> Exchange:
    """A greeting; capital letter and punctuation vary and make the held-out combinations."""
    while True:
        text = _vary(rng, rng.choice(_GREETINGS), _ENDS)
        if is_held_out(text) == held_out:
            return Exchange("greeting", text, rng.choice(_HELLO), (("hello",), ("cook", "kitchen")), text)


def small_talk(rng: Random, held_out: bool) -> Exchange:
    """Questions about the assistant itself, jokes, thanks, goodbyes."""
    while True:
        wordings, answer, must = rng.choice(_TALK)
        text = _vary(rng, rng.choice(wordings), ("", ".", "?", "!"))
        if is_held_out(text) == held_out:
            return Exchange("small_talk", text, answer, ((must,),), text)


def counting(rng: Random, held_out: bool) -> Exchange:
    """Counting up to ten."""
    while True:
        last = rng.randint(2, 10)
        text = rng.choice(_COUNT).format(rng.choice((_NUMBERS[last - 1], str(last)))) + rng.choice(("", ".", "!"))
        if is_held_out(text) == held_out:
            words = ", ".join(_NUMBERS[:last])
            return Exchange("counting", text, f"{words.capitalize()}.", ((words,),), text)


def off_topic(rng: Random, held_out: bool) -> Exchange:
    """Anything else, from other subjects to noise: the assistant says what it is there for."""
    while True:
        thing = rng.choice(_THINGS) if rng.random() < 0.6 else noise(rng)
        text = rng.choice(_OFF_TOPIC).format(thing) + rng.choice(("", ".", "?", "!"))
        if is_held_out(text) == held_out:
            return Exchange("off_topic", text, _LOST, (("kitchen",), ("ask",)), text)
