"""A small world for generated data: scenes of concepts, and sentences that speak of parts of a scene.

Holds words and grammar only; features and files are in `synthetic`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from itm_fast.data.readers.precomp import CAPTIONS_PER_IMAGE

Words = tuple[str, ...]
"""Ways to say one concept; the first is its name."""


def _table(text: str) -> tuple[Words, ...]:
    return tuple(tuple(word.replace("_", " ") for word in entry.split("|")) for entry in text.split())


_PEOPLE = _table(
    "man|guy|gentleman woman|lady boy|lad girl child|kid|toddler worker|workman soldier|trooper cyclist|biker "
    "chef|cook policeman|officer musician|performer farmer firefighter|fireman doctor dancer student|pupil "
    "fisherman|angler waiter|server"
)
_ANIMALS = _table(
    "dog|puppy cat|kitten horse|pony cow|bull sheep|lamb goat elephant bear|cub zebra giraffe duck monkey|ape pig|hog "
    "rabbit|bunny lion|lioness"
)
_PERSON_LOOKS = _table("young elderly|old tall smiling|grinning tired cheerful|happy blond|fair-haired barefoot")
_ANIMAL_LOOKS = _table("brown black white spotted small|little large|big fluffy|furry wet|soaked")
_COLOURS = _table("red|crimson blue green yellow orange purple|violet pink black white brown gray|grey golden")
_THING_LOOKS = _COLOURS + _table("wooden plastic metal broken|damaged huge|enormous tiny|miniature striped rusty")
_GARMENTS = _table("shirt|top jacket|coat hat|cap sweater|pullover scarf apron helmet vest uniform|outfit")
_THINGS = _table(
    "ball bench umbrella|parasol bicycle|bike car|automobile truck|lorry guitar table|desk chair|stool box|crate "
    "ladder kite boat|canoe suitcase|bag skateboard bucket|pail basket lamp|lantern cart|wagon tent statue|sculpture "
    "bottle drum fence|railing piano motorcycle|motorbike sign|signpost surfboard tire sofa|couch clock barrel|keg"
)
_ACTIONS = _table(  # first alone ("is running"), the others before a thing
    "staring|looking_at|staring_at playing|playing_with standing|standing_next_to|standing_by "
    "walking|walking_past|strolling_past sitting|sitting_beside|resting_beside running|running_toward|rushing_toward "
    "jumping|jumping_over|leaping_over straining|pulling|dragging wandering|carrying|moving lying_down|lying_beside "
    "climbing|climbing_over|climbing_onto stretching|reaching_for waiting|waiting_by|waiting_next_to "
    "sleeping|sleeping_beside|napping_by dancing|dancing_around hiding|hiding_behind"
)
_PLACES = _table(
    "on_the_beach|at_the_seaside in_a_park on_the_street|along_the_street in_a_kitchen in_the_snow "
    "in_a_field|in_a_meadow near_a_lake|by_a_lake in_the_mountains at_a_market in_a_garden on_a_bridge in_the_desert "
    "in_a_forest|in_the_woods at_a_station in_a_stadium on_a_rooftop in_a_library in_a_garage on_a_farm at_an_airport "
    "in_a_classroom on_a_playground in_a_museum at_a_harbor in_a_restaurant|in_a_diner by_a_waterfall in_a_parking_lot "
    "on_a_stage"
)
_TIMES = _table(
    "at_night|after_dark at_sunset|at_dusk in_the_rain|during_a_shower on_a_sunny_day|in_bright_sunlight "
    "in_the_fog|in_thick_fog in_the_morning on_a_windy_day on_a_cloudy_day|under_a_gray_sky"
)
_NEAR: Words = ("next to", "near", "behind", "in front of", "beside")  # said, but not drawn

# (share, sentence); five different ones an image
_SENTENCES = (
    (0.8, "{actor} {do}"),
    (1.0, "{actor} {act} {thing}"),
    (1.0, "{actor} is {do} {place}"),
    (1.3, "{actor} is {act} {thing} {place}"),
    (1.0, "{actor} {dressed} is {do} {place}"),
    (1.0, "{place} , {actor} is {act} {thing}"),
    (1.0, "there is {other} {near} {actor} {place}"),
    (1.0, "{actor} and {partner} {near} {thing}"),
    (1.0, "{actor} is {act} {thing} while {partner} is {partner_do}"),
    (0.7, "{thing} and {other} {place} {time}"),
    (0.9, "{time} , {actor} {dressed} is {act} {thing} {place} while {partner} is {partner_do} {near} {other}"),
)
_SHARES = np.array([share for share, _ in _SENTENCES]) / sum(share for share, _ in _SENTENCES)


@dataclass(frozen=True)
class Scene:
    """What one image shows; every field names a concept with all its wordings."""

    actor: Words
    actor_look: Words
    action: Words
    garment: Words
    garment_colour: Words
    thing: Words
    thing_look: Words
    place: Words
    partner: Words
    partner_look: Words
    partner_action: Words
    other: Words
    other_look: Words
    time: Words

    def elements(self) -> list[Words]:
        """Names of the concepts of each part of the image, the most telling parts first."""
        parts = (
            (self.actor, self.actor_look, self.action),
            (self.thing, self.thing_look),
            (self.place,),
            (self.garment, self.garment_colour),
            (self.partner, self.partner_look, self.partner_action),
            (self.other, self.other_look),
            (self.time, self.place),
        )
        return [tuple(concept[0] for concept in part) for part in parts]


def pick(rng: np.random.Generator, options: Sequence[Words]) -> Words:
    """One of the options, each as likely."""
    return options[int(rng.integers(len(options)))]


def _say(rng: np.random.Generator, words: Words) -> str:
    return words[int(rng.integers(len(words)))]


def draw_scene(split_index: int, rng: np.random.Generator) -> Scene:
    """Draw what one image shows.

    Args:
        split_index: 0 train, 1 dev, 2 test: no (actor, action, thing, place) of one ever occurs in another.
        rng: Source of all choices.

    Returns:
        The scene.
    """
    actors = _PEOPLE + _ANIMALS
    while True:
        codes = [int(rng.integers(len(table))) for table in (actors, _ACTIONS, _THINGS, _PLACES)]
        if {0: 2, 1: 1}.get(sum(codes) % 8, 0) == split_index:  # of eight classes, one is kept for test, one for dev
            break
    actor, partner, person = actors[codes[0]], pick(rng, actors), codes[0] < len(_PEOPLE)
    return Scene(
        actor=actor,
        actor_look=pick(rng, _PERSON_LOOKS if person else _ANIMAL_LOOKS),
        action=_ACTIONS[codes[1]],
        garment=pick(rng, _GARMENTS) if person else ("collar",),
        garment_colour=pick(rng, _COLOURS),
        thing=_THINGS[codes[2]],
        thing_look=pick(rng, _THING_LOOKS),
        place=_PLACES[codes[3]],
        partner=partner,
        partner_look=pick(rng, _PERSON_LOOKS if partner in _PEOPLE else _ANIMAL_LOOKS),
        partner_action=pick(rng, _ACTIONS),
        other=pick(rng, _THINGS),
        other_look=pick(rng, _THING_LOOKS),
        time=pick(rng, _TIMES),
    )


def _noun_phrase(rng: np.random.Generator, noun: Words, look: Words) -> str:
    phrase = _say(rng, noun) if rng.random() < 0.3 else f"{_say(rng, look)} {_say(rng, noun)}"
    vowel = phrase[0] in "aeiou" and not phrase.startswith("uni")
    return f"{'an' if vowel else 'a'} {phrase}"


def _sentence(scene: Scene, pattern: str, rng: np.random.Generator) -> str:
    garment = _noun_phrase(rng, scene.garment, scene.garment_colour)
    text = pattern.format(
        actor=_noun_phrase(rng, scene.actor, scene.actor_look),
        act=_say(rng, scene.action[1:]),
        do=scene.action[0],
        dressed=f"with {garment}" if scene.garment == ("collar",) else f"in {garment}",
        thing=_noun_phrase(rng, scene.thing, scene.thing_look),
        place=_say(rng, scene.place),
        partner=_noun_phrase(rng, scene.partner, scene.partner_look),
        partner_do=scene.partner_action[0],
        other=_noun_phrase(rng, scene.other, scene.other_look),
        near=_say(rng, _NEAR),
        time=_say(rng, scene.time),
    )
    return text[0].upper() + text[1:] + (" ." if rng.random() < 0.9 else "")


def scene_captions(scene: Scene, rng: np.random.Generator) -> list[str]:
    """Five captions of different construction, each of a part of the scene.

    Args:
        scene: What there is to speak of.
        rng: Source of all choices.

    Returns:
        Five sentences with their punctuation set off by spaces, as Flickr30K's are.
    """
    chosen = rng.choice(len(_SENTENCES), CAPTIONS_PER_IMAGE, replace=False, p=_SHARES)
    return [_sentence(scene, _SENTENCES[int(index)][1], rng) for index in chosen]
