// Around what htmx does: an empty list for a new question, and a word while the peers think. The form works without.
"use strict";

function wait(on) {
  document.getElementById("waiting").hidden = !on;
  document.querySelector("#ask-form button").disabled = on;
}

document.addEventListener("htmx:before:request", () => {
  document.getElementById("stages").replaceChildren();
  wait(true);
});
document.addEventListener("htmx:sse:close", () => wait(false));
document.addEventListener("htmx:finally:request", () => wait(false));
document.addEventListener("htmx:error", () => wait(false));
