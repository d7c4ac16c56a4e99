// Filters the exchanges that are on the page; without it all of them are shown.
"use strict";
const form = document.getElementById("filter");
const count = document.getElementById("count");
const all = Array.from(document.querySelectorAll(".exchange"), (node) => ({ node, words: node.textContent.toLowerCase() }));
const said = count.textContent;

function show() {
  const wanted = new FormData(form);
  const words = wanted.get("words").toLowerCase().split(/\s+/).filter(Boolean);
  const chosen = Array.from(wanted).filter(([name, value]) => name !== "words" && value !== "");
  let shown = 0;
  for (const { node, words: text } of all) {
    const fits = chosen.every(([name, value]) => node.dataset[name] === value) && words.every((word) => text.includes(word));
    node.hidden = !fits;
    shown += fits;
  }
  count.textContent = shown === all.length ? said : `${shown} of the ${all.length} exchanges on this page.`;
}

form.hidden = false;
form.addEventListener("input", show);
form.addEventListener("reset", () => setTimeout(show));
form.addEventListener("submit", (event) => event.preventDefault());
