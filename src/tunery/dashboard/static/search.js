// The search of every page: Ctrl-K, ⌘K or its button shows it, arrows choose, Enter opens. The server words what it finds.
const TYPING_MS = 120; // somebody who types on asks once
let lastAsked = new AbortController();
let lastFound = Promise.resolve();

const searchDialog = () => document.getElementById("search");
const searchOptions = () => [...searchDialog().querySelectorAll("[role=option]")];

function openSearch() {
  if (searchDialog() === null || searchDialog().open) return;
  searchDialog().showModal();
  searchDialog().querySelector("input").select();
  lastFound = askSearch(0);
}

// An answer that comes after a later question was asked is dropped.
async function askSearch(waitMs) {
  const dialog = searchDialog(), asked = new AbortController();
  lastAsked.abort();
  lastAsked = asked;
  await new Promise((resolve) => setTimeout(resolve, waitMs));
  if (asked.signal.aborted) return;
  const text = encodeURIComponent(dialog.querySelector("input").value);
  try {
    const answer = await fetch(`${dialog.dataset.path}?text=${text}`, { signal: asked.signal });
    if (answer.status === 401) return location.reload(); // which leads to signing in
    const found = await answer.json();
    if (!asked.signal.aborted) showFound(found);
  } catch {
    if (!asked.signal.aborted) showFound({ options: "", told: dialog.dataset.unreachable });
  }
}

function showFound(found) {
  const list = document.getElementById("search-found");
  list.innerHTML = found.options; // the server has escaped what is not ours
  searchDialog().querySelector("[role=status]").textContent = found.told;
  searchOptions().forEach((option, at) => { option.id = `search-option-${at}`; });
  list.hidden = searchOptions().length === 0;
  searchDialog().querySelector("input").ariaExpanded = String(!list.hidden);
  chooseOption(searchOptions()[0]);
}

function chooseOption(chosen) {
  searchOptions().forEach((option) => { option.ariaSelected = String(option === chosen); });
  const input = searchDialog().querySelector("input");
  if (chosen) input.setAttribute("aria-activedescendant", chosen.id);
  else input.removeAttribute("aria-activedescendant");
  chosen?.scrollIntoView({ block: "nearest" });
}

function chooseNext(by) {
  const options = searchOptions(), at = options.findIndex((option) => option.ariaSelected === "true");
  chooseOption(options[(at + by + options.length) % options.length]);
}

document.addEventListener("keydown", (event) => {
  const isShortcut = event.key.toLowerCase() === "k" && (event.ctrlKey || event.metaKey) && !event.altKey && !event.shiftKey;
  if (isShortcut && searchDialog() !== null) {
    event.preventDefault();
    if (searchDialog().open) searchDialog().close();
    else openSearch();
  } else if (event.target.matches?.("#search input") && !event.isComposing) {
    if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      event.preventDefault();
      chooseNext(event.key === "ArrowDown" ? 1 : -1);
    } else if (event.key === "Enter") {
      event.preventDefault(); // what was typed last may not be answered yet
      lastFound.then(() => searchDialog().querySelector("[aria-selected=true]")?.click());
    }
  }
});

document.addEventListener("input", (event) => {
  if (event.target.matches?.("#search input")) lastFound = askSearch(TYPING_MS);
});

document.addEventListener("click", (event) => {
  if (event.target.closest?.("[data-opens-search]")) openSearch();
  if (event.target === searchDialog()) searchDialog().close(); // beside the box
});
