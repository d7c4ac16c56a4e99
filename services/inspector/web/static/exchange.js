// Keys of an exchange's page: the same links as the page has.
"use strict";

document.querySelectorAll(".keys").forEach((keys) => { keys.hidden = false; });
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input, select, textarea")) return;
  const rel = { j: "next", ArrowRight: "next", k: "prev", ArrowLeft: "prev" }[event.key];
  if (rel && !(event.key.startsWith("Arrow") && event.target.closest(".heat"))) document.querySelector(`.between a[rel=${rel}]`)?.click();
});
