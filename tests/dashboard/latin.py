"""English sentences on a page that is read in another language."""

from playwright.sync_api import Page

# Where a page puts what people and programs wrote: names, ids, code, lines of files. Everything else is ours to word.
DATA = (
    "script",
    "style",
    "noscript",
    ".material-icons",  # their text is the icon's name
    "pre",
    "code",
    ".mono",
    ".wrap",
    ".message .content",
    "select[name=language]",
    "select[name=project]",
)
DRAWN = "[...document.querySelectorAll('.chart')].every((chart) => getElement(Number(chart.id.slice(1)))?.chart)"
ATTRIBUTES = ("title", "aria-label", "placeholder", "alt", "data-label")
FIND = r"""([data, attributes]) => {
  const sentence = /(?:[A-Za-z][A-Za-z'’-]*[,.;:]?\s+){2,}[A-Za-z][A-Za-z'’-]*/;
  const isOurs = (element) => element.closest(data) === null;
  const found = [];
  const isEnglish = (text) => sentence.test(text.replace(/`[^`]*`/g, ''));
  const look = (where, text) => { if (isEnglish(text)) found.push(`${where}: ${text.trim()}`); };
  const texts = document.createTreeWalker(document.documentElement, NodeFilter.SHOW_TEXT);
  for (let node = texts.nextNode(); node !== null; node = texts.nextNode()) {
    if (isOurs(node.parentElement)) look(node.parentElement.tagName, node.data);
  }
  for (const element of document.querySelectorAll(attributes.map((name) => `[${name}]`).join(','))) {
    for (const name of attributes) if (isOurs(element)) look(`@${name}`, element.getAttribute(name) ?? '');
  }
  const words = (value) => !value || typeof value !== 'object' ? [] : Object.entries(value).flatMap(([name, inner]) =>
    ['name', 'text'].includes(name) && typeof inner === 'string' ? [inner] : words(inner));
  for (const chart of document.querySelectorAll('.chart')) {
    words(getElement(Number(chart.id.slice(1))).chart.getOption()).forEach((text) => look('chart', text));
  }
  return found;
}"""


def sentences(page: Page) -> list[str]:
    """Three or more Latin words in a row that are neither data nor in backticks, each with where it stands."""
    page.wait_for_function(DRAWN)  # a chart's words are in its library's hands, which come after the page
    return page.evaluate(FIND, [", ".join(DATA), list(ATTRIBUTES)])
