// What the pages need of the browser beyond the framework. An own file: the policy runs no script inside a tag.

// A choice in the navigation sends its form.
document.addEventListener("change", (event) => {
  if (event.target.matches?.("[data-sends-form]")) event.target.form.submit();
});

// The server asks for nothing on behalf of a tab that nobody sees.
document.addEventListener("visibilitychange", () => window.emitEvent?.("tab", !document.hidden));
