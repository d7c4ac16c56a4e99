// Keys of an exchange's page: the same links as the page has.
"use strict";

let pressed = document.body; // where the pointer was last; arrows scroll that, too, though the focus is nowhere

// Whether arrows are for something else there: the tokens, or what is wider than its place.
function takesArrows(node) {
  if (node.closest(".heat")) return true;
  for (; node && node !== document.body; node = node.parentElement) {
    if (node.scrollWidth > node.clientWidth && ["auto", "scroll"].includes(getComputedStyle(node).overflowX)) return true;
  }
  return false;
}

document.querySelectorAll(".keys").forEach((keys) => { keys.hidden = false; });
document.addEventListener("pointerdown", (event) => { pressed = event.target; });
document.addEventListener("keydown", (event) => {
  const { target, key } = event;
  if (event.ctrlKey || event.metaKey || event.altKey || event.shiftKey || target.closest("input, select, textarea")) return;
  const rel = { j: "next", ArrowRight: "next", k: "prev", ArrowLeft: "prev" }[key];
  if (!rel || (key.startsWith("Arrow") && takesArrows(target === document.body ? pressed : target))) return;
  document.querySelector(`.between a[rel=${rel}]`)?.click();
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
