"""A page as elements, without a browser."""

from html.parser import HTMLParser

_VOID = {"meta", "link", "input", "img", "br", "hr"}


class Element:
    """A parsed element: tag, attributes, children (elements and strings)."""

    def __init__(self, tag, attributes):
        self.tag, self.attributes, self.children = tag, dict(attributes), []

    def all(self, tag=None, **attributes):
        """Elements below with that tag and those attributes; class matches one of the classes."""
        for child in self.children:
            if isinstance(child, Element):
                if (tag is None or child.tag == tag) and all(child.has(*pair) for pair in attributes.items()):
                    yield child
                yield from child.all(tag, **attributes)

    def has(self, name, value):
        found = self.attributes.get(name.rstrip("_").replace("_", "-"))
        return found is not None and (value in found.split() if name == "class_" else found == value)

    def one(self, tag=None, **attributes):
        (found,) = self.all(tag, **attributes)
        return found

    def first(self, tag=None, **attributes):
        return next(iter(self.all(tag, **attributes)))

    @property
    def text(self):
        return " ".join("".join(self._texts()).split())

    def _texts(self):
        for child in self.children:
            yield from [child] if isinstance(child, str) else child._texts()

    def rows(self):
        """The text of every cell of a table's body."""
        body = self.first("tbody")
        return [[cell.text for cell in row.all() if cell.tag in ("th", "td")] for row in body.all("tr")]


class _Parser(HTMLParser):
    def __init__(self):
        super().__init__()
        self.root = Element("", [])
        self.open = [self.root]

    def handle_starttag(self, tag, attrs):
        element = Element(tag, attrs)
        self.open[-1].children.append(element)
        if tag not in _VOID:
            self.open.append(element)

    def handle_startendtag(self, tag, attrs):
        self.open[-1].children.append(Element(tag, attrs))

    def handle_endtag(self, tag):
        assert self.open.pop().tag == tag, f"</{tag}> closes another element, line {self.getpos()}"

    def handle_data(self, data):
        self.open[-1].children.append(data)


def parse(page):
    """The page as elements; fails on elements that are not closed in order."""
    parser = _Parser()
    parser.feed(page)
    parser.close()
    assert parser.open == [parser.root]
    return parser.root
