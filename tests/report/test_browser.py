"""The page in a real browser: nothing asked of a network, no error, filtered and stepped through by keys."""

import pytest

EXAMPLES = "#list > article:not([hidden])"


def expect(locator):
    from playwright.sync_api import expect  # here: it takes half a second, and every process collects this file

    return expect(locator)


def numbers(tab):
    return tab.eval_on_selector_all(EXAMPLES, "all => all.map(one => one.dataset.direction + one.dataset.number)")


def ranks(tab):
    return tab.eval_on_selector_all(EXAMPLES, "all => all.map(one => Number(one.dataset.rank))")


def focused(tab):
    return tab.evaluate("document.activeElement.dataset.direction + document.activeElement.dataset.number")


def open_all(tab):
    while tab.is_visible("#more"):
        tab.click("#more")


def test_examples_open_twenty_at_a_time(opened):
    tab = opened()
    assert tab.text_content("#count") == "40 of 40 examples"
    first = numbers(tab)
    assert len(first) == 20
    assert tab.locator("article.example").count() == 20  # the others are text, not elements that are hidden
    assert tab.text_content("#more") == "Show 20 more: 20 of 40 are open"
    tab.click("#more")
    assert numbers(tab)[:20] == first
    assert len(set(numbers(tab))) == 40
    assert focused(tab) == numbers(tab)[20]
    assert not tab.is_visible("#more")
    tab.select_option("#order", "best")
    assert len(numbers(tab)) == 20
    assert tab.is_visible("#more")


def test_filters_find_what_is_not_open_yet(opened):
    tab = opened()
    open_ones = set(numbers(tab))
    open_all(tab)
    all_of_t2i = {name for name in numbers(tab) if name.startswith("t2i")}
    assert all_of_t2i - open_ones
    tab.reload()
    tab.select_option("#direction", "t2i")
    assert tab.text_content("#count") == "20 of 40 examples"
    assert set(numbers(tab)) == all_of_t2i
    assert not tab.is_visible("#more")


def test_the_page_is_not_tall_until_it_is_asked_for(opened):
    tab = opened(viewport={"width": 360, "height": 800})
    height = "document.querySelector('#examples').getBoundingClientRect().height"
    before = tab.evaluate(height)
    tab.click("#more")
    assert before < 0.6 * tab.evaluate(height)


def test_filters(opened):
    tab = opened()
    assert tab.text_content("#count") == "40 of 40 examples"
    open_all(tab)
    everything = numbers(tab)
    tab.select_option("#direction", "i2t")
    assert numbers(tab) == [name for name in everything if name.startswith("i2t")]
    tab.select_option("#direction", "")
    tab.fill("#words", "ALERT(1)")
    assert 1 <= len(numbers(tab)) < 40
    assert all(
        "alert(1)" in text for text in tab.eval_on_selector_all(EXAMPLES, "all => all.map(one => one.textContent)")
    )
    tab.fill("#words", "no caption has this")
    assert tab.text_content("#count") == "0 of 40 examples"
    tab.fill("#words", "")
    tab.fill("#least", "2")
    tab.fill("#most", "9")
    assert set(ranks(tab)) <= set(range(2, 10))
    assert len(ranks(tab)) > 1
    tab.click("#filter button[type=reset]")
    expect(tab.locator("#count")).to_have_text("40 of 40 examples")
    tab.select_option("#outcome", "gained")
    tags = tab.eval_on_selector_all(EXAMPLES, "all => all.map(one => one.dataset.tags)")
    assert tags
    assert all("gained" in of.split() for of in tags)


def test_order(opened):
    tab = opened()
    open_all(tab)
    assert ranks(tab) == sorted(ranks(tab), reverse=True)
    tab.select_option("#order", "best")
    open_all(tab)
    assert len(ranks(tab)) == 40
    assert ranks(tab) == sorted(ranks(tab))
    tab.select_option("#order", "file")
    open_all(tab)
    found = [(name[:3], int(name[3:])) for name in numbers(tab)]
    assert found == sorted(found)


