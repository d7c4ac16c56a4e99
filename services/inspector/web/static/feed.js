// The feed beside what htmx does: the state of the connection, pause, rows that change, keys.
// Nothing here makes markup out of text: rows come escaped from the server, everything else is textContent.
"use strict";

const MOST_ROWS = 400;
const AGAIN_MS = 2000;
const part = (id) => document.getElementById(id);

let resume = null; // set while the reader has paused: lets the messages that wait go on
let paused = null; // a promise that holds them until then

function tell(text, state) {
  const told = part("told");
  if (!told || !part("rows")?.hasAttribute("hx-sse:connect")) return;
  told.textContent = text;
  told.dataset.state = state;
}

function setPaused(on) {
  const button = part("pause");
  if (!button) return;
  if (on && !paused) {
    paused = new Promise((go) => { resume = go; });
  } else if (!on && resume) {
    resume();
    paused = resume = null;
  }
  button.textContent = on ? "Go on" : "Pause";
  button.setAttribute("aria-pressed", String(on));
  tell(on ? "Paused; what comes is kept." : "Live.", on ? "paused" : "live");
}

function begin() {
  resume?.();
  paused = resume = null;
  const button = part("pause");
  if (button) {
    button.hidden = false;
    button.addEventListener("click", () => setPaused(!paused));
  }
  document.querySelectorAll(".keys").forEach((keys) => { keys.hidden = false; });
  if (!part("told").dataset.state) tell("Connecting…", "waiting"); // it may be there already
}

function trim() {
  const rows = part("rows");
  if (rows.children.length <= MOST_ROWS) return;
  while (rows.children.length > MOST_ROWS) rows.lastElementChild.remove();
  const older = part("older");
  const address = new URL(older.href);
  address.searchParams.set("before", rows.lastElementChild.dataset.id);
  older.href = address;
  older.parentElement.hidden = false;
}

function replaceRow(html) {
  const parsed = new DOMParser().parseFromString(html, "text/html").querySelector("li.row");
  const shown = parsed && part(parsed.id);
  if (!shown) return;
  const focused = shown.contains(document.activeElement);
  shown.replaceWith(parsed);
  parsed.classList.add("fresh");
  if (focused) parsed.querySelector("a").focus();
}

document.addEventListener("htmx:sse:after:connection", () => tell(paused ? "Paused; what comes is kept." : "Live.", paused ? "paused" : "live"));
document.addEventListener("htmx:sse:before:connection", (event) => {
  if (event.detail.connection.attempt > 0) tell("Not connected; trying again…", "lost");
});
document.addEventListener("htmx:sse:error", (event) => {
  if (event.detail.status === 401) logIn();
  else tell("Not connected; trying again…", "lost");
});
document.addEventListener("htmx:sse:close", (event) => {
  if (event.target.isConnected) tell("Not connected; trying again…", "lost");
});
document.addEventListener("htmx:sse:before:message", (event) => {
  if (paused) event.detail.waitUntil(paused);
});
// A row whose group has grown comes whole and anew: the one that it was is taken out.
function replaceEarlier() {
  const newest = part("rows").firstElementChild;
  if (!newest) return;
  for (const row of [...part("rows").children].slice(1)) if (row.id === newest.id) row.remove();
}

document.addEventListener("htmx:sse:after:message", () => {
  part("nothing")?.remove();
  replaceEarlier();
  trim();
});
document.addEventListener("changed", (event) => { if (event.target.id === "rows") replaceRow(event.detail.data); });
document.addEventListener("status", (event) => tell(`Live. ${event.detail.data}.`, "live"));
function warn(...said) {
  const warning = part("warning");
  warning.replaceChildren(...said);
  warning.hidden = false;
}

// No error takes the place of what is shown (htmx-config). hx-sse tries again what it has lost, not what never came.
function failed(event) {
  const { ctx } = event.detail;
  if (event.target.matches?.("form.filters")) warn(`Below is what was found before: ${reasonOf(ctx)}`);
  if (event.target.id !== "rows" || ctx.response?.status === 401) return;
  tell(`Not connected (${reasonOf(ctx)}); trying again…`, "lost");
  setTimeout(() => event.target.dispatchEvent(new Event("again")), AGAIN_MS);
}

document.addEventListener("htmx:response:error", failed);
document.addEventListener("htmx:error", (event) => { if (event.detail.ctx) failed(event); });
document.addEventListener("warning", (event) => warn(event.detail.data));
document.addEventListener("behind", (event) => {
  const again = document.createElement("a");
  again.href = location.href;
  const what = event.detail.data === "anew" ? "The log began anew" : `${event.detail.data} feedbacks came meanwhile`;
  again.textContent = `${what}. Load the page again.`;
  warn(again);
});
document.addEventListener("htmx:after:swap", (event) => {
  if (part("feed") && !part("feed").dataset.begun) {
    part("feed").dataset.begun = "yes";
    begin();
  }
});

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.target.closest("input, select, textarea")) {
    if (event.key === "Escape") event.target.blur();
    return;
  }
  const links = [...document.querySelectorAll("#rows .row > a")];
  const at = links.indexOf(document.activeElement);
  if (event.key === "j" || event.key === "k") {
    const next = event.key === "j" ? at + 1 : Math.max(at - 1, 0);
    links[Math.min(next, links.length - 1)]?.focus();
  } else if (event.key === "/") {
    event.preventDefault();
    document.querySelector("input[name=q]").focus();
  } else if (event.key === "p") {
    setPaused(!paused);
  }
});

// Who comes back from an exchange goes on at its row.
document.addEventListener("click", (event) => {
  const row = event.target.closest("#rows .row");
  if (row) history.replaceState({ ...history.state, row: row.id }, "");
});

document.addEventListener("DOMContentLoaded", () => {
  part("feed").dataset.begun = "yes";
  begin();
  if (history.state?.row) part(history.state.row)?.querySelector("a").focus();
});
