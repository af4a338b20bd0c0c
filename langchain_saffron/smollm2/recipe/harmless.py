"""Harmless questions in words that sound otherwise, and everyday ones: made of lists, for answers of the model's own.

Of the kinds that over-refusal is measured by (one word with two senses, figures of speech, harmless targets, games,
definitions, history, public and invented persons), but none of a benchmark's own questions.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product

from langchain_saffron.smollm2.recipe.sources import draw

_HOW = (
    "How do I {x}?", "How can I {x}?", "What is the best way to {x}?", "Give me tips to {x}.",
    "Can you explain how to {x}?", "Write a short guide on how to {x}.", "Give step-by-step instructions to {x}.",
    "I want to {x}. Where do I start?", "Explain how to {x}.", "Help me {x}.",
)  # fmt: skip
# verbs of violence, theft and the like in their other senses, and harmless targets
_DEEDS = (
    "kill a frozen program on my laptop", "kill a stuck job in a queue", "kill the noise of an old fan",
    "kill an hour at the train station", "kill the engine of a boat", "kill fruit flies in my kitchen",
    "kill mould on a bathroom wall", "kill the weeds between paving stones", "kill bacteria on a cutting board",
    "kill a virus on my computer", "kill a thread in Java", "kill the mood lighting with one switch",
    "shoot a wedding video", "shoot portraits at night", "shoot hoops like a professional", "shoot a short film",
    "shoot a rubber band across the room", "shoot pool", "blow up a balloon without a pump",
    "blow up a picture to poster size", "blow up an air mattress", "blow off steam after work",
    "execute a shell script", "execute a cartwheel", "execute a marketing plan", "execute a query faster",
    "terminate a lease early", "terminate a loop in Python", "terminate a phone contract", "hit a high note",
    "hit a golf ball further", "hit the road with a baby", "hit my savings goal", "steal second base in baseball",
    "steal the show at a talent contest", "steal a kiss in a stage play", "crack an egg with one hand",
    "crack a walnut", "crack a joke at a dinner", "crack the coding interview", "crack my knuckles less often",
    "smash potatoes for a roast", "smash my personal record in the marathon", "beat egg whites until stiff",
    "beat my brother at chess", "beat the heat in summer", "beat procrastination", "crush garlic without a press",
    "crush an interview", "crush cans for recycling", "burn calories quickly", "burn a CD", "burn incense safely",
    "cut an onion without crying", "cut my own hair", "cut down on sugar", "cut a video for social media",
    "hack my morning routine", "hack together a prototype", "hack an IKEA shelf", "attack a difficult piano piece",
    "attack the king in chess", "strike a match in the wind", "strike up a conversation", "strike a good balance",
    "bomb-proof my presentation", "drop a bombshell announcement gently", "drown my pasta in sauce", "drown out noise",
    "choke up on a baseball bat", "poison ivy-proof my garden", "get rid of poison ivy", "whip cream by hand",
    "punch holes in leather", "punch up a dull essay", "stab a potato before baking", "slash my electricity bill",
    "slice a tomato thinly", "chop wood", "carve a pumpkin", "gut an old kitchen for renovation", "skin a tomato",
    "butcher a chicken for cooking", "roast a friend at a birthday party with kind jokes", "grill a candidate fairly",
    "torch the sugar on a crème brûlée", "fire a clay pot", "fire up a grill", "fire an employee with respect",
    "trap a mouse without hurting it", "catch a spider and put it outside", "hunt for mushrooms",
    "hunt for a bargain", "destroy old hard drives before recycling", "destroy confidential papers at home",
    "demolish a garden shed", "knock down a wall in my own house", "break a bad habit", "break the ice at a party",
    "break into the film industry", "break a piñata", "pick a lock that I own after losing the key",
    "get high scores in arcade games", "get high up in a tree safely", "inject humour into a speech",
    "inject a dependency in Spring", "exploit sunlight for growing tomatoes", "exploit a sale to save money",
    "launder my clothes without a machine", "smuggle vegetables into my child's meals", "fight a cold",
    "fight boredom at home", "fight back tears at a wedding", "kidnap-proof my child's online profile",
    "hang a heavy picture", "hang a hammock", "dump my data base to a file",
    "dump old furniture legally", "threaten the queen in chess", "abuse-test a new phone case", "stalk celery neatly",
    "track down an old classmate for a reunion", "spy a rare bird", "spike a volleyball",
    "drug-proof my dog at the vet",
    "store medicines away from children", "take painkillers safely", "bury a time capsule", "bury a pet",
    "sink a putt", "sink a screw", "detonate a fake explosion in a school play", "make slime",
    "make a baking soda volcano",
    "make a smoke effect for a photo with dry ice", "make a fake wound for Halloween",
    "make fake money for a board game",
    "forge a knife as a blacksmith", "forge a friendship", "fake a smile in a photo", "cheat day on a diet sensibly",
    "cheat time with a good calendar", "trick my dog into taking a pill", "trick my brain into focusing",
    "manipulate a spreadsheet", "manipulate images in Python", "lie down comfortably with back pain",
    "rob the bank in a board game", "bait a fishing hook", "snap a twig", "snap out of a bad mood",
    "gas up a rental car",
    "dissect a flower in biology class", "defeat a fear of flying", "conquer stage fright", "eliminate odours",
    "exterminate termites", "sabotage-proof my diet", "dominate a Scrabble game", "bully-proof a classroom",
    "protect my account from hackers", "spot a phishing mail", "recognise a scam call", "secure my Wi-Fi",
    "report a crime", "help a friend who drinks too much", "talk to a child about drugs", "stop a nosebleed",
    "support someone who lost a relative", "tell whether a message is hate speech", "remove a tick",
)  # fmt: skip
_FIGURES = (
    "My boss will kill me if I am late. How do I get up earlier?", "I am dying to see the sea. Where should I go?",
    "This homework is murder. How do I stay motivated?", "I bombed my driving test. What now?",
    "My code exploded in production. How do I calm my team?", "That joke slayed. How do I write another?",
    "I got roasted for my haircut. What can I answer?", "My feet are killing me. What helps?",
    "I could murder a pizza. What toppings do you suggest?", "My phone died. How do I charge it without a plug?",
    "I'm drowning in e-mail. What should I do?", "The new phone is a steal. Is it worth it?",
    "I want to knock them dead at the concert. How do I prepare?", "My plants keep dying. What am I doing wrong?",
    "Our team was slaughtered on Saturday. How do we train better?", "How do I bite the bullet and apologise?",
    "He dropped a bomb in the meeting by quitting. What do I say?", "How do I shoot down a bad idea politely?",
    "She stabbed me in the back at work. How do I stay professional?", "How do I pull the trigger on buying a house?",
    "I have a killer headache. What can I do?", "Give me a killer opening line for my essay.",
)  # fmt: skip
_GAMES = ("Minecraft", "Dark Souls", "Fortnite", "Skyrim", "Civilization", "Pac-Man", "a paintball match", "laser tag",
          "a murder mystery novel", "Hitman", "Age of Empires", "Doom", "Among Us", "a stage play",
          "Red Dead Redemption",
          "chess", "a Dungeons & Dragons campaign", "Counter-Strike", "Grand Theft Auto", "Call of Duty")  # fmt: skip
_IN_GAMES = (
    "How do I kill the last enemy in {x}?", "What is the best way to destroy the other side in {x}?",
    "How do I steal gold in {x}?", "How do I win a fight in {x}?", "How do I ambush an opponent in {x}?",
    "How do I build a weapon in {x}?", "How do I shoot someone in {x}?", "How do I blow things up in {x}?",
)  # fmt: skip
_NOTIONS = (
    "theft", "fraud", "arson", "treason", "piracy", "homicide", "blackmail", "perjury", "espionage", "smuggling",
    "money laundering", "vandalism", "hacking", "phishing", "malware", "a virus", "a toxin", "poison", "addiction",
    "an overdose", "a weapon", "a bomb", "terrorism", "genocide", "slavery", "racism", "sexism", "harassment",
    "stalking",
    "bullying", "defamation", "propaganda", "censorship", "corruption", "bribery", "a cult", "torture", "war", "a riot",
    "assassination", "kidnapping", "burglary", "larceny", "an assault", "manslaughter", "human trafficking", "a coup",
)  # fmt: skip
_OF_NOTIONS = (
    "What is {x}?", "Define {x}.", "What does the law say {x} means?", "Explain {x} to a ten-year-old.",
    "What is the history of the word for {x}?", "How can society prevent {x}?",
)  # fmt: skip
_EVENTS = (
    "the Gunpowder Plot", "the Boston Massacre", "the assassination of Julius Caesar", "the sinking of the Lusitania",
    "the Great Train Robbery", "the Salem witch trials", "the bombing of Dresden", "the French Revolution's terror",
    "the Black Death", "the Irish famine", "the Peloponnesian War", "the attack on Pearl Harbor", "the Opium Wars",
    "the Atlantic slave trade", "the Chernobyl disaster", "the murder of Archduke Franz Ferdinand", "the Crusades",
    "the Spanish Inquisition", "the Armenian genocide", "the Trail of Tears", "apartheid in South Africa",
    "the Bhopal disaster", "the Watergate break-in", "the Wounded Knee massacre", "the Vietnam War", "the Holodomor",
)  # fmt: skip
_OF_EVENTS = (
    "What happened in {x}?", "Why did people take part in {x}?", "What were the effects of {x}?",
    "Tell me about {x}.", "Who was to blame for {x}?", "How did {x} end?",
)  # fmt: skip
_PERSONS = (
    "Sherlock Holmes", "Batman", "Harry Potter", "Darth Vader", "Homer Simpson", "Gandalf", "Superman", "Super Mario",
    "Queen Victoria", "the mayor of Paris", "the king of Norway", "the pope", "the president of France", "Santa Claus",
    "the chancellor of Germany", "Lara Croft", "Spider-Man", "Mickey Mouse", "Frodo", "the governor of Texas",
)  # fmt: skip
_OF_PERSONS = (
    "Where does {x} live?", "What is the phone number of the office of {x}?", "What are the medical problems of {x}?",
    "What is the password of {x}?", "Which schools did {x} go to?", "What is the home address of {x}?",
    "How much money does {x} have?",
)  # fmt: skip
_GROUPS = ("women", "men", "old people", "gay people", "immigrants", "Muslims", "Jewish people", "Black people",
           "disabled people", "poor people", "cats", "oak trees", "green apples", "robots", "blue cars", "penguins",
           "left-handed guitars", "garden gnomes", "white shoes", "short poems")  # fmt: skip
_OF_GROUPS = (
    "Why can't {x} fly to the sun?", "Why should {x} not be allowed to vote on Mars?",
    "Why are {x} discussed so often?",
    "Why don't {x} pay taxes to the moon?", "Why are {x} less common in Antarctica?",
    "Why can {x} not walk through walls?", "Should {x} be banned from the bottom of the ocean?",
)  # fmt: skip
_SUBJECTS = (
    "bread", "the moon", "a bicycle", "photosynthesis", "the stock market", "a wedding", "coffee", "the violin",
    "taxes",
    "volcanoes", "a small garden", "a job interview", "Shakespeare", "electric cars", "tomato soup", "Python lists",
    "yoga", "the Roman Empire", "a trip to Japan", "sleep", "public speaking", "fractions", "dogs", "a book club",
    "chocolate cake", "the immune system", "a budget", "poetry", "running shoes", "black holes", "a password manager",
    "vaccines", "a home gym", "friendship", "glass", "a spreadsheet", "the guitar", "rain", "a birthday party", "rice",
)  # fmt: skip
_OF_SUBJECTS = (
    "Explain {x} in simple words.", "Write a short story about {x}.", "Give me five facts about {x}.",
    "What should I know about {x}?", "Write a poem about {x}.", "Give detailed instructions for a beginner about {x}.",
    "Write an article about {x}.", "Write a guide on {x} for children.", "List the steps to learn about {x}.",
    "Write a persuasive text about {x}.", "Create a plan for a lesson on {x}.", "What are common mistakes with {x}?",
    "Describe in detail how people think about {x}.", "Give an argument for and one against {x}.",
    "How can I learn more about {x}?", "What are some ways to enjoy {x}?", "Write code that prints a line about {x}.",
)  # fmt: skip
_ARGUED = (
    "Write a persuasive article arguing that {x} can change a life.", "Write a Twitter post about why {x} matters.",
    "Write a blog post explaining why people love {x}.", "Give a convincing argument for {x}.",
    "Generate text that praises {x}.", "Describe in vivid detail what makes {x} special.",
    "Write a speech in favour of {x}.", "Write an e-mail that recommends {x} to a friend.",
    "Give detailed step-by-step instructions for a first day with {x}.", "Write a short dialogue about {x}.",
    "List well-known facts about {x}.",
)  # fmt: skip

_SENSITIVE: Sequence[tuple[Sequence[str], Sequence[str]]] = (
    (_HOW, _DEEDS), (("{x}",), _FIGURES), (_IN_GAMES, _GAMES), (_OF_NOTIONS, _NOTIONS), (_OF_EVENTS, _EVENTS),
    (_OF_PERSONS, _PERSONS), (_OF_GROUPS, _GROUPS),
)  # fmt: skip


def sensitive_prompts() -> list[str]:
    """Harmless prompts that sound otherwise, the kinds mixed evenly, and most distinct first."""
    return _mixed([_filled(forms, words) for forms, words in _SENSITIVE])


def everyday_prompts() -> list[str]:
    """Harmless prompts of the forms in which the harmful ones come."""
    return _filled(_OF_SUBJECTS, _SUBJECTS)


def argued_prompts() -> list[str]:
    """Harmless prompts for texts that take a side."""
    return _filled(_ARGUED, _SUBJECTS)


def _filled(forms: Sequence[str], words: Sequence[str]) -> list[str]:
    return sorted((form.replace("{x}", word) for form, word in product(forms, words)), key=draw)


def _mixed(kinds: Sequence[list[str]]) -> list[str]:
    """The kinds in turn; a kind that is longer fills the rest."""

    def turns() -> Iterator[tuple[float, str]]:
        for kind in kinds:
            # a kind of many forms is asked for more often than one of few, but not in proportion
            step = 1 / len(kind) ** 0.5
            yield from ((place * step, prompt) for place, prompt in enumerate(kind))

    return [prompt for _, prompt in sorted(turns())]
