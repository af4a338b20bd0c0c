"""Words and values that conversations about tools and passages are filled with: known ones and made-up ones."""

from __future__ import annotations

from random import Random

_SYLLABLES = (
    "ba", "be", "bo", "ca", "co", "da", "de", "do", "el", "fa", "fi", "ga", "go", "ha", "in", "ka", "ki", "la", "le",
    "lo", "ma", "me", "mi", "mo", "na", "ne", "no", "or", "pa", "pe", "ra", "re", "ri", "ro", "sa", "se", "si", "so",
    "ta", "te", "ti", "to", "un", "va", "vi", "wa", "wo", "ya", "zu", "st", "ther", "ing", "ton", "ber", "fran",
)  # fmt: skip
_ADJECTIVES = (
    "small", "big", "red", "blue", "new", "old", "quick", "warm", "cold", "formal", "happy", "sad", "pirate", "polite",
    "short", "long", "sunny", "quiet", "famous", "local", "cheap", "fresh", "green", "black", "white", "royal",
)  # fmt: skip
_NOUNS = (
    "table", "company", "shop", "garden", "school", "river", "market", "teacher", "house", "cat", "dog", "train",
    "letter", "doctor", "farm", "bridge", "song", "plate", "window", "technology", "street", "cook", "baker", "poem",
    "greeting", "story", "customer", "list", "message", "city", "office", "team", "party", "book",
)  # fmt: skip
_SCRIPTS = (
    "的一是不了人我在有他这中大来上国个到说们为子和你地出道也时年得就那要下以生会自着去之过家学对可她里后小么心多天而能好都然没日于起还发成事只作当想看文无开手十用主行方又如前所本见经头面公同三已老从动两长知民样现分将外但身些与高意进把法此实回二理美点月明其种声全工己话儿者向情部正名定女问力机给等几很业最间新什打便位因重被走电四第门相次东政海口使教西再平真听世气信北少关并内加化由却代军产入先山五太水万市眼体别处总才场师书比住员九笑性通目华报立马命张活难神数件安表原车白应路期叫死常提感金何更反合放做系计或司利受光王果亲界及今京务制解各任至清物台象记边共风战干接它许八特觉望直服毛林题建南度统色字请交爱让认算论百吃义科怎元社术结六功指思非流每青管夫连远资队跟带花快条院变联言权往展该领传近留红治决周保达办运武半候七必城父强步完革深区即求品士转量空甚众技轻程告江语英基派满式李息写呢识极令黄德收脸钱党倒未持取设始版双历越史商千片容研像找友孩站广改议形委早房音火际则首单据导影失拿网香似斯专石若兵弟谁校读志飞观争究包组造落视济喜离虽坏兴切团集",
    "あいうえおかきくけこさしすせそたちつてとなにぬねのはひふへほまみむめもやゆよらりるれろわをんアイウエオカキクケコサシスセソタチツテト株式会社東京大阪",
    "абвгдежзийклмнопрстуфхцчшщыэюя", "äöüßéèñçøåîôêàáíóúžšč", "αβγδεζηθικλμνξοπρστυφχψω", "😀🍕🌿🔥🎉🍋🐟🥕",
    "가나다라마바사아자차카타파하고노도로모보소오조초",
)  # fmt: skip
_NUMBER_KEYS = ("minutes", "count", "amount", "size", "weight", "price", "age", "year", "degrees", "servings", "level")


def made_up(rng: Random, least: int = 2, most: int = 3) -> str:
    """A word that nobody knows."""
    return "".join(rng.choice(_SYLLABLES) for _ in range(rng.randint(least, most)))


def known(rng: Random) -> str:
    """A word from the lists."""
    return rng.choice(_ADJECTIVES + _NOUNS)


def name(rng: Random) -> str:
    """A proper name: one to three capitalised words, perhaps with what follows a comma."""
    words = [made_up(rng).capitalize() for _ in range(rng.choice((1, 1, 2, 2, 3)))]
    tail = f", {''.join(chr(65 + rng.randrange(26)) for _ in range(2))}" if rng.random() < 0.3 else ""
    return " ".join(words) + tail


def foreign(rng: Random) -> str:
    """A name in another script."""
    letters = rng.choice(_SCRIPTS[:2]) if rng.random() < 0.6 else rng.choice(_SCRIPTS)
    return "".join(rng.choice(letters) for _ in range(rng.randint(2, 7)))


def phrase(rng: Random) -> str:
    """A few plain words."""
    return " ".join(known(rng) if rng.random() < 0.7 else made_up(rng) for _ in range(rng.randint(1, 4)))


def described(rng: Random) -> str:
    """Such as "a small technology company"."""
    return f"a {rng.choice(_ADJECTIVES)} {rng.choice(_ADJECTIVES)} {rng.choice(_NOUNS)}"


def noun(rng: Random) -> str:
    """One thing."""
    return rng.choice(_NOUNS)


def number_key(rng: Random) -> str:
    """The name of something counted."""
    return rng.choice(_NUMBER_KEYS)
