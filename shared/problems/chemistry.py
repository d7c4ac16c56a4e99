"""The kinds of the generated chemistry problems.

Six of the eight formulas carry a constant that the question does not tell: a student who was never shown it
hardly ever samples a correct rollout, and only a peer can tell it.
"""

from shared.problems.kinds import Kind

CHEMISTRY = (
    Kind(
        name="solute",
        quantity="solute",
        formula="molarity * volume",
        numbers={"molarity": range(2, 10), "volume": range(2, 13)},
        templates=(
            "{volume} liters of {thing} have a molarity of {molarity}. How many moles of solute are there?",
            "The molarity of {thing} is {molarity}. How many moles of solute are in {volume} liters?",
            "Find the moles of solute in {volume} liters of {thing} with a molarity of {molarity}.",
        ),
        things=(
            "salt water",
            "acid",
            "sugar water",
            "a base",
            "a dye",
            "bleach",
            "lemon juice",
            "cleaner",
        ),
        concepts=("molarity",),
        wrong_formulas=("molarity / volume", "volume / molarity", "molarity + volume", "volume - molarity"),
    ),
    Kind(
        name="neutrons",
        quantity="neutrons",
        formula="mass number - protons",
        numbers={"mass number": range(5, 20), "protons": range(2, 10)},
        templates=(
            "An atom in {thing} has mass number {mass number} and {protons} protons. How many neutrons?",
            "Find the neutrons of an atom in {thing} with {protons} protons and mass number {mass number}.",
            "With {protons} protons and mass number {mass number}, how many neutrons has an atom of {thing}?",
        ),
        things=("a crystal", "a gas", "a metal", "a rock", "a powder", "an alloy", "a wire", "a salt"),
        concepts=("protons", "neutrons"),
        wrong_formulas=(
            "mass number + protons",
            "protons",
            "mass number",
            "mass number / protons",
        ),
    ),
    Kind(
        name="pOH",
        quantity="pOH",
        formula="14 - pH",
        numbers={"pH": range(4, 13)},
        templates=(
            "The pH of {thing} is {pH}. What is its pOH?",
            "Find the pOH of {thing} with a pH of {pH}.",
            "{thing} was measured at pH {pH}. What is the pOH?",
            "What pOH has {thing} at pH {pH}?",
        ),
        things=("a soap", "a cleaner", "a bath", "a juice", "an extract", "a paste", "a stew", "a broth"),
        concepts=("pOH",),
        wrong_formulas=("7 - pH", "pH + 14", "10 - pH", "pH", "pH * 2"),
        guessable=False,
    ),
    Kind(
        name="alkane",
        quantity="hydrogens",
        formula="2 * carbons + 2",
        numbers={"carbons": range(2, 10)},
        templates=(
            "An alkane in {thing} has {carbons} carbons. How many hydrogens does it have?",
            "How many hydrogens are in an alkane with {carbons} carbons from {thing}?",
            "{thing} contains an alkane of {carbons} carbons. Find its hydrogens.",
        ),
        things=("petrol", "wax", "natural gas", "diesel", "a candle", "crude oil", "a lighter", "tar"),
        concepts=("alkane",),
        wrong_formulas=("2 * carbons", "4 * carbons", "carbons + 2", "2 * carbons - 2", "3 * carbons"),
        guessable=False,
    ),
    Kind(
        name="sulfur",
        quantity="atoms",
        formula="8 * sulfur",
        numbers={"sulfur": range(2, 11)},
        templates=(
            "{thing} holds {sulfur} molecules of solid sulfur. How many atoms are these?",
            "How many atoms are in {sulfur} molecules of solid sulfur from {thing}?",
            "Find the atoms in {sulfur} molecules of solid sulfur in {thing}.",
        ),
        things=("a volcano", "a match", "gunpowder", "a mine", "a hot spring", "a tyre", "a filter", "a crater"),
        concepts=("sulfur",),
        wrong_formulas=("sulfur", "2 * sulfur", "sulfur + 8", "6 * sulfur", "16 * sulfur"),
        guessable=False,
    ),
    Kind(
        name="combustion",
        quantity="carbon dioxide",
        formula="6 * glucose",
        numbers={"glucose": range(2, 11)},
        templates=(
            "{thing} burns {glucose} moles of glucose. How many moles of carbon dioxide form?",
            "How many moles of carbon dioxide form when {thing} burns {glucose} moles of glucose?",
            "Find the moles of carbon dioxide from {glucose} moles of glucose burned in {thing}.",
        ),
        things=("a muscle", "a yeast", "a flame", "a cell", "a bird", "an oven", "a mouse", "a fuel cell"),
        concepts=("glucose",),
        wrong_formulas=("glucose", "2 * glucose", "glucose + 6", "3 * glucose", "12 * glucose"),
        guessable=False,
    ),
    Kind(
        name="ammonia",
        quantity="hydrogen",
        formula="3 * nitrogen",
        numbers={"nitrogen": range(2, 13)},
        templates=(
            "{thing} makes ammonia from {nitrogen} moles of nitrogen. How many moles of hydrogen are needed?",
            "How many moles of hydrogen does {thing} need to turn {nitrogen} moles of nitrogen into ammonia?",
            "To make ammonia in {thing} from {nitrogen} moles of nitrogen, find the moles of hydrogen.",
        ),
        things=("a factory", "a reactor", "a lab", "a plant", "a pilot unit", "a vessel", "a tank", "a farm"),
        concepts=("ammonia",),
        wrong_formulas=("2 * nitrogen", "nitrogen", "nitrogen + 3", "nitrogen / 2", "4 * nitrogen"),
        guessable=False,
    ),
    Kind(
        name="tenfold dilution",
        quantity="water",
        formula="9 * sample",
        numbers={"sample": range(2, 11)},
        templates=(
            "A sample of {sample} ml of {thing} is diluted tenfold. How many ml of water are added?",
            "How many ml of water dilute a {sample} ml sample of {thing} tenfold?",
            "{sample} ml of {thing} get a tenfold dilution. Find the ml of water to add.",
        ),
        things=("acid", "ink", "juice", "vinegar", "syrup", "serum", "bleach", "a dye"),
        concepts=("tenfold",),
        wrong_formulas=("10 * sample", "sample / 10", "sample + 10", "sample - 1", "sample + 9"),
        guessable=False,
    ),
)