def test_keys(opened):
    tab = opened()
    order = numbers(tab)
    tab.keyboard.press("j")
    assert focused(tab) == order[0]
    tab.keyboard.press("j")
    tab.keyboard.press("ArrowDown")
    assert focused(tab) == order[2]
    tab.keyboard.press("k")
    tab.keyboard.press("ArrowUp")
    tab.keyboard.press("k")
    assert focused(tab) == order[0]
    tab.keyboard.press("/")
    tab.keyboard.type("cat j/")
    assert tab.input_value("#words") == "cat j/"  # keys are letters again in a field
    tab.keyboard.press("Escape")
    expect(tab.locator("#count")).to_have_text("40 of 40 examples")
    assert tab.input_value("#words") == ""
    tab.keyboard.press("j")
    assert tab.evaluate("document.activeElement.matches('article.example')")


def test_keys_step_on_to_what_is_not_open_yet(opened):
    tab = opened()
    for _ in range(21):
        tab.keyboard.press("j")
    assert len(numbers(tab)) == 40
    assert focused(tab) == numbers(tab)[20]
    below_the_navigation = "document.activeElement.getBoundingClientRect().top >= 0"
    tab.keyboard.press("k")
    assert tab.evaluate(below_the_navigation)


def test_every_control_is_reached_by_tab(opened):
    tab = opened()
    tab.keyboard.press("Tab")
    assert tab.evaluate("document.activeElement.className") == "skip"
    assert tab.evaluate("document.activeElement.getBoundingClientRect().left") >= 0  # seen once it is reached
    reached = set()
    for _ in range(60):
        tab.keyboard.press("Tab")
        reached.add(tab.evaluate("document.activeElement.id"))
        assert tab.evaluate("getComputedStyle(document.activeElement).outlineStyle") != "none"
        if "order" in reached:
            break
    assert {"theme", "words", "direction", "outcome", "least", "most", "order"} <= reached
    names = tab.eval_on_selector_all(
        "input, select, button",
        "all => all.map(one => one.getAttribute('aria-label') || one.textContent || one.labels[0].textContent)",
    )
    assert all(name.strip() for name in names)


def luminance(tab, selector, what):
    """Relative luminance (WCAG 2) of a computed colour."""
    colour = tab.eval_on_selector(selector, f"one => getComputedStyle(one).{what}")
    parts = [float(part) / 255 for part in colour[colour.index("(") + 1 : -1].split(",")[:3]]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_light_and_dark(opened, scheme):
    tab = opened(color_scheme=scheme)
    paper = luminance(tab, "body", "backgroundColor")
    assert (paper < 0.05) == (scheme == "dark")
    for selector, what in [("body", "color"), (".note", "color"), ("nav a", "color"), ("svg.figure text", "fill")]:
        darker, lighter = sorted((paper, luminance(tab, selector, what)))
        assert (lighter + 0.05) / (darker + 0.05) >= 4.5, selector
    other = "light" if scheme == "dark" else "dark"
    assert tab.text_content("#theme") == f"Use {other} colours"
    tab.click("#theme")
    assert tab.text_content("#theme") == f"Use {scheme} colours"
    assert (luminance(tab, "body", "backgroundColor") < 0.05) == (other == "dark")
    tab.reload()
    assert tab.text_content("#theme") == f"Use {scheme} colours"
    assert (luminance(tab, "body", "backgroundColor") < 0.05) == (other == "dark")
    tab.click("#theme")  # back to the system's, which is followed from here on
    tab.emulate_media(color_scheme=other)
    expect(tab.locator("#theme")).to_have_text(f"Use {scheme} colours")
    assert (luminance(tab, "body", "backgroundColor") < 0.05) == (other == "dark")


def test_print_keeps_the_figures_and_drops_the_controls(opened):
    tab = opened(color_scheme="dark")
    tab.emulate_media(media="print")
    assert luminance(tab, "body", "backgroundColor") == 1
    assert not tab.is_visible("#filter")
    assert tab.is_visible("#results table")


def test_without_scripts_everything_is_shown(opened):
    tab = opened(java_script_enabled=False)
    assert tab.locator("article.example").count() == 40
    assert not tab.is_visible("#filter")
