"""The kitchen's tables: ingredients, dishes, units, and what is true of them."""

from __future__ import annotations

# name: (kind, taste, place, days, herb, two partners)
INGREDIENTS: dict[str, tuple[str, str, str, int, str, tuple[str, str]]] = {
    "pumpkin": ("vegetable", "sweet and nutty", "pantry", 30, "sage", ("ginger", "cream")),
    "leek": ("vegetable", "mild and sweet", "fridge", 7, "thyme", ("potato", "cream")),
    "potato": ("vegetable", "earthy", "pantry", 21, "rosemary", ("leek", "butter")),
    "carrot": ("vegetable", "sweet", "fridge", 14, "dill", ("ginger", "honey")),
    "tomato": ("fruit", "bright and juicy", "pantry", 5, "basil", ("garlic", "cheese")),
    "mushroom": ("fungus", "deep and savoury", "fridge", 4, "thyme", ("garlic", "cream")),
    "spinach": ("leaf", "green and fresh", "fridge", 3, "nutmeg", ("cheese", "lemon")),
    "cabbage": ("vegetable", "fresh and a little sharp", "fridge", 14, "dill", ("apple", "butter")),
    "onion": ("vegetable", "sharp, then sweet", "pantry", 30, "thyme", ("cheese", "butter")),
    "garlic": ("bulb", "strong and warm", "pantry", 30, "parsley", ("tomato", "butter")),
    "pepper": ("fruit", "sweet and crisp", "fridge", 7, "oregano", ("tomato", "rice")),
    "courgette": ("vegetable", "mild", "fridge", 5, "mint", ("lemon", "cheese")),
    "aubergine": ("fruit", "soft and smoky", "fridge", 5, "oregano", ("tomato", "garlic")),
    "beetroot": ("root", "sweet and earthy", "fridge", 14, "dill", ("apple", "cheese")),
    "parsnip": ("root", "sweet and nutty", "fridge", 14, "sage", ("honey", "apple")),
    "celery": ("vegetable", "fresh and crisp", "fridge", 10, "parsley", ("apple", "walnut")),
    "fennel": ("bulb", "fresh and sweet", "fridge", 7, "dill", ("orange", "fish")),
    "lentil": ("pulse", "earthy", "pantry", 300, "cumin", ("carrot", "tomato")),
    "chickpea": ("pulse", "nutty", "pantry", 300, "cumin", ("lemon", "spinach")),
    "bean": ("pulse", "mild and soft", "pantry", 300, "oregano", ("tomato", "rice")),
    "rice": ("grain", "mild", "pantry", 300, "saffron", ("bean", "fish")),
    "saffron": ("spice", "warm and floral", "pantry", 300, "thyme", ("rice", "fish")),
    "chicken": ("meat", "mild and savoury", "fridge", 2, "tarragon", ("lemon", "garlic")),
    "beef": ("meat", "deep and savoury", "fridge", 3, "rosemary", ("onion", "mushroom")),
    "lamb": ("meat", "strong and warm", "fridge", 3, "rosemary", ("mint", "potato")),
    "fish": ("fish", "light and fresh", "fridge", 1, "dill", ("lemon", "fennel")),
    "salmon": ("fish", "full and soft", "fridge", 1, "dill", ("lemon", "spinach")),
    "egg": ("egg", "mild and full", "fridge", 21, "chives", ("cheese", "spinach")),
    "cheese": ("cheese", "savoury and salty", "fridge", 14, "chives", ("apple", "walnut")),
    "apple": ("fruit", "sweet and crisp", "fridge", 30, "cinnamon", ("cheese", "honey")),
    "pear": ("fruit", "sweet and soft", "fridge", 7, "cinnamon", ("walnut", "cheese")),
    "plum": ("fruit", "sweet and sharp", "fridge", 5, "cinnamon", ("orange", "honey")),
    "cherry": ("fruit", "sweet and juicy", "fridge", 4, "vanilla", ("cream", "walnut")),
    "lemon": ("fruit", "sour and bright", "fridge", 21, "mint", ("honey", "fish")),
    "orange": ("fruit", "sweet and bright", "fridge", 14, "mint", ("fennel", "honey")),
    "banana": ("fruit", "sweet and soft", "pantry", 5, "vanilla", ("honey", "walnut")),
    "walnut": ("nut", "nutty and a little bitter", "pantry", 90, "cinnamon", ("pear", "honey")),
    "ginger": ("root", "hot and bright", "fridge", 21, "mint", ("carrot", "lemon")),
}

