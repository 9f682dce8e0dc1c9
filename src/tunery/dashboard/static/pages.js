// What the pages need of the browser beyond the framework. An own file: the policy runs no script inside a tag.

// A choice in the navigation sends its form.
document.addEventListener("change", (event) => {
  if (event.target.matches?.("[data-sends-form]")) event.target.form.submit();
});

// The server asks for nothing on behalf of a tab that nobody sees.
document.addEventListener("visibilitychange", () => window.emitEvent?.("tab", !document.hidden));

// While the server is away nothing can be typed that it would never hear of; what was typed before, it has kept.
const heldFields = new Set();
addEventListener("DOMContentLoaded", () => {
  const popup = document.getElementById("popup"); // the framework's, shown as long as it has no connection
  new MutationObserver(() => {
    heldFields.forEach((field) => { field.readOnly = false; });
    heldFields.clear();
    if (popup.ariaHidden !== "false") return;
    document.querySelectorAll("input:not([readonly]), textarea:not([readonly])").forEach((field) => {
      field.readOnly = true;
      heldFields.add(field);
    });
  }).observe(popup, { attributeFilter: ["aria-hidden"] });
});

// Told when a job has ended, by the browser itself: asked for by a click, never unasked. "granted", "denied", or
// "unsupported" where the browser has no notifications, as on an address that is neither https nor this machine.
async function askToNotify() {
  if (!window.isSecureContext || !("Notification" in window)) return "unsupported";
  return Notification.permission === "default" ? Notification.requestPermission() : Notification.permission;
}

function tellEnd(title, body) {
  const told = new Notification(title, { body, tag: location.pathname });
  told.onclick = () => { window.focus(); told.close(); };
}
