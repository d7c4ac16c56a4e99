// Keys of an exchange's page: the same links as the page has.
"use strict";

document.querySelectorAll(".keys").forEach((keys) => { keys.hidden = false; });
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input, select, textarea")) return;
  const rel = { j: "next", ArrowRight: "next", k: "prev", ArrowLeft: "prev" }[event.key];
  if (rel && !(event.key.startsWith("Arrow") && event.target.closest(".heat"))) document.querySelector(`.between a[rel=${rel}]`)?.click();
});

// A token's row of the table, said beside the heat map when it is pointed at or focused.
function describe(token) {
  const row = document.getElementById(`token-${token.dataset.token}`);
  const heads = [...row.closest("table").tHead.rows[0].cells];
  const list = document.createElement("dl");
  [...row.cells].forEach((cell, at) => {
    const [term, value] = [document.createElement("dt"), document.createElement("dd")];
    term.textContent = heads[at].textContent;
    value.append(...[...cell.childNodes].map((node) => node.cloneNode(true)));
    list.append(term, value);
  });
  document.getElementById("token-detail").replaceChildren(list);
}

document.querySelectorAll(".heat .token").forEach((token) => {
  token.addEventListener("mouseenter", () => describe(token));
  token.addEventListener("focus", () => describe(token));
});