# kind of dish: (method, minutes, how to serve, months in the freezer, days in the fridge)
FORMS: dict[str, tuple[str, int, str, int, int]] = {
    "soup": ("simmer it in stock", 25, "hot with bread", 3, 4),
    "stew": ("cook it slowly in stock", 60, "hot with potatoes", 3, 4),
    "salad": ("toss it with oil and vinegar", 5, "cold", 0, 1),
    "pie": ("bake it under pastry", 40, "warm", 2, 3),
    "curry": ("cook it in coconut milk", 30, "hot with rice", 3, 3),
    "risotto": ("stir it into the rice with stock", 20, "at once", 0, 2),
    "pasta": ("fry it in oil and add the pasta", 15, "hot with cheese", 1, 2),
    "tart": ("bake it in a crisp crust", 35, "warm", 2, 3),
    "omelette": ("fold it into beaten eggs", 6, "at once", 0, 1),
    "sandwich": ("layer it on toasted bread", 5, "at once", 0, 1),
    "gratin": ("bake it with cream", 45, "hot", 2, 3),
    "bread": ("knead it into the dough and bake it", 50, "warm with butter", 3, 4),
    "dip": ("blend it with oil and lemon", 10, "cold with bread", 1, 3),
    "cordial": ("boil it with sugar and water", 15, "cold with ice", 6, 14),
}
STYLES = ("", "", "", "simple ", "quick ", "spicy ", "creamy ", "roasted ", "classic ", "light ")
STATES = {
    "fresh": "in a paper bag",
    "cooked": "in a closed box",
    "chopped": "in a damp cloth",
    "frozen": "in a sealed bag",
}
KINDS = {
    "herb": lambda name: (INGREDIENTS[name][4],),
    "spice": lambda name: ("pepper and a pinch of salt", INGREDIENTS[name][4]),
    "side": lambda name: INGREDIENTS[name][5],
    "flavour": lambda name: INGREDIENTS[name][5],
}
UNITS = {
    "cup": ("millilitre", 240), "tablespoon": ("millilitre", 15), "teaspoon": ("millilitre", 5),
    "ounce": ("gram", 28), "pound": ("gram", 454), "pint": ("millilitre", 568), "quart": ("millilitre", 946),
    "litre": ("millilitre", 1000), "kilogram": ("gram", 1000), "stick": ("gram", 113),
}  # fmt: skip
PEOPLE = (
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "twelve",
    "4",
    "6",
    "8",
    "10",
    "15",
    "20",
)
SWAPS = {"onion": "leek", "butter": "oil", "cream": "yoghurt", "garlic": "chives", "salt": "lemon", "cheese": "nuts"}
DISHES = (
    "pancakes", "lasagne", "pizza", "sushi", "paella", "pesto", "hummus", "waffles", "muffins", "brownies", "scones",
    "tacos", "chilli", "porridge", "granola", "gnocchi", "ravioli", "goulash", "falafel", "burgers", "meatballs",
    "gazpacho", "ratatouille", "tiramisu", "custard", "fudge", "jam", "pickles", "noodles", "dumplings", "polenta",
    "cheesecake", "crumble", "biscuits", "fried rice", "mashed potatoes", "garlic bread", "french toast", "ice cream",
)  # fmt: skip
